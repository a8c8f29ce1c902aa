"""The study of mixtures, on sizes that show its logic and nothing else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs the extra train")

import mixing
from studies.held_out import CLASSES, recall, right_classes
from studies.mixing_report import to_markdown, to_svg, verdict
from studies.record import RunStore, estimate

from altogether_rt.errors import AltogetherError

TINY = ["--seeds", "2", "--ratio", "0", "--ratio", "0.5", "--scenes", "12", "--held-out", "6"]
TINY += ["--steps", "2", "--batch-size", "4"]


def run(folder: Path, *more: str) -> dict[str, Any]:
    out = folder / "out.json"
    mixing.main(["--work", str(folder / "work"), "--out", str(out), *TINY, *more])
    result: dict[str, Any] = json.loads(out.read_text("utf-8"))
    return result


@pytest.mark.parametrize("tower", ["locked", "scratch"])
def test_every_ratio_and_seed_is_trained_and_written(tmp_path: Path, tower: str) -> None:
    result = run(tmp_path, "--image-tower", tower)
    pairs = [(one["seed"], one["ratio"]) for one in result["runs"]]
    assert pairs == [(0, 0.0), (0, 0.5), (1, 0.0), (1, 0.5)]
    for one in result["runs"]:
        assert all(0 <= one[key] <= 1 for key in ("zero_shot", "image_to_caption_r5"))
        assert (one["captions"] == 0) == (one["ratio"] == 0)
    page = (tmp_path / "out.md").read_text("utf-8")
    assert "| 50 % |" in page
    ElementTree.fromstring((tmp_path / "out.svg").read_text("utf-8"))


def test_a_finished_run_is_not_done_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = run(tmp_path)

    def fail(*_: object, **__: object) -> None:
        raise AssertionError("trains again")

    monkeypatch.setattr(mixing, "minimize", fail)
    assert run(tmp_path)["runs"] == before["runs"]
    with pytest.raises(AltogetherError, match="other settings"):
        run(tmp_path, "--steps", "3")


def test_recall_counts_equal_texts_as_equal() -> None:
    similarity = np.array([[0.1, 0.9, 0.5], [0.8, 0.7, 0.9], [0.3, 0.2, 0.1]], np.float32)
    # Row 0: column 1 is first, 2 second. Row 1: 2, 0. Row 2: 0, 1.
    assert recall(similarity, ["a", "b", "c"], 1) == 0
    assert recall(similarity, ["a", "b", "c"], 3) == 1
    assert recall(similarity, ["a", "a", "c"], 1) == pytest.approx(1 / 3)
    assert recall(similarity, ["a", "a", "c"], 2) == pytest.approx(2 / 3)


def test_a_class_is_right_whole_or_in_part() -> None:
    truth = np.array([CLASSES.index(("boat", "red"))] * 3)
    found = [("boat", "red"), ("boat", "blue"), ("car", "red")]
    similarity = np.zeros((3, len(CLASSES)), np.float32)
    for row, name in enumerate(found):
        similarity[row, CLASSES.index(name)] = 1
    shares = right_classes(similarity, truth)
    assert shares == pytest.approx((1 / 3, 2 / 3, 2 / 3))


def test_interval_is_students() -> None:
    """Mean 0.5, standard deviation 0.1, 0.1 / √3 · 4.303 = 0.248 (t tables, 2 degrees)."""
    found = estimate([0.4, 0.5, 0.6])
    assert (found.mean, found.low, found.high) == pytest.approx((0.5, 0.2516, 0.7484), abs=1e-4)
    assert np.isnan(estimate([0.4]).low)


def made_up(shape: dict[float, float]) -> list[dict[str, Any]]:
    """Runs of three seeds, each a little apart from the others in the same way."""
    figures = ("zero_shot_kind", "zero_shot_colour", "image_to_caption_r1", "image_to_caption_r5",
               "caption_to_image_r1", "caption_to_image_r5", "image_to_alt_r5",
               "alt_to_image_r5")  # fmt: skip
    return [
        {"ratio": ratio, "seed": seed, "cpu_s": 60.0, "zero_shot": value + jitter * (1 + ratio)}
        | dict.fromkeys(figures, 0.5)
        for ratio, value in shape.items()
        for seed, jitter in enumerate((0.0, 0.01, 0.02))
    ]


@pytest.mark.parametrize(
    ("shape", "words", "papers"),
    [
        (
            {0.0: 0.3, 0.15: 0.6, 0.5: 0.7, 1.0: 0.4},
            "best share is 50 %, which is better than",
            True,
        ),
        ({0.0: 0.3, 0.15: 0.7, 0.5: 0.6, 1.0: 0.4}, "best share is 15 %, which is better", True),
        ({0.0: 0.3, 0.15: 0.5, 0.5: 0.6, 1.0: 0.9}, "best share is 100 %", False),
        ({0.0: 0.6, 0.15: 0.5, 0.5: 0.4, 1.0: 0.3}, "are worse than none", False),
        ({0.0: 0.5, 0.15: 0.5, 0.5: 0.5, 1.0: 0.2}, "and none cannot be told apart", False),
    ],
)
def test_verdict_follows_the_figures(shape: dict[float, float], words: str, papers: bool) -> None:
    runs = made_up(shape)
    if "told apart" in words:  # a seed that turns the other way
        runs[0]["zero_shot"] += 0.1
    text = verdict(runs)
    assert words in text
    assert ("This is the paper's shape" in text) == papers
    assert ("the best share is a larger one" in text) == (papers and "15 %, which" not in words)


def test_one_seed_is_no_verdict() -> None:
    runs = [run for run in made_up({0.0: 0.1, 0.15: 0.2, 1.0: 0.1}) if run["seed"] == 0]
    assert verdict(runs) == "Too few runs for a verdict."


def test_a_page_names_command_machine_and_date() -> None:
    result = {
        "command": "python benchmarks/mixing.py",
        "machine": {"date": "2026-01-02", "processor": "A Processor"},
        "versions": {"torch": "2.9"},
        "settings": mixing.Study().settings() | {"scenes_with_alt_text": 90},
        "runs": made_up({0.0: 0.1, 0.15: 0.2, 1.0: 0.15}),
    }
    for text in (to_markdown(result), to_svg(result)):
        for part in ("python benchmarks/mixing.py", "2026-01-02", "A Processor", "torch 2.9"):
            assert part in text


def test_a_run_is_kept_whole(tmp_path: Path) -> None:
    store = RunStore(tmp_path, {"steps": 1})
    assert store.get("a") is None
    store.put("a", {"x": 1})
    assert RunStore(tmp_path, {"steps": 1}).get("a") == {"x": 1}
