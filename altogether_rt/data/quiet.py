"""Keeps Pillow's warnings about unusual files off the user's screen."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import logging
import threading
import warnings
from pathlib import Path
from types import TracebackType
from typing import ClassVar

__all__ = ["QuietPillow", "silence_libtiff"]

# A handler that does nothing keeps `logging` from printing Pillow's messages by default. An
# application that configures logging still receives them.
logging.getLogger("PIL").addHandler(logging.NullHandler())


@functools.cache
def silence_libtiff() -> bool:
    """Keep libtiff from printing what is wrong with a file to stderr, from now on in this process.

    Its handlers are global, so this is done once and is as good for every thread; what Pillow
    raises stays the same. Returns whether Pillow's libtiff was found.
    """
    with contextlib.suppress(OSError, AttributeError, ValueError):
        from PIL import _imaging  # noqa: F401  (loads it)

        maps = Path("/proc/self/maps").read_text("utf-8", "replace")
        paths = {line.split(maxsplit=5)[-1] for line in maps.splitlines() if "/libtiff" in line}
        for path in paths:
            library = ctypes.CDLL(path)
            for name in ("TIFFSetErrorHandler", "TIFFSetWarningHandler"):
                handler = getattr(library, name)
                handler.argtypes, handler.restype = [ctypes.c_void_p], ctypes.c_void_p
                handler(None)
        return bool(paths)
    return False


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
