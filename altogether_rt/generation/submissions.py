"""Images that are handed in one at a time, by any number of threads, and captioned together."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeAlias

from altogether_rt.captions import Caption, CaptionRequest
from altogether_rt.errors import AltogetherError
from altogether_rt.generation.requests import RequestSource

__all__ = ["Submissions"]

#: Writes the captions of a source, each with the index of its request, in any order.
Write: TypeAlias = Callable[[RequestSource], Iterator[tuple[int, Caption]]]


class Submissions:
    """Images are read by a pool of threads; one more writes the captions of all that are ready.

    Each thread ends its work when nothing is left of it, so that a process that ends, which waits
    for the threads of executors, ends when every caption is written.
    """

    def __init__(self, write: Write, max_ready: int) -> None:
        """max_ready: images that are held read, until there is room to caption them."""
        self._write_captions, self._max_ready = write, max_ready
        self._changed = threading.Condition()
        self._ready: deque[tuple[CaptionRequest, Future[Caption]]] = deque()
        self._num_unread = 0
        self._dropping = False
        self._is_writing = False  # or about to
        self._writer: threading.Thread | None = None
        self._process = os.getpid()
        self._reading = ThreadPoolExecutor(thread_name_prefix="altogether-rt-read")
        self._writing = ThreadPoolExecutor(1, thread_name_prefix="altogether-rt-write")

    def submit(self, read: Callable[[], CaptionRequest]) -> Future[Caption]:
        """A caption to come, or what `read`, which is called in another thread, raises.

        Raises AltogetherError once this is closed, or the process is ending.
        """
        future: Future[Caption] = Future()
        with self._changed:
            try:
                self._reading.submit(self._read, read, future)
                self._num_unread += 1
                if not self._is_writing:
                    self._writing.submit(self._write_all)
                    self._is_writing = True
            except RuntimeError as error:
                raise AltogetherError(
                    "this captioner is closed, or the process is ending: submit before that."
                ) from error
        return future

    def close(self, *, drop: bool = False, wait: bool = True) -> None:
        """Take no more. drop: cancel what is not being written. wait: until every caption is
        written, unless this is called by what waits for one itself.
        """
        if os.getpid() != self._process:
            return  # the threads that would be waited for are not here
        with self._changed:
            self._dropping |= drop
        wait = wait and threading.current_thread() is not self._writer
        self._reading.shutdown(wait)
        self._writing.shutdown(wait)

    # -------------------------------------------------------------- in other threads

    def _read(self, read: Callable[[], CaptionRequest], future: Future[Caption]) -> None:
        with self._changed:
            self._changed.wait_for(lambda: len(self._ready) < self._max_ready)
        request = None
        try:
            if not self._dropping and not future.cancelled():
                request = read()
        except BaseException as error:  # whatever it is, it is for whoever waits
            _fail(future, error)
        with self._changed:
            self._num_unread -= 1
            if request is not None:
                self._ready.append((request, future))
            elif self._dropping:
                future.cancel()
            self._changed.notify_all()

    def _write_all(self) -> None:
        self._writer = threading.current_thread()
        while self._wait():
            taken = _Taken(self._take)
            try:
                for index, caption in self._write_captions(taken):
                    taken.pending.pop(index).set_result(caption)
            except BaseException as error:
                self._fail(taken, error)

    def _wait(self) -> bool:
        """Until a request is ready; false if none will be, and the writer is to end."""
        with self._changed:
            self._changed.wait_for(lambda: self._ready or not self._num_unread)
            self._is_writing = bool(self._ready)
            return self._is_writing

    def _take(self, max_requests: int, wait: bool, taken: _Taken) -> list[CaptionRequest] | None:
        requests: list[CaptionRequest] = []
        with self._changed:
            if wait:
                self._changed.wait_for(lambda: self._ready or not self._num_unread)
            while self._ready and len(requests) < max_requests:
                request, future = self._ready.popleft()
                if self._dropping:
                    future.cancel()
                if future.set_running_or_notify_cancel():
                    taken.pending[taken.num_taken] = future
                    taken.num_taken += 1
                    requests.append(request)
            self._changed.notify_all()
            is_last = not (requests or self._ready or self._num_unread or taken.pending)
        return None if is_last else requests

    def _fail(self, taken: _Taken, error: BaseException) -> None:
        """Those that were being written; where none could be begun, those that are ready."""
        failed = list(taken.pending.values())
        if not taken.num_taken:
            with self._changed:
                while self._ready:
                    _, future = self._ready.popleft()
                    _fail(future, error)
                self._changed.notify_all()
        for future in failed:
            future.set_exception(error)


class _Taken(RequestSource):
    """What one stream has taken of what is submitted; it ends once nothing is left to write."""

    def __init__(self, take: Callable[[int, bool, _Taken], list[CaptionRequest] | None]) -> None:
        self.pending: dict[int, Future[Caption]] = {}  # by the index of the request
        self.num_taken = 0
        self._take = take

    def take(self, max_requests: int, wait: bool) -> list[CaptionRequest] | None:
        return self._take(max_requests, wait, self)


def _fail(future: Future[Caption], error: BaseException) -> None:
    if future.set_running_or_notify_cancel():
        future.set_exception(error)
