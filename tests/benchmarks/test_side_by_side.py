"""The study of benchmarks/side_by_side.py on a few scenes: every command of it, over HTTP."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from side_by_side import judge, study


@pytest.mark.slow
def test_captions_written_with_the_alt_text_keep_more_names(tmp_path: Path) -> None:
    plot = tmp_path / "plot.svg"
    shown, data = study(tmp_path / "work", 30, 5, plot)
    assert "with-alt against without-alt" in shown
    assert plot.read_text("utf-8").startswith("<svg")
    (pair,) = data["pairs"]
    names = pair["questions"]["named-entities"]
    assert names["images"] == 30
    assert names["interval"][0] > 0.5
    assert [(a["answered"], a["name"]) for a in data["annotators"]] == [
        (a["tasks"], name) for a, name in zip(data["annotators"], ("ann", "ben"), strict=True)
    ]


def test_an_annotator_who_knows_the_facts() -> None:
    reference: dict[str, Any] = {
        "rounds": ["Graio the boat"],
        "facts": {
            "groups": [{"kind": "boat", "colour": "green", "count": 1, "size": ""}],
            "relation": "",
            "background": "sea",
            "names": ["Graio"],
            "wrong": [],
        },
    }
    task = {
        "left": "A picture of a red boat on the sea.",
        "right": "A picture of Graio, a green boat on the sea.",
        "questions": ["alignment", "named-entities", "alt-text"],
    }
    choices = judge(task, reference, random.Random(1))  # none of the three is drawn with this seed
    assert set(choices.values()) == {"right"}
    same = {**task, "left": task["right"]}
    assert set(judge(same, reference, random.Random(1)).values()) == {"tie"}
