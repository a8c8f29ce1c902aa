"""What goes in is counted, and every observer sees it; none of them can end the run."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from altogether_rt.captions import Caption
from altogether_rt.errors import ImageError
from altogether_rt.monitoring.base import Level, Observer, Observers
from altogether_rt.monitoring.monitor import RunMonitor
from altogether_rt.monitoring.state import RunState

pytestmark = pytest.mark.lean

CAPTION = Caption("a boat", "eos", 3, False, 7)


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Seen(Observer):
    interval_s = 10.0

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.states: list[RunState] = []
        self.events: list[tuple[str, str, str, dict[str, Any]]] = []

    def start(self, state: RunState) -> None:
        self.calls.append("start")

    def update(self, state: RunState) -> None:
        self.calls.append("update")
        self.states.append(state)

    def event(self, level: Level, name: str, message: str, fields: dict[str, Any]) -> None:
        self.events.append((level, name, message, fields))

    def finish(self, state: RunState) -> None:
        self.calls.append("finish")
        self.states.append(state)


def test_answers_are_counted_and_the_first_errors_of_a_class_kept() -> None:
    seen, clock = Seen(), Clock()
    with RunMonitor("images", Observers([seen]), clock=clock) as monitor:
        monitor.start(10)
        drawn = monitor.drawn(range(10))
        for _ in range(8):
            next(drawn)
        monitor.answered("a.png", CAPTION)
        for number in range(5):
            name = f"{number}.png"
            monitor.answered(name, ImageError("damaged", f"{name} has broken pixels."))
        monitor.answered("sub/e.png", ImageError("empty", "e.png is empty."))
        clock.now += 14
        state = monitor.state()
    assert (state.done, state.captioned, state.tokens, state.queue_depth) == (7, 1, 3, 1)
    assert state.errors == {"damaged": 5, "empty": 1}
    assert state.error_examples == {
        "damaged": [f"{number}.png has broken pixels." for number in range(3)],
        "empty": ["sub/e.png: e.png is empty."],
    }
    assert (state.rate, state.seconds_left) == (0.5, 6.0)
    told = [(name, fields["class"], fields["key"]) for _, name, _, fields in seen.events]
    assert told == [
        *[("image_error", "damaged", f"{number}.png") for number in range(3)],
        ("image_error", "empty", "sub/e.png"),
    ]


def test_counts_of_another_process_are_added() -> None:
    monitor = RunMonitor("images")
    monitor.start(100)
    monitor.add(captioned=5, tokens=60, errors=[("empty", "k1", "k1 is empty.")])
    monitor.add(captioned=2, tokens=20)
    monitor.queue(17)
    monitor.restarted("worker 2 was killed")
    state = monitor.state()
    assert (state.done, state.captioned, state.tokens) == (8, 7, 80)
    assert (state.queue_depth, state.restarts, state.errors) == (17, 1, {"empty": 1})


def test_an_observer_is_shown_the_state_at_its_interval() -> None:
    seen, clock = Seen(), Clock()
    with RunMonitor("images", Observers([seen]), total=4, clock=clock) as monitor:
        monitor.advance(1, "a loss")
        monitor.show()
        clock.now += 9.9
        monitor.show()
        assert seen.calls == ["start"]
        clock.now += 0.2
        monitor.show()
        monitor.show()
        assert seen.calls == ["start", "update"]
        assert seen.states[0].note == "a loss"
        monitor.advance(3)
    assert seen.calls == ["start", "update", "finish"]
    assert seen.states[-1].done == 4


def test_a_run_in_which_nothing_happens_is_shown_too() -> None:
    shown = threading.Event()

    class Quick(Observer):
        interval_s = 0.01

        def update(self, state: RunState) -> None:
            shown.set()

    with RunMonitor("images", Observers([Quick()])):
        assert shown.wait(30)


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), ValueError("closed")])
def test_an_observer_that_fails_is_left_out_and_the_run_goes_on(error: Exception) -> None:
    class Full(Seen):
        def update(self, state: RunState) -> None:
            super().update(state)
            raise error

    full, seen, clock = Full(), Seen(), Clock()
    with RunMonitor("images", Observers([full, seen]), clock=clock) as monitor:
        for _ in range(3):
            clock.now += 11
            monitor.show()
    assert full.calls == ["start", "update"]
    assert seen.calls == ["start", "update", "update", "update", "finish"]


def test_threads_may_answer_at_the_same_time() -> None:
    seen = Seen()
    monitor = RunMonitor("images", Observers([seen]))

    def answer(name: str) -> None:
        for number in range(500):
            monitor.answered(f"{name}{number}", ImageError(name, "is broken"))
            monitor.answered(name, CAPTION)

    threads = [threading.Thread(target=answer, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    state = monitor.state()
    assert (state.done, state.captioned, state.tokens) == (4000, 2000, 6000)
    assert state.errors == dict.fromkeys("abcd", 500)
    assert len(seen.events) == 4 * 3
