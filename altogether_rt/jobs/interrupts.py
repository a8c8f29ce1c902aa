"""Ctrl-C while processes are started."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker

__all__ = ["sigint_blocked"]


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
