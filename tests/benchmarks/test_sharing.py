"""The benchmark of callers that share a captioner, on a few scenes."""

from __future__ import annotations

from typing import Any

import pytest
import sharing

from altogether_rt import Captioner


def test_every_way_is_measured_for_every_number_of_clients() -> None:
    found = sharing.measure("starter", [1, 3], num=6, rounds=2)
    assert (found["config"], found["captions"]) == ("starter", 6)
    assert set(found["clients"]) == {"1", "3"}
    for ways in found["clients"].values():
        assert set(ways) == {"caption", "submit"}
        assert all(figure > 0 for way in ways.values() for figure in way.values())


def test_each_pair_is_asked_for_once_and_answered_in_its_place() -> None:
    pairs = sharing.draw(20)
    asked: list[tuple[str, ...]] = []

    def ask(pair: sharing.Pair) -> str:
        asked.append(pair[1])
        return " ".join(pair[1])

    _, waited_s, texts = sharing.run(ask, pairs, 4)
    assert sorted(asked) == sorted(alts for _, alts in pairs)
    assert texts == [" ".join(alts) for _, alts in pairs]
    assert len(waited_s) == 20


def test_other_captions_are_no_result(monkeypatch: pytest.MonkeyPatch) -> None:
    submit = Captioner.submit

    def without_alts(captioner: Captioner, image: Any, alts: Any, params: Any) -> Any:
        return submit(captioner, image, None, params)

    monkeypatch.setattr(Captioner, "submit", without_alts)
    with pytest.raises(SystemExit, match="submit wrote other captions"):
        sharing.measure("starter", [2], num=3, rounds=1)


def test_the_table_has_ratio_and_waits() -> None:
    one = {"images_per_s": 50.0, "wait_median_s": 0.32, "wait_p95_s": 0.4}
    other = {"images_per_s": 125.0, "wait_median_s": 0.1284, "wait_p95_s": 1.25}
    result = {
        "command": "python benchmarks/sharing.py",
        "machine": {"processor": "a processor", "date": "2026-11-27"},
        "cores": 2,
        "rounds": 5,
        "bundles": [{"config": "starter", "clients": {"16": {"caption": one, "submit": other}}}],
    }
    row = "| starter | 16 | 50 | 125 | 2.50 × | 320 ms (400) | 128 ms (1,250) |"
    assert row in sharing.to_markdown(result).splitlines()
