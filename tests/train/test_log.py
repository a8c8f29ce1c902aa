"""What a training says of itself while it takes long."""

from __future__ import annotations

import importlib.util
import json
import os
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


def test_a_row_with_a_line_separator_in_it_is_one_row(tmp_path: Path) -> None:
    with TrainLog(tmp_path, lambda _: None) as log:
        for step in (2, 4):
            log.sample("finetune", step, "one\u2028two\u0085three")
        log.rewind("finetune", 3)
    (row,) = (tmp_path / "metrics.jsonl").read_bytes().decode().rstrip("\n").split("\n")
    assert json.loads(row) == {"task": "finetune", "step": 2, "sample": "one\u2028two\u0085three"}


def test_what_utf8_cannot_hold_is_logged_as_json_has_it(tmp_path: Path) -> None:
    folder, said = tmp_path / os.fsdecode(b"\xff"), list[str]()
    with TrainLog(folder, said.append) as log:
        log.sample("finetune", 2, "ü \ud800")
    assert json.loads((folder / "metrics.jsonl").read_text("utf-8"))["sample"] == "ü \ud800"
    if importlib.util.find_spec("tensorboard"):
        assert said[0].startswith("nothing is written for TensorBoard")


def test_figures_are_drawn_by_tensorboard(tmp_path: Path) -> None:
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    with TrainLog(tmp_path, lambda _: None) as log:
        log.progress("finetune", 3, 9, {"loss": 2.5, "samples_per_s": 4.0, "eta_s": 6.0})
        log.held_out("finetune", 4, {"loss": 1.5, "cider_d": 0.25})
    board = reader.EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    drawn = {
        tag: [(e.step, e.value) for e in board.Scalars(tag)] for tag in board.Tags()["scalars"]
    }
    assert drawn == {
        "finetune/loss": [(3, 2.5)],
        "finetune/samples_per_s": [(3, 4.0)],
        "finetune/eta_s": [(3, 6.0)],
        "finetune/held_out_loss": [(4, 1.5)],
        "finetune/held_out_cider_d": [(4, 0.25)],
    }
