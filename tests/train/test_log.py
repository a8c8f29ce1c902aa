"""What a training says of itself while it takes long."""

from __future__ import annotations

from pathlib import Path

import pytest

from altogether_rt.train.log import Countdown, TrainLog


def test_images_are_counted_down_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    """600 of 1,000 images were done before; 100 more took 50 seconds, so 300 will take 150."""
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    said: list[str] = []
    countdown = Countdown(said.append, "embedded", 1000, 600)
    countdown.advance(650)  # too early to say anything
    now[0] = 50.0
    countdown.advance(700)
    countdown.advance(701)
    assert said == ["embedded 700 of 1,000 images  0:02:30 left"]


@pytest.mark.parametrize(("per_s", "shown"), [(0.4321, "0.43"), (9.96, "10"), (123.4, "123")])
def test_slow_training_has_a_rate(tmp_path: Path, per_s: float, shown: str) -> None:
    said: list[str] = []
    with TrainLog(tmp_path, said.append) as log:
        log.progress("finetune", 10, 200, {"loss": 1.0, "samples_per_s": per_s, "eta_s": 60.0})
        log.first_step("finetune", 0.5, 199)
        log.first_step("finetune", 12.2, 199)
    assert said[0].endswith(f" {shown} samples/s  0:01:00 left")
    assert said[1:] == ["finetune: the first step took 12 s, about 0:40:28 left"]
