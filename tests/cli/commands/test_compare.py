"""`altogether-rt compare`: from caption files to a report, and what goes wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from altogether_rt.cli.main import app
from altogether_rt.comparison.study import Study
from altogether_rt.data.file_hash import file_hash
from tests.comparison.studies import (
    answer_all,
    write_answers,
    write_captions,
    write_images,
    write_rows,
)

pytestmark = pytest.mark.lean


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["compare", *map(str, arguments)])


@pytest.fixture
def inputs(tmp_path: Path) -> list[Path]:
    """Two caption files, and --images with its folder."""
    write_images(tmp_path / "images", [f"{i:03}.png" for i in range(8)])
    first = write_captions(tmp_path / "zebra.jsonl", "a boat", 8)
    second = write_captions(tmp_path / "walrus.jsonl", "a ship", 7)
    return [first, second, Path("--images"), tmp_path / "images"]


def test_start_answer_report(tmp_path: Path, inputs: list[Path]) -> None:
    sxs = tmp_path / "sxs"
    done = run("start", *inputs, "--out", sxs, "--seed", 3, "--annotators", "ann, ben")
    assert done.exit_code == 0, done.output
    assert "7 pairs to judge in" in done.stdout
    # 7 pairs, one repeated, and one image for both: 5 for one of them, at 20 seconds.
    assert "About 2 min for each annotator" in done.stdout
    assert f"compare serve {sxs} --as ann" in done.stdout
    assert "1 images have no caption of walrus: 007.png: no row." in done.stderr
    done = run("report", sxs)
    assert done.exit_code == 1
    assert "nobody has answered yet" in done.stderr
    study = Study.load(sxs)
    sides = study.load_key().sides()
    write_answers(
        study,
        {
            name: answer_all(study, name, lambda id_, _: "left" if sides[id_].left else "tie")
            for name in ("ann", "ben")
        },
    )
    plot = tmp_path / "plots" / "sxs.svg"
    done = run("report", sxs, "--plot", plot)
    assert done.exit_code == 0, done.output
    for part in ("zebra against walrus", "win rate (95 %)", "ann", "ben", f"Drawn in {plot}"):
        assert part in done.stdout
    assert plot.read_text().startswith("<svg")
    assert run("report", sxs, "--plot", plot).exit_code == 0
    done = run("report", sxs, "--plot", inputs[0])
    assert done.exit_code == 1 and "is not a plot of compare" in done.stderr
    done = run("report", sxs, "--json")
    data = json.loads(done.stdout)
    assert done.stdout.count("\n") == 1
    assert data["pairs"][0]["questions"]["alignment"]["loss"] > 0
    assert data["seed"] == 3
    kept = (sxs / "key.json").rename(tmp_path / "kept.json")
    assert run("report", sxs).exit_code == 1
    assert run("report", sxs, "--key", kept).exit_code == 0
    assert run("report", sxs, "--key", kept, "--plot", tmp_path).exit_code == 1
    assert run("report", sxs, "--key", kept, "-q").stdout == ""


def test_every_answer_with_the_names_of_the_systems(tmp_path: Path, inputs: list[Path]) -> None:
    """Ann always finds zebra's caption better and skips one pair; who is who is in the rows."""
    sxs, out = tmp_path / "sxs", tmp_path / "new" / "judgments.jsonl"
    assert run("start", *inputs, "--out", sxs, "--seed", 3).exit_code == 0
    study = Study.load(sxs)
    sides = study.load_key().sides()
    rows = answer_all(
        study,
        "ann",
        lambda id_, q: "tie" if q == "alt-text" else ("right", "left")[sides[id_].right],
    )
    rows[0] = {"task": rows[0]["task"], "skipped": True, "seconds": 2.5}
    write_answers(study, {"ann": rows})
    done = run("report", sxs, "--judgments", out)
    assert done.exit_code == 0, done.output
    found = [json.loads(line) for line in out.read_text("utf-8").splitlines()]
    assert f"{len(found)} answers in {out}" in done.stdout
    assert {(row["first"], row["second"]) for row in found} == {("zebra", "walrus")}
    skipped, *answered = found
    assert (skipped["question"], skipped["score"], skipped["seconds"]) == (None, None, 2.5)
    assert {(row["question"], row["score"]) for row in answered} == {
        *(("alignment", 1), ("named-entities", 1), ("alt-text", 0.5)),
    }
    assert {row["first_side"] for row in answered} == {"left", "right"}
    assert sum(row["is_repeat"] for row in answered if row["question"] == "alignment") == 1
    first = [row for row in answered if row["question"] == "alignment" and not row["is_repeat"]]
    (pair,) = json.loads(run("report", sxs, "--json").stdout)["pairs"]
    assert len(first) == pair["questions"]["alignment"]["images"] == 6
    assert run("report", sxs, "--judgments", out).exit_code == 0  # over its own file
    done = run("report", sxs, "--judgments", inputs[0])
    assert done.exit_code == 1 and "is not a file of compare's judgments" in done.stderr


