"""Rounds of turns of made-up contestants, to the files that are written."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import pytest
from harness.contestant import Contestant
from peers import run, suite
from peers.picture import to_svg
from peers.tables import to_markdown
from peers.traffic import make_rows


def benchmark(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds: float = 60.0
) -> suite.PeerSuite:
    monkeypatch.setattr(suite, "python_of", lambda work, name: Path(sys.executable))
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    monkeypatch.setattr(suite, "ROOT", Path(__file__).parent)  # where the adapter is
    contestants = [
        Contestant(
            name,
            name,
            "public",
            "fake_adapter:Fake",
            {"checkpoint": "checkpoint"},
            {"kind": kind, "log": str(tmp_path / name)},
            modes=modes,
        )
        for name, kind, modes in (("good", "", ("visual",)), ("broken", "broken", ()))
    ]
    arguments = argparse.Namespace(
        size="small",
        work=tmp_path,
        batches=[1, 8],
        images=8,
        single_images=2,
        growth=[],
        rounds=2,
        seconds=seconds,
        largest_first=False,
        pairs=None,
        threads=1,
        seed=0,
        out=tmp_path / "peers.json",
    )
    made = suite.PeerSuite(arguments, contestants)
    made.folder.mkdir()
    made.rows, made.ids = make_rows(8, 1000), {"pad_id": 1}
    made.check_rows = suite.cut(made.rows[:6], 6)
    made.reference = {"visual": [[6] * 6] * 6}
    made.versions = {"torch": "2.13.0"}
    made.sizes = {c.name: {"environment_bytes": 1, "files_bytes": 2} for c in contestants}
    return made


def test_all_is_measured_in_every_round(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = benchmark(tmp_path, monkeypatch)
    made.measure()
    result = json.loads((tmp_path / "peers.json").read_text("utf-8"))
    good, broken = result["contestants"]
    assert good["cells"].keys() == {"8x8", "1x2"}
    assert {cell["repetitions"] for cell in good["cells"].values()} == {2}
    assert good["agreement"]["visual"]["identical_rows"] == 6
    assert broken["errors"] == ["ValueError: no such weights"]
    assert broken["cells"] == {}
    assert "| good |" in (tmp_path / "peers.md").read_text("utf-8")
    assert (tmp_path / "peers.svg").read_text("utf-8").startswith("<svg")


def test_nothing_starts_when_the_time_is_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = benchmark(tmp_path, monkeypatch, seconds=0.0)
    made.measure()
    assert made.turns == {"good": [], "broken": []}
    assert "good" in made.write()


def test_who_is_not_known_cannot_be_chosen() -> None:
    with pytest.raises(SystemExit, match="no contestant is called nobody"):
        run.chosen("ours-int8,nobody", None)
    with pytest.raises(SystemExit, match="no contestant is called ours-int8-taught"):
        run.chosen("ours-int8-taught", None)
    assert [c.name for c in run.chosen("ours-int8-taught", "scenes")] == ["ours-int8-taught"]
    assert [c.name for c in run.chosen("ours-int8,public-fp32", None)] == [
        "ours-int8",
        "public-fp32",
    ]


def test_commands_of_published_results_still_parse() -> None:
    given = "--size published --work DIR --contestants ours-int8,openvino-int8 --batches 1"
    arguments = run.parse_arguments([*given.split(), "--growth", "", "--budget-min", "10"])
    assert arguments.only == "ours-int8,openvino-int8"
    assert (arguments.seconds, arguments.growth, arguments.batches) == (600, [], [1])


@pytest.mark.parametrize("path", sorted(run.RESULTS.glob("peers-*.json")), ids=lambda p: p.stem)
def test_published_results_can_be_shown_again(path: Path) -> None:
    result = json.loads(path.read_text("utf-8"))
    table = to_markdown(result)
    for contestant in result["contestants"]:
        assert f"| {contestant['label']} |" in table
    figures = [line for line in table.splitlines() if line.startswith("|")]
    published = path.with_suffix(".md").read_text("utf-8").splitlines()
    assert figures == [line for line in published if line.startswith("|")]
    assert to_svg(result).count("<rect") == path.with_suffix(".svg").read_text().count("<rect")
