"""Streams of one runtime compute in turns, in whichever threads their callers are.

The slots of a runtime belong to one stream at a time. A stream keeps its turn while it computes and
gives it up while code of its caller runs: while it waits for requests, and once it has handed out a
caption. If another stream has computed meanwhile, its slots are overwritten, and it begins the
captions in them again: they are the same.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from typing import Self

from altogether_rt.captions import CaptionRequest
from altogether_rt.errors import AltogetherError
from altogether_rt.generation.requests import ListedRequests, RequestSource

__all__ = ["Turn", "Turns"]


class Turns:
    """The turns of all streams of one runtime, until it is closed."""

    def __init__(self) -> None:
        self.closed = False
        self._process = os.getpid()
        self._lock = threading.Lock()
        self._thread: int | None = None  # that computes
        self._last: Turn | None = None  # whose sequences are in the slots
        self._free: Callable[[], None] | None = None  # called when the turn ends

    def new(self) -> Turn:
        """For one stream."""
        return Turn(self)

    def check_open(self) -> None:
        """Raises AltogetherError if it was closed, or opened before this process was forked: the
        threads of its runtime are not in this one, and a step would wait for them.
        """
        if self.closed:
            raise AltogetherError("this captioner is closed: open another one.")
        if os.getpid() != self._process:
            raise AltogetherError(
                "this captioner was opened before the process was forked, and cannot be used in "
                "the fork: open one in each process."
            )

    def close(self, free: Callable[[], None]) -> None:
        """Call `free` once no stream computes, and let none begin; only the first time."""
        if self.closed:
            return
        self.closed = True
        if os.getpid() != self._process:
            return  # the threads that would be waited for are not here
        if self._thread == threading.get_ident():  # in a signal handler
            self._free = free
            return
        with self._lock:
            free()

    def _take(self) -> None:
        self.check_open()
        if self._thread == threading.get_ident():
            raise AltogetherError(
                "this captioner is in use by the code that was interrupted: caption outside of "
                "signal handlers and finalizers."
            )
        self._lock.acquire()
        self._thread = threading.get_ident()
        try:
            self.check_open()
        except AltogetherError:
            self._give()
            raise

    def _give(self) -> None:
        free, self._free = self._free, None
        try:
            if free is not None:
                free()
        finally:
            self._thread = None
            self._lock.release()


class Turn:
    """One stream's: held within `with`, which may be nested. For one thread at a time."""

    def __init__(self, turns: Turns) -> None:
        self._turns = turns
        self._depth = 0
        self._held = False  # the lock

    def __enter__(self) -> Self:
        """Waits until no other stream computes."""
        if self._depth == 0:
            self._turns._take()
            self._held = True
        self._depth += 1
        return self

    def __exit__(self, *_: object) -> None:
        self._depth -= 1
        if self._depth == 0:
            self._give()

    @property
    def undisturbed(self) -> bool:
        """Whether nobody else has written to the slots since `claim`."""
        return self._turns._last is self

    def claim(self) -> None:
        """From here on the slots are written by this stream."""
        self._turns._last = self

    def drawing(self, source: RequestSource) -> RequestSource:
        """`source`, whose requests are waited for without the turn."""
        return _DrawnOutside(source, self)

    @contextlib.contextmanager
    def outside(self) -> Iterator[None]:
        """Others may compute meanwhile."""
        held, depth = self._held, self._depth
        self._give()
        try:
            yield
        finally:
            self._depth = depth
            if held:
                self._turns._take()
                self._held = True

    def _give(self) -> None:
        if self._held:  # not if waiting for it was interrupted
            self._held = False
            self._turns._give()


class _DrawnOutside(RequestSource):
    def __init__(self, source: RequestSource, turn: Turn) -> None:
        self._source, self._turn = source, turn

    def take(self, max_requests: int, wait: bool) -> list[CaptionRequest] | None:
        """A list's requests may take any time; another source's only where it is to wait.

        Otherwise a stream that asks before each step would lose its turn, and its captions, there.
        """
        if not wait and not isinstance(self._source, ListedRequests):
            return self._source.take(max_requests, wait)
        with self._turn.outside():
            return self._source.take(max_requests, wait)
