"""Ctrl-C during a step: the step is finished first, so that its result can be saved."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import current_thread, main_thread
from typing import Any

from altogether_rt.errors import Terminated

__all__ = ["interrupts_noticed"]


@contextmanager
def interrupts_noticed(
    tell: Callable[[], None],
) -> Iterator[Callable[[], type[KeyboardInterrupt] | None]]:
    """Yield what to raise once Ctrl-C or SIGTERM, which schedulers send, has come in the block.

    The first one only calls `tell`, in the handler of the signal; the block is to end soon. A
    second one raises KeyboardInterrupt or Terminated at once, and so does the end of the block if
    nothing has been raised by then. In a thread, and where signals are ignored or handled by
    somebody else, nothing changes.
    """
    came: list[type[KeyboardInterrupt]] = []

    def notice(number: int, _: Any) -> None:
        came.append(Terminated if number == signal.SIGTERM else KeyboardInterrupt)
        if len(came) > 1:
            raise came[-1]
        tell()

    former = {} if current_thread() is not main_thread() else _replaceable()
    for number in former:
        signal.signal(number, notice)
    try:
        yield lambda: came[0] if came else None
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)
    if came:
        raise came[0]


def _replaceable() -> dict[signal.Signals, Any]:
    """Signals that end the process, with their handlers."""
    usual = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
    return {number: usual[number] for number in usual if signal.getsignal(number) == usual[number]}
