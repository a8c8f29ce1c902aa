"""Streams of one runtime compute in turns, in whichever threads their callers are.

The slots of a runtime belong to one stream at a time. A stream keeps its turn while it computes and
gives it up while code of its caller runs: while it waits for requests, and once it has handed out a
caption. If another stream has computed meanwhile, its slots are overwritten, and it begins the
captions in them again: they are the same.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import os
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Self

from altogether_rt.captions import CaptionRequest
from altogether_rt.errors import AltogetherError
from altogether_rt.generation.requests import ListedRequests, RequestSource

__all__ = ["Turn", "Turns"]


#: How long the end of the process waits for a step.
_MAX_STEP_S = 10.0


class Turns:
    """The turns of all streams of one runtime, until it is closed."""

    def __init__(self, runtime: object = None) -> None:
        self.closed = False
        self._runtime = runtime
        self._ending = False  # the process
        self._process = os.getpid()
        self._lock = threading.Lock()
        self._thread: int | None = None  # that computes
        #: That computed, or opened the runtime. Not its number, which another one may get.
        self._last_thread = threading.current_thread()
        #: A GPU is current for a thread, and a runtime may have to make it so.
        self._use_here: Callable[[], None] = getattr(runtime, "use_here", lambda: None)
        self._last: object = None  # the mark of the turn whose sequences are in the slots
        self._free: Callable[[], None] | None = None  # called when the turn ends
        _KNOWN.add(self)

    def new(self) -> Turn:
        """For one stream."""
        return Turn(self)

    @property
    def held_here(self) -> bool:
        """Whether a stream of this thread computes: in a signal handler or a finalizer."""
        return self._thread == threading.get_ident()

    def check_open(self) -> None:
        """Raises AltogetherError if it was closed, or opened before this process was forked: the
        threads of its runtime are not in this one, and a step would wait for them.
        """
        if self.closed:
            raise AltogetherError("this captioner is closed: open another one.")
        if self._ending:
            raise AltogetherError("the process is ending: caption before that.")
        if os.getpid() != self._process:
            raise AltogetherError(
                "this captioner was opened before the process was forked, and cannot be used in "
                "the fork: open one in each process."
            )

    def close(self, free: Callable[[], None]) -> None:
        """Call `free` once no stream computes, and let none begin; only the first time."""
        if self.closed or self._ending:
            return
        self.closed = True
        if os.getpid() != self._process:
            return  # the threads that would be waited for are not here
        if self.held_here:
            self._free = free
            return
        with self._lock:
            self._enter_thread()
            free()

    def end(self) -> None:
        """Let nobody compute any more, since the process ends: a thread that comes back from a
        kernel then is unwound within it, and takes the process down.
        """
        if os.getpid() == self._process and not self._ending:
            self._ending = True
            self._last = None  # so that the stream that computes asks
            self._lock.acquire(timeout=_MAX_STEP_S)

    def keep(self) -> None:
        """Never free the runtime in this process, a fork, not even at its end: that would wait for
        threads that are not here.
        """
        if not self.closed:
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(self._runtime))

    def _stop_if_ending(self) -> None:
        if self._ending and threading.current_thread() is not threading.main_thread():
            threading.Event().wait()  # until the process has ended

    def _take(self) -> None:
        self._stop_if_ending()
        self.check_open()
        if self.held_here:
            raise AltogetherError(
                "this captioner is in use by the code that was interrupted: caption outside of "
                "signal handlers and finalizers."
            )
        self._lock.acquire()
        self._thread = threading.get_ident()
        try:
            self.check_open()
            self._enter_thread()
        except BaseException:
            self._give()
            raise

    def _enter_thread(self) -> None:
        thread = threading.current_thread()
        if thread is not self._last_thread:
            self._use_here()
            self._last_thread = thread

    def _give(self) -> None:
        free, self._free = self._free, None
        try:
            if free is not None:
                free()
        finally:
            self._thread = None
            self._lock.release()


_KNOWN: weakref.WeakSet[Turns] = weakref.WeakSet()


def _end_all() -> None:
    for turns in list(_KNOWN):
        turns.end()


def _keep_all() -> None:
    for turns in list(_KNOWN):
        turns.keep()


atexit.register(_end_all)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_keep_all)


class Turn:
    """One stream's: held within `with`, which may be nested. For one thread at a time."""

    def __init__(self, turns: Turns) -> None:
        self._turns = turns
        self._mark = object()  # not itself: a captioner that is dropped is freed at once
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
        return self._turns._last is self._mark

    def claim(self) -> None:
        """From here on the slots are written by this stream."""
        if self._turns._ending:
            with self.outside():
                self._turns._stop_if_ending()
        self._turns._last = self._mark

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
