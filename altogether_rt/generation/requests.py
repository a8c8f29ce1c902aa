"""Where requests come from, and what is remembered of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Generic, TypeVar

from altogether_rt.captions import CaptionRequest

__all__ = ["ListedRequests", "Recent", "RequestSource"]

Key = TypeVar("Key")
Value = TypeVar("Value")


class RequestSource(ABC):
    """Requests that become ready one after another; captions go on while none is."""

    @abstractmethod
    def take(self, most: int, wait: bool) -> list[CaptionRequest] | None:
        """The next requests, `most` at most, that are ready; None if no more will come.

        wait: for one to be ready. Even then the list may be empty: ask again.
        """

    def __iter__(self) -> Iterator[CaptionRequest]:
        while (taken := self.take(1, wait=True)) is not None:
            yield from taken


class ListedRequests(RequestSource):
    """Requests of an iterable, each ready when it is drawn."""

    def __init__(self, requests: Iterable[CaptionRequest]) -> None:
        self._requests = iter(requests)

    def take(self, most: int, wait: bool) -> list[CaptionRequest] | None:
        return list(islice(self._requests, most)) or None


class Recent(Generic[Key, Value]):
    """The `most` values used last, by key."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._values: OrderedDict[Key, Value] = OrderedDict()

    def __len__(self) -> int:
        return len(self._values)

    def get(self, key: Key) -> Value | None:
        value = self._values.get(key)
        if value is not None:
            self._values.move_to_end(key)
        return value

    def put(self, key: Key, value: Value) -> None:
        self._values[key] = value
        self._values.move_to_end(key)
        if len(self._values) > self._most:
            self._values.popitem(last=False)
