"""Ends a run whose output has disappeared, though its next row may be minutes away."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Final

from altogether_rt.errors import AltogetherError

__all__ = ["watched"]

#: Seconds between two looks.
_INTERVAL_S: Final = 1.0

#: Wakes the main thread, whatever it waits for; Ctrl-C keeps its own signal.
_WAKE: Final = signal.SIGUSR1


@contextmanager
def watched(check: Callable[[], None]) -> Iterator[None]:
    """Call `check` now and then in a thread, and raise its AltogetherError in the block.

    Only the main thread can be woken, and only if the program does not use SIGUSR1 itself; in any
    other case nothing is watched, and what writes rows must look for itself.
    """
    in_main = threading.current_thread() is threading.main_thread()
    if not in_main or signal.getsignal(_WAKE) is not signal.SIG_DFL:
        yield
        return
    found: list[AltogetherError] = []
    done = threading.Event()

    def wake(number: int, frame: FrameType | None) -> None:
        if found and not done.is_set():
            raise found[0]

    def watch() -> None:
        while not done.wait(_INTERVAL_S):
            try:
                check()
            except AltogetherError as error:
                found.append(error)
                signal.pthread_kill(threading.main_thread().ident or 0, _WAKE)
                return

    signal.signal(_WAKE, wake)
    thread = threading.Thread(target=watch, name="watch", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        signal.signal(_WAKE, signal.SIG_DFL)
