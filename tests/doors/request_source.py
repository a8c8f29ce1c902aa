"""A stand-in for a server: requests that arrive over time, each answered as soon as it is done."""

from __future__ import annotations

import queue
from collections.abc import Iterator
from concurrent.futures import Future

from altogether_rt.captions import Answer
from altogether_rt.data.alts import Alts
from altogether_rt.data.sources.base import Sample, Source


class RequestSource(Source):
    """`ask` is called by the handlers of a server, `close` when it shuts down."""

    live = True

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[Sample | None] = queue.SimpleQueue()
        self._futures: dict[str, Future[Answer]] = {}

    def ask(self, image: bytes, *alts: str) -> Future[Answer]:
        key = f"request {len(self._futures)}"
        future = self._futures[key] = Future()
        self._queue.put(Sample(key, Alts(alts), image))
        return future

    def answer(self, key: str, alts: Alts, answer: Answer) -> None:
        self._futures[key].set_result(answer)

    def close(self) -> None:
        self._queue.put(None)

    @property
    def num_shards(self) -> int:
        return 1

    def part(self, rank: int, num_parts: int) -> RequestSource:
        raise NotImplementedError("a server's requests are not divided")

    def samples(self) -> Iterator[Sample]:
        while (sample := self._queue.get()) is not None:
            yield sample
