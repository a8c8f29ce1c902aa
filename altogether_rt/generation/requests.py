"""Sources of requests, and a cache of recent results."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Generic, TypeVar

import numpy as np

from altogether_rt.captions import CaptionRequest
from altogether_rt.errors import AltogetherError

__all__ = ["ListedRequests", "Recent", "RequestSource", "as_source"]

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


def as_source(
    requests: Iterable[CaptionRequest], image_shape: tuple[int, int, int] | None
) -> RequestSource:
    """`requests`, whatever a caller gave, as a source. image_shape: of their pixels, if it is one.

    Raises AltogetherError, also when drawn from, for what is not a request or has other pixels.
    """
    if isinstance(requests, RequestSource):
        return requests
    if not isinstance(requests, Iterable):
        raise AltogetherError("requests must be a list or another iterable of requests.")
    return ListedRequests(_checked(requests, image_shape))


def _checked(
    requests: Iterable[object], image_shape: tuple[int, int, int] | None
) -> Iterator[CaptionRequest]:
    for request in requests:
        if not isinstance(request, CaptionRequest):
            raise AltogetherError(
                f"a value of type {type(request).__name__} is not a request: make requests with "
                "captioner.requests(images, alts), or give images to captioner.iter_captions."
            )
        pixels = request.pixels
        if pixels is not None and (
            pixels.dtype != np.uint8 or pixels.shape != (image_shape or pixels.shape)
        ):
            raise AltogetherError(
                f"the pixels of a request are {pixels.dtype} of shape {pixels.shape}: make "
                "requests with captioner.requests(images, alts)."
            )
        yield request


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