def test_an_unfinished_study_of_ties_says_so(tmp_path: Path, inputs: list[Path]) -> None:
    rows = [json.loads(line) for line in inputs[0].read_text().splitlines()]
    changed = [row | {"caption": "another"} if i < 2 else row for i, row in enumerate(rows)]
    inputs[1] = write_rows(tmp_path / "walrus.jsonl", changed)
    sxs = tmp_path / "sxs"
    assert run("start", *inputs, "--out", sxs, "--repeat", 0).exit_code == 0
    study = Study.load(sxs)
    write_answers(study, {"ann": answer_all(study, "ann", lambda *_: "tie")[:1]})
    said = run("report", sxs).stdout
    assert "Not finished: 1 of 2 pairs of zebra and walrus are judged; of 6 identical" in said
    assert "3 of the ties are identical captions" in said
    assert "nan" not in said and "Side bias" not in said
    (pair,) = json.loads(run("report", sxs, "--json").stdout)["pairs"]
    assert (pair["planned"], pair["judged"], pair["identical"]) == (2, 1, 6)
    assert (pair["questions"]["alignment"]["images"], pair["questions"]["alignment"]["tie"]) == (
        *(4, 1.0),
    )


def test_where_nothing_differs_the_report_is_next(tmp_path: Path, inputs: list[Path]) -> None:
    same = write_captions(tmp_path / "same.jsonl", "a boat", 8)
    sxs = tmp_path / "sxs"
    said = run(inputs[0], same, *inputs[2:], "--out", sxs).stdout
    assert "0 pairs to judge" in said and "8 more are ties of identical captions.\n" in said
    assert said.endswith(f"Next: altogether-rt compare report {sxs}\n")
    assert "8 of the ties are identical captions" in run("report", sxs).stdout


def test_the_plain_form_is_start(tmp_path: Path, inputs: list[Path]) -> None:
    done = run(*inputs, "--out", tmp_path / "sxs", "--json", "--repeat", 0)
    assert done.exit_code == 0, done.output
    data = json.loads(done.stdout)
    assert (data["tasks"], data["repeats"], data["images"]) == (7, 0, 7)
    assert data["left_out"] == {"zebra": 0, "walrus": 1}
    again = run(*inputs, "--out", tmp_path / "sxs")
    assert again.exit_code == 1
    assert "exists already: choose another --out." in again.stderr


def test_three_systems_are_ranked(tmp_path: Path, inputs: list[Path]) -> None:
    third = write_captions(tmp_path / "yak.jsonl", "a barge", 8)
    done = run("start", third, *inputs, "--out", tmp_path / "sxs", "--pairs", 3, "-q")
    assert (done.exit_code, done.stdout) == (0, ""), done.output
    study = Study.load(tmp_path / "sxs")
    assert sum(not side.is_repeat for side in study.load_key().sides().values()) == 7 * 3 + 1
    write_answers(study, {"ann": answer_all(study, "ann", lambda *_: "left")})
    done = run("report", tmp_path / "sxs")
    assert "Bradley–Terry: named entities" in done.stdout
    ranks = json.loads(run("report", tmp_path / "sxs", "--json").stdout)["bradley_terry"]
    assert {rank["system"] for rank in ranks["alignment"]} == {"yak", "zebra", "walrus"}


