"""Keeps Pillow's warnings about unusual files off the user's screen."""

from __future__ import annotations

import logging
import threading
import warnings
from types import TracebackType
from typing import ClassVar

__all__ = ["QuietPillow"]

# A handler that does nothing keeps `logging` from printing Pillow's messages by default. An
# application that configures logging still receives them.
logging.getLogger("PIL").addHandler(logging.NullHandler())


class QuietPillow:
    """Hides warnings while any thread is inside: `warnings.catch_warnings` for several threads.

    The filters of `warnings` are global to the process, so concurrent threads must share one change
    of them: the first thread to enter makes it and the last one to leave reverts it.
    """

    _lock: ClassVar[threading.Lock] = threading.Lock()
    _inside: ClassVar[int] = 0
    _catcher: ClassVar[warnings.catch_warnings[None] | None] = None

    def __enter__(self) -> None:
        cls = QuietPillow
        with cls._lock:
            if cls._inside == 0:
                cls._catcher = warnings.catch_warnings()
                cls._catcher.__enter__()
                for category in (UserWarning, RuntimeWarning):
                    warnings.simplefilter("ignore", category)
            cls._inside += 1

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        cls = QuietPillow
        with cls._lock:
            cls._inside -= 1
            if cls._inside == 0 and cls._catcher is not None:
                cls._catcher.__exit__(None, None, None)
                cls._catcher = None
