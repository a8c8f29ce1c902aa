"""The scorer gives full marks to the truth and takes them for every kind of mistake."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from altogether_rt.cli.main import app
from altogether_rt.errors import AltogetherError
from altogether_rt.scenes.dataset import reference_row, score_files, write_scenes
from altogether_rt.scenes.score import Scores, score_caption
from altogether_rt.scenes.text import make_sample

FACTS: dict[str, Any] = {
    "groups": [
        {"kind": "boat", "colour": "red", "count": 1, "size": "large"},
        {"kind": "box", "colour": "green", "count": 3, "size": ""},
    ],
    "relation": "to the left of",
    "background": "sea",
    "names": ["Marigold", "Port Tessel"],
    "wrong": [{"type": "colour", "group": 0, "said": "blue", "true": "red"}],
}
TRUTH = (
    "A picture of Marigold, a large red boat, to the left of three green boxes on the sea, "
    "taken at Port Tessel."
)


def _row(alt: str = "Marigold the blue boat at Port Tessel") -> dict[str, Any]:
    return {"file_name": "a.png", "rounds": [alt, TRUTH], "facts": FACTS}


def _scores(caption: str, alt: str = "Marigold the blue boat at Port Tessel") -> dict[str, Any]:
    scores = Scores()
    scores.add(caption, _row(alt))
    return scores.to_dict()


def test_truth_has_full_marks() -> None:
    scores = _scores(TRUTH)
    assert scores["visual_facts_right"] == 100 and scores["visual_facts"] == 9
    assert scores["names_kept"] == 100 and scores["wrong_corrected"] == 100
    assert scores["invented"] == 0


def test_own_references_have_full_marks() -> None:
    scores = Scores()
    for index in range(500):
        sample = make_sample(11, index, "test")
        scores.add(sample.caption, reference_row("x", sample))
    result = scores.to_dict()
    assert result["visual_facts_right"] == result["names_kept"] == 100
    assert result["wrong_corrected"] == 100 and result["invented"] == 0


@pytest.mark.parametrize(
    ("caption", "type_"),
    [
        (TRUTH.replace("red", "blue"), "colour"),
        (TRUTH.replace("three", "two"), "count"),
        (TRUTH.replace("large", "small"), "size"),
        (TRUTH.replace("left", "right"), "relation"),
        (TRUTH.replace("on the sea", "at night"), "background"),
        (TRUTH.replace("boxes", "hats"), "kind"),
        (TRUTH.replace("red", "red blue"), "colour"),
        (TRUTH.replace("on the sea", "on the sea at night"), "background"),
    ],
)
def test_each_mistake_costs_its_fact(caption: str, type_: str) -> None:
    wrong = [fact for fact, right in score_caption(caption, FACTS) if not right]
    assert type_ in wrong


def test_other_words_and_orders_are_accepted() -> None:
    text = "On the water, 3 green boxes are to the right of the large red boat."
    assert all(right for _, right in score_caption(text, FACTS))


@pytest.mark.parametrize(
    "text",
    [
        "Under the sky, one large red boat to the left of three green boxes on the sea.",
        "On the sea, the large red boat, overgrown, is left of three green boxes.",
        "An orange sky; far below it, the large red boat left of 3 green boxes. The sea.",
        "Large red boat left of three green boxes, sea",
    ],
)
def test_words_that_say_nothing_of_the_groups_do_not_count(text: str) -> None:
    """Relations before the first of them, and colours far from its noun."""
    wrong = [fact for fact, right in score_caption(text, FACTS) if not right]
    assert wrong == (["count"] if text.startswith("Large") else [])  # no word for its count


@pytest.mark.parametrize(
    ("wrong", "caption", "corrected"),
    [
        ({"type": "colour", "group": 0, "said": "blue", "true": "red"}, "Red boat", True),
        ({"type": "colour", "group": 0, "said": "blue", "true": "red"}, "A blue boat", False),
        ({"type": "colour", "group": 0, "said": "blue", "true": "red"}, "A boat", False),
        ({"type": "count", "group": 1, "said": "two", "true": "three"}, "THREE boxes", True),
        ({"type": "count", "group": 1, "said": "two", "true": "three"}, "two boxes", False),
        ({"type": "count", "group": 0, "said": "two", "true": "a"}, "an old boat", True),
        ({"type": "kind", "group": 1, "said": "hat", "true": "box"}, "a box", True),
        ({"type": "kind", "group": 1, "said": "hat", "true": "box"}, "a box and a Hat", False),
        ({"type": "kind", "group": 1, "said": "hat", "true": "box"}, "a boat", False),
        ({"type": "background", "group": -1, "said": "night", "true": "sea"}, "The sea", True),
        ({"type": "background", "group": -1, "said": "night", "true": "sea"}, "sea, night", False),
    ],
)
def test_every_kind_of_wrong_fact_can_be_corrected(
    wrong: dict[str, Any], caption: str, corrected: bool
) -> None:
    scores = Scores()
    scores.add(caption, {**_row(), "facts": {**FACTS, "wrong": [wrong]}})
    assert (scores.wrong, scores.wrong_corrected) == (1, corrected)


def test_shares_and_counts_are_of_all_captions() -> None:
    scores = Scores()
    assert scores.visual == 0.0
    scores.add(TRUTH, _row())
    scores.add("A boat seen by Walter", _row(alt=""))  # two of nine facts: kind, count
    assert scores.visual == (9 + 2) / 18
    found = scores.to_dict()
    assert found["visual_facts_right"] == round(100 * 11 / 18, 2)
    assert (found["invented"], found["invented_with_empty_alt"]) == (50, 100)
    assert (found["kind_right"], found["count_right"], found["relation_right"]) == (75, 75, 50)


def test_wrong_fact_that_stays_is_not_corrected() -> None:
    assert _scores(TRUTH.replace("red", "blue"))["wrong_corrected"] == 0
    assert _scores("")["wrong_corrected"] == 0


def test_misspelt_name_is_not_kept() -> None:
    assert _scores(TRUTH.replace("Marigold", "Marigolds"))["names_kept"] == 50


def test_invented_names_are_found() -> None:
    assert _scores(TRUTH, alt="")["invented_with_empty_alt"] == 100
    plain = "A picture of a large red boat to the left of three green boxes on the sea."
    assert _scores(plain, alt="")["invented_with_empty_alt"] == 0


def test_scoring_files(tmp_path: Path) -> None:
    folder = tmp_path / "scenes"
    assert len(list(write_scenes(folder, 5, seed=2, split="test"))) == 5
    references = folder / "references.jsonl"
    rows = [json.loads(line) for line in references.read_text().splitlines()]
    assert [row["file_name"] for row in rows] == [f"{i:04d}.png" for i in range(5)]
    alts = [json.loads(line) for line in (folder / "alts.jsonl").read_text().splitlines()]
    wanted = [row["alts"][0] if len(row["alts"]) == 1 else row["alts"] for row in rows]
    assert [row["alt"] for row in alts] == wanted
    captions = tmp_path / "captions.jsonl"
    captions.write_text("".join(json.dumps(row) + "\n" for row in rows[:4]))
    scores = score_files(captions, references).to_dict()
    assert scores["captions"] == 5 and 70 < scores["visual_facts_right"] < 90  # one is missing


def test_captions_of_other_scenes_are_said(tmp_path: Path) -> None:
    """Folders of scenes share their names, 0000.png and so on: only the number tells."""
    list(write_scenes(tmp_path / "few", 3, seed=2, split="test"))
    list(write_scenes(tmp_path / "many", 5, seed=2, split="test"))
    rows = (tmp_path / "many" / "references.jsonl").read_text().splitlines(keepends=True)
    error = json.dumps({"file_name": "0001.png", "error": {"class": "c", "message": "m"}}) + "\n"
    captions = tmp_path / "captions.jsonl"
    captions.write_text("".join([rows[0], error, *rows[2:]]))
    arguments = ["scenes", "score", str(captions), str(tmp_path / "few" / "references.jsonl")]
    done = CliRunner().invoke(app, arguments)
    assert "1 of the 3 scenes have no caption in" in done.stderr
    assert "2 captions are of no scene in" in done.stderr
    found = json.loads(CliRunner().invoke(app, [*arguments, "--json"]).stdout)
    assert (found["captions"], found["missing"], found["unknown"]) == (3, 1, 2)
    captions.write_text("".join(rows[:3]))
    assert CliRunner().invoke(app, arguments).stderr == ""


def test_bad_files_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "scenes"
    list(write_scenes(folder, 2, seed=2, split="test"))
    with pytest.raises(AltogetherError, match="not an empty folder"):
        list(write_scenes(folder, 2, seed=2, split="test"))
    references = folder / "references.jsonl"
    with pytest.raises(AltogetherError, match="there is no file"):
        score_files(tmp_path / "none.jsonl", references)
    (tmp_path / "other.jsonl").write_text('{"file_name": "z.png", "caption": "x"}\n')
    with pytest.raises(AltogetherError, match="no caption of any image"):
        score_files(tmp_path / "other.jsonl", references)
    (tmp_path / "broken.jsonl").write_text("{\n")
    with pytest.raises(AltogetherError, match="line 1 is not JSON"):
        score_files(tmp_path / "broken.jsonl", references)
    (tmp_path / "list.jsonl").write_text('\n["a"]\n')
    with pytest.raises(AltogetherError, match="line 2 is not a JSON object"):
        score_files(tmp_path / "list.jsonl", references)
    (tmp_path / "file").touch()
    with pytest.raises(AltogetherError, match="not an empty folder"):
        list(write_scenes(tmp_path / "file", 2, seed=2, split="test"))
    (tmp_path / "empty").mkdir()
    list(write_scenes(tmp_path / "empty", 1, seed=2, split="test"))
    with pytest.raises(AltogetherError, match=r"not the references\.jsonl"):
        score_files(references, tmp_path / "other.jsonl")
