"""The long run of the fine-tuning miniature: what is done is kept, and the table is of its data."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="needs the extra train")
pytest.importorskip("gguf", reason="needs the package gguf")

from benchmarks.finetuning.pipeline import FULL, REHEARSAL, Miniature, plan
from benchmarks.finetuning.report import document, training_note
from benchmarks.finetuning.stages import Stages, clock


def test_a_stage_is_done_once_and_is_whole_or_absent(tmp_path: Path) -> None:
    made: list[str] = []

    def write(folder: Path) -> None:
        folder.mkdir()
        made.append(folder.name)
        if len(made) == 1:
            raise KeyboardInterrupt  # as a kill would: the folder has only a part
        (folder / "all").touch()

    path = tmp_path / "drawn"
    with pytest.raises(KeyboardInterrupt):
        Stages(tmp_path, {"draw": 1.0}).folder("draw", path, write)
    assert not path.exists()
    for _ in range(2):
        Stages(tmp_path, {"draw": 1.0}).folder("draw", path, write)
    assert len(made) == 2
    assert [file.name for file in path.iterdir()] == ["all"]
    assert Stages(tmp_path, {"draw": 1.0}).history().keys() == {"draw"}


def test_data_of_a_stage_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "found.json"
    assert Stages(tmp_path, {"find": 1.0}).data("find", path, lambda: {"é": 1}) == {"é": 1}
    assert Stages(tmp_path, {"find": 1.0}).data("find", path, lambda: 0 / 0) == {"é": 1}


def test_what_is_left_follows_the_pace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The first stage of 2 planned minutes takes 6: 30 planned minutes more will take 90."""
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    stages = Stages(tmp_path, {"a": 2.0, "b": 10.0, "c": 20.0})

    def take_six() -> None:
        now[0] += 360
        (tmp_path / "a").touch()

    stages.do("a", tmp_path / "a", take_six)
    stages.do("b", tmp_path / "b", (tmp_path / "b").touch)
    told = capsys.readouterr().out
    assert "[1/3] a …  about 0:32:00 left in all" in told
    assert "[2/3] b …  about 1:30:00 left in all" in told
    assert stages.history()["a"]["minutes"] == 6


def test_results_of_other_sizes_have_other_names(tmp_path: Path) -> None:
    """What a rehearsal wrote is not taken for what the whole run would have written."""
    assert plan(FULL).keys() == plan(REHEARSAL).keys()
    small = Miniature(tmp_path, REHEARSAL, 1, None)
    assert len(small.samples()) == REHEARSAL.test_scenes
    assert "--steps 4" in small.options


def test_a_resumed_training_is_counted_once(tmp_path: Path) -> None:
    about = {"recipe": {"finetune": {"optimization": {"batch_size": 8, "num_steps": 20}}}}
    (tmp_path / "checkpoint.json").write_text(json.dumps(about))
    rows: list[dict[str, Any]] = [
        {"step": 10, "loss": 2.0, "samples_per_s": 1.0},
        {"step": 10, "loss": 2.0, "samples_per_s": 2.0},  # after a kill: the one that counts
        {"step": 20, "loss": 1.0, "samples_per_s": 4.0},
        {"step": 20, "sample": "[a cup] -> A cup."},
    ]
    (tmp_path / "metrics.jsonl").write_text("\n".join(map(json.dumps, rows)))
    note = training_note(tmp_path, tmp_path)
    assert note["samples"] == 160
    assert note["minutes"] == pytest.approx((80 / 2 + 80 / 4) / 60, abs=0.05)
    assert (note["first_loss"], note["last_loss"]) == (2.0, 1.0)


def test_the_document_has_every_figure() -> None:
    scores = {
        "visual_facts_right": 96.8,
        "names_kept": 98.8,
        "wrong_corrected": None,
        "invented_with_empty_alt": 0.0,
        "invented": 1.5,
        "names": 80,
        "wrong_facts": 0,
        "empty_alts": 4,
    }
    speed = {"image_s": 0.31, "peak_memory_bytes": 0.5e9, "load_average": 2.1}
    part = {"kl": 0.0123, "greedy": 0.95}
    text = document(
        {
            "decoder": "A decoder",
            "scenes": 8,
            "threads": 2,
            "command": "python this.py",
            "machine": {"versions": {"torch": "2"}, "date": "2026-01-02", "processor": "P",
                        "features": ["AVX2"]},
            "training": {"command": "train", "steps": 4, "samples": 32, "minutes": 1.6,
                         "first_loss": 2.5, "last_loss": 0.0211},
            "connector": {"scenes": 4000, "steps": 300},
            "captioners": {"fine-tuned": {"scores": scores, "examples": ["A cup."]}},
            "bundles": {
                "fine-tuned": {"bytes": 5.4e8, "images_per_s": 3.21, "speed": speed},
                "fine-tuned, cpu-int8": {"bytes": 1.6e8, "images_per_s": 9.87, "speed": speed,
                                         "parity": {"prefill": part, "step": part}},
            },
            "stages": {"decoder": {"minutes": 0.5, "load": 2.0}},
        }
    )  # fmt: skip
    for wanted in (
        "| fine-tuned | 96.8 % | 98.8 % | – | 0.0 % | 1.5 % |",
        "| fine-tuned | 540 MB | – | – | – | 0.31 s | 3.2 | 0.50 GB | 2.1 |",
        "| fine-tuned, cpu-int8 | 160 MB | 0.0123 | 0.0123 | 95.0 % | 0.31 s | 9.9 |",
        "1.2 percent, nothing and 25.0 percent",
        "| all | 0.5 | |",
        "- fine-tuned: 'A cup.'",
    ):
        assert wanted in text
    assert clock(3725) == "1:02:05"
