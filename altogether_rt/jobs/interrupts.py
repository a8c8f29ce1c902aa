"""Ctrl-C while processes are started, and SIGTERM as another Ctrl-C."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker
from types import FrameType

from altogether_rt.errors import Terminated

__all__ = ["sigint_blocked", "sigterm_interrupts"]


@contextmanager
def sigterm_interrupts() -> Iterator[None]:
    """SIGTERM ends the block like Ctrl-C, as Terminated, rather than the process on the spot.

    Left alone, it would leave fetched shards on the disk and a log without an end, and the first
    process of a container would not notice it at all.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []

    def interrupt(number: int, frame: FrameType | None) -> None:
        came.append(number)
        if not callable(signal.getsignal(signal.SIGINT)):  # ignored, as in a shell's background
            raise KeyboardInterrupt
        signal.raise_signal(signal.SIGINT)  # which may be put off just now

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    except KeyboardInterrupt as error:
        raise Terminated(*error.args) if came else error from None
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def sigint_blocked() -> Iterator[None]:
    """What is started meanwhile never sees Ctrl-C; for this process it is only put off."""
    resource_tracker.ensure_running()  # which would unblock it if the first worker started it
    with _interrupt_put_off():
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            yield
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _interrupt_put_off() -> Iterator[None]:
    """Raise what Ctrl-C raises at the end of the block.

    The mask is that of one thread, and the system gives the signal to any other one that a library
    has started: Python then interrupts the main thread all the same, and a worker that was given
    only half of what it starts with prints a traceback.
    """
    handler = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(handler):
        yield
        return
    came: list[int] = []
    signal.signal(signal.SIGINT, lambda number, _: came.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
        if came:
            signal.raise_signal(signal.SIGINT)
