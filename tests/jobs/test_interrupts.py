"""Ctrl-C while processes are started."""

from __future__ import annotations

import signal
import threading
import time

import pytest

from altogether_rt.jobs.interrupts import sigint_blocked

pytestmark = pytest.mark.lean


def start_something(other: threading.Thread, steps: list[str]) -> None:
    with sigint_blocked():
        assert other.ident is not None
        signal.pthread_kill(other.ident, signal.SIGINT)
        time.sleep(0.05)
        steps.append("whole")


def test_a_signal_that_another_thread_gets_is_put_off_too() -> None:
    """Libraries start threads, whose masks block nothing: the system may give it to any of them."""
    done, steps = threading.Event(), list[str]()
    thread = threading.Thread(target=done.wait)
    thread.start()
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            start_something(thread, steps)
        assert steps == ["whole"]
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)
        done.set()
        thread.join()


def test_a_handler_of_the_caller_is_told_afterwards() -> None:
    told: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, _: told.append(number))
    try:
        with sigint_blocked():
            signal.raise_signal(signal.SIGINT)
            assert told == []
        assert told == [signal.SIGINT]
    finally:
        signal.signal(signal.SIGINT, before)


def test_in_another_thread_only_the_mask_is_set() -> None:
    failed: list[BaseException] = []

    def run() -> None:
        try:
            with sigint_blocked():
                pass
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert failed == []
