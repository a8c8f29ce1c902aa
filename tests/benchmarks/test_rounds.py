"""The study of rounds, on sizes that show its logic and nothing else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

pytest.importorskip("torch", reason="needs the extra train")

import rounds
from studies.rounds_report import contestants, to_markdown, to_svg, verdicts

from altogether_rt.scenes.dataset import write_scenes


def test_every_captioner_is_trained_scored_and_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, work = tmp_path / "out.json", tmp_path / "work"
    options = ["--work", str(work), "--out", str(out), "--seeds", "1", "--scenes", "6"]
    options += ["--held-out", "4", "--steps", "1", "--batch-size", "2"]
    rounds.main(options)
    result = json.loads(out.read_text("utf-8"))
    runs = result["runs"]
    assert [(run["round"], run["trained_with_alts"]) for run in runs] == [
        (2, True),
        (2, False),
        (3, True),
        (3, False),
    ]
    assert all(run["without_alts"]["captions"] == 4 for run in runs)
    assert [("with_alts" in run) for run in runs] == [True, False, True, False]
    assert "| round 3, trained and captioning without alt-texts |" in (
        tmp_path / "out.md"
    ).read_text("utf-8")
    ElementTree.fromstring((tmp_path / "out.svg").read_text("utf-8"))
    left = {path.name for path in work.iterdir()}
    assert left == {"runs", "scenes", "settings.json", "starter"}

    def fail(*_: object, **__: object) -> None:
        raise AssertionError("trains again")

    monkeypatch.setattr(rounds, "train", fail)
    rounds.main(options)
    assert json.loads(out.read_text("utf-8"))["runs"] == runs


def test_a_round_is_cut_where_it_should_be(tmp_path: Path) -> None:
    list(write_scenes(tmp_path / "scenes", 20, seed=1, split="train"))
    rows = {}
    for last in (2, 3):
        lines = rounds.write_round(tmp_path / "scenes", last).read_text("utf-8").splitlines()
        rows[last] = [json.loads(line) for line in lines]
    whole = (tmp_path / "scenes" / "references.jsonl").read_text("utf-8").splitlines()
    for second, third, line in zip(rows[2], rows[3], whole, strict=True):
        assert third["rounds"] == json.loads(line)["rounds"]
        assert second["rounds"] == third["rounds"][:2]
        assert second["alts"] == third["alts"]
    longer = [len(third["rounds"]) == 3 for third in rows[3]]
    assert any(longer) and not all(longer)


def test_without_alt_texts_none_is_ever_read() -> None:
    study = rounds.Study()
    with_alts, without = (study.recipe(0, given).finetune for given in (True, False))
    assert with_alts is not None and without is not None
    assert (with_alts.alt_dropout, without.alt_dropout) == (0.5, 1.0)


def score(**shares: float) -> dict[str, Any]:
    keys = ("visual_facts_right", "kind_right", "relation_right", "background_right", "names_kept",
            "wrong_corrected", "invented")  # fmt: skip
    return {"captions": 4, **dict.fromkeys(keys, 50.0), **shares}


def made_up(seeds: int = 3) -> list[dict[str, Any]]:
    runs: list[dict[str, Any]] = []
    for seed in range(seeds):
        for last in (2, 3):
            given = score(relation_right=80.0 * (last - 2) + seed, names_kept=90.0 + seed)
            without = score(names_kept=0.0)
            common = {"seed": seed, "round": last, "cpu_s": 1.0}
            runs.append(
                {**common, "trained_with_alts": True, "with_alts": given, "without_alts": without}
            )
            runs.append({**common, "trained_with_alts": False, "without_alts": without})
    return runs


def test_verdicts_follow_the_figures() -> None:
    lines = verdicts(made_up())
    assert any(
        "relations, more (+80.0 points, 95 % +80.0 to +80.0)" in line
        for line in lines
        if line.startswith("Round 3 against round 2")
    )
    assert any(
        line.startswith("With against without") and "names kept, more (+91.0 points" in line
        for line in lines
    )
    assert (
        sum(
            "visual facts right, no difference that can be told (+0.0 points" in line
            for line in lines
        )
        == 2
    )
    assert verdicts(made_up(1)) == ["Too few seeds for a verdict."]
    assert verdicts(made_up()[:2]) == ["Too few runs for a verdict."]


def test_contestants_keep_their_seeds_in_order() -> None:
    found = contestants(made_up()[::-1])
    assert len(found) == 6
    assert found["round 2, trained and captioning with alt-texts"]["names_kept"] == [
        0.9,
        0.91,
        0.92,
    ]


def test_a_page_names_command_machine_and_date() -> None:
    result = {
        "command": "python benchmarks/rounds.py",
        "machine": {"date": "2026-01-02", "processor": "A Processor"},
        "versions": {"torch": "2.9"},
        "settings": rounds.Study().settings(),
        "baselines": dict.fromkeys(("alts", "starter_with_alts", "starter_without_alts"), score()),
        "runs": made_up(),
    }
    for text in (to_markdown(result), to_svg(result)):
        for part in ("python benchmarks/rounds.py", "2026-01-02", "A Processor", "torch 2.9"):
            assert part in text