def test_questions_of_ones_own(tmp_path: Path, inputs: list[Path]) -> None:
    questions = tmp_path / "q.toml"
    questions.write_text('[[questions]]\nid = "taste"\nlabel = "taste"\ntext = "Nicer?"\n')
    done = run(*inputs, "--out", tmp_path / "sxs", "--questions", questions)
    assert done.exit_code == 0, done.output
    study = Study.load(tmp_path / "sxs")
    assert {q.text for task in study.tasks for q in study.questions_of(task)} == {"Nicer?"}


def test_what_is_left_out_is_said(tmp_path: Path, inputs: list[Path]) -> None:
    write_rows(tmp_path / "zebra.jsonl", [{"file_name": "000.png", "caption": "x"}] * 2 + [{}])
    (tmp_path / "images" / "000.png").write_bytes(b"no image")
    done = run(*inputs, "--out", tmp_path / "sxs")
    assert done.exit_code == 1
    assert "there is nothing to compare" in done.stderr
    write_images(tmp_path / "images", ["000.png"])
    done = run(*inputs, "--out", tmp_path / "sxs")
    assert done.exit_code == 0
    assert "1 records of" in done.stderr and "line 3: no file_name with a caption" in done.stderr
    assert "1 rows of" in done.stderr and "replace an earlier row" in done.stderr
    assert "6 images have no caption of zebra" in done.stderr


def test_another_folders_images_are_not_judged(tmp_path: Path, inputs: list[Path]) -> None:
    """Rows know which file was captioned: the same names in another folder are other images."""
    rows = [json.loads(line) for line in inputs[1].read_text().splitlines()]
    for row in rows:
        row["image_hash"] = file_hash(tmp_path / "images" / row["file_name"])
    inputs[1] = write_rows(tmp_path / "walrus.jsonl", rows)
    assert run(*inputs, "--out", tmp_path / "sxs").exit_code == 0
    write_images(tmp_path / "images", ["002.png"])  # 24 pixels wide, as the first one is
    done = run(*inputs, "--out", tmp_path / "other")
    assert done.exit_code == 0
    assert "1 images cannot be shown: 002.png is not the image that was captioned" in done.stderr
    assert len(Study.load(tmp_path / "other").tasks) == 7  # six, and one again
    for row in rows:
        row["image_hash"] = "0" * 16
    write_rows(inputs[1], rows)
    done = run(*inputs, "--out", tmp_path / "third")
    assert done.exit_code == 1 and "is not the image that was captioned" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("serve", "absent", "--as", "ann"), 1, "absent holds no study"),
        (("serve", "absent"), 2, "--as"),
        (("report", "absent"), 1, "absent holds no study"),
        (("start", "a.jsonl"), 2, "--images"),
    ],
)
def test_mistakes(arguments: tuple[str, ...], code: int, says: str) -> None:
    done = run(*arguments)
    assert done.exit_code == code
    assert says in done.stderr


def test_a_stranger_is_not_served_and_leaves_no_file(tmp_path: Path, inputs: list[Path]) -> None:
    sxs = tmp_path / "sxs"
    assert run(*inputs, "--out", sxs, "--annotators", "ann,ben").exit_code == 0
    for name, says in (("eve", "has no annotator 'eve'"), ("../eve", "cannot be an annotator")):
        done = run("serve", sxs, "--as", name)
        assert done.exit_code == 1
        assert says in done.stderr
    assert list((sxs / "answers").iterdir()) == []


def test_images_that_were_moved_are_asked_for(tmp_path: Path, inputs: list[Path]) -> None:
    assert run(*inputs, "--out", tmp_path / "sxs").exit_code == 0
    (tmp_path / "images").rename(tmp_path / "moved")
    done = run("serve", tmp_path / "sxs", "--as", "ann")
    assert done.exit_code == 1
    assert "is not a folder: give --images, where the images are." in done.stderr


def test_help_shows_the_commands_and_examples() -> None:
    done = run("--help")
    for part in ("start", "serve", "report", "compare serve sxs/ --as ann"):
        assert part in done.stdout
