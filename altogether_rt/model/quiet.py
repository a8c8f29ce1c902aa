"""Keeps the warnings of libraries that are called in a block off the user's screen."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["quiet_logging"]


@contextmanager
def quiet_logging(level: int = logging.WARNING) -> Iterator[None]:
    """Drop what the calling thread logs in the block, up to `level`; other threads still log."""
    thread = threading.get_ident()

    def passes(record: logging.LogRecord) -> bool:
        return record.thread != thread or record.levelno > level

    # The root logger's filters see what is logged with it (`logging.warning`), and those of the
    # handlers what comes from loggers with names.
    last_resort = [] if logging.lastResort is None else [logging.lastResort]
    filtered: list[logging.Filterer] = [logging.root, *logging.root.handlers, *last_resort]
    for filterer in filtered:
        filterer.addFilter(passes)
    try:
        yield
    finally:
        for filterer in filtered:
            filterer.removeFilter(passes)
