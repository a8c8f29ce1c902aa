"""Sources of requests, and a cache of recent results."""

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
    """Requests that become ready one by one; generation continues while none is ready."""

    @abstractmethod
    def take(self, max_requests: int, wait: bool) -> list[CaptionRequest] | None:
        """The next requests that are ready, at most `max_requests`; None if no more will come.

        wait: whether to wait until one is ready. The list may be empty even then: ask again.
        """

    def __iter__(self) -> Iterator[CaptionRequest]:
        while (taken := self.take(1, wait=True)) is not None:
            yield from taken


class ListedRequests(RequestSource):
    """Requests of an iterable, which are always ready."""

    def __init__(self, requests: Iterable[CaptionRequest]) -> None:
        self._requests = iter(requests)

    def take(self, max_requests: int, wait: bool) -> list[CaptionRequest] | None:
        return list(islice(self._requests, max_requests)) or None


class Recent(Generic[Key, Value]):
    """The `max_size` most recently used values, by key."""

    def __init__(self, max_size: int) -> None:
        self._max_size = max_size
        self._values: OrderedDict[Key, Value] = OrderedDict()

    def __len__(self) -> int:
        return len(self._values)

    def get(self, key: Key) -> Value | None:
        """The value of `key`, which becomes the most recently used one; None if it is not held."""
        value = self._values.get(key)
        if value is not None:
            self._values.move_to_end(key)
        return value

    def put(self, key: Key, value: Value) -> None:
        """Hold `value`; drops the least recently used one if there are too many."""
        self._values[key] = value
        self._values.move_to_end(key)
        if len(self._values) > self._max_size:
            self._values.popitem(last=False)
