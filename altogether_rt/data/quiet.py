"""Keeps Pillow's remarks about odd files off the user's screen."""

from __future__ import annotations

import logging
import threading
import warnings
from types import TracebackType
from typing import ClassVar

__all__ = ["QuietPillow"]

# A handler that does nothing keeps `logging` from printing Pillow's messages by default; an
# application that configures logging still gets them.
logging.getLogger("PIL").addHandler(logging.NullHandler())


class QuietPillow:
    """While any thread is inside, warnings are not shown; `warnings.catch_warnings` for threads.

    The filters of `warnings` belong to the whole process, so threads that come and go must share
    one change of them: the first in makes it, the last out takes it back.
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
