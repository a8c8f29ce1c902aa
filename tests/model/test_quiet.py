"""Warnings of one thread are dropped; those of others, and errors, are not."""

from __future__ import annotations

import logging
import threading

import pytest

from altogether_rt.model.quiet import quiet_logging


def test_only_this_threads_warnings_are_dropped(caplog: pytest.LogCaptureFixture) -> None:
    logger = logging.getLogger("some.library")
    with quiet_logging():
        logging.warning("root warning")
        logger.warning("named warning")
        logger.error("error")
        other = threading.Thread(target=logger.warning, args=("of another thread",))
        other.start()
        other.join()
    logging.warning("afterwards")
    assert caplog.messages == ["error", "of another thread", "afterwards"]
    assert logging.root.manager.disable == logging.NOTSET
