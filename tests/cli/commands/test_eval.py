"""`altogether-rt eval` from the command line."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from altogether_rt.cli.main import app
from altogether_rt.scenes.text import make_sample

pytestmark = pytest.mark.lean

NUM = 30
QUICK = ("--resamples", 100, "--no-meteor", "--no-phrases")


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["eval", *map(str, arguments)])


def rows_of(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Captions of scenes: those that are right, and those of somebody who saw no alt-text."""
    samples = [make_sample(4, index, "test") for index in range(NUM)]
    names = [f"{index:02}.png" for index in range(NUM)]
    pairs = list(zip(names, samples, strict=True))
    rows_of(
        tmp_path / "references.jsonl",
        [{"file_name": n, "rounds": list(s.rounds), "alts": list(s.alts)} for n, s in pairs],
    )
    rows_of(
        tmp_path / "right.jsonl",
        [{"file_name": n, "alt": list(s.alts), "caption": s.caption} for n, s in pairs],
    )
    rows_of(
        tmp_path / "blind.jsonl",
        [{"file_name": n, "alt": "", "caption": s.visual_caption} for n, s in pairs],
    )
    return tmp_path


def figures(*arguments: object) -> dict[str, Any]:
    done = run(*arguments, "--json", *QUICK)
    assert done.exit_code == 0, done.output
    (line,) = done.stdout.splitlines()
    data: dict[str, Any] = json.loads(line)
    return data


def test_figures(folder: Path) -> None:
    data = figures(folder / "right.jsonl", folder / "references.jsonl")
    metrics = data["metrics"]
    for key in ("bleu_1", "bleu_4", "rouge_l"):
        assert metrics[key]["value"] == pytest.approx(1)
        assert metrics[key]["low"] == pytest.approx(1)
    assert metrics["cider_d"]["value"] == pytest.approx(10)
    assert metrics["names_unsupported"]["value"] == 0
    assert metrics["names_kept"]["value"] > 95
    assert metrics["bleu_1"]["images"] == NUM
    assert "Papineni" in metrics["bleu_1"]["definition"]
    assert data["unavailable"]["meteor"] == "switched off by --no-meteor"
    settings = data["settings"]
    assert "pycocoevalcap" in settings["tokenizer"]
    assert settings["resamples"] == 100
    assert {"altogether-rt", "python", "numpy"} <= set(settings["versions"])


def test_differences_are_of_the_images_that_both_have(folder: Path) -> None:
    rows = (folder / "blind.jsonl").read_text().splitlines(keepends=True)
    (folder / "blind.jsonl").write_text("".join(rows[:20]))
    data = figures(
        folder / "right.jsonl", folder / "references.jsonl", "--against", folder / "blind.jsonl"
    )
    differences = data["against"]["differences"]
    assert differences["bleu_4"]["images"] == 20
    assert differences["bleu_4"]["low"] > 0
    assert differences["names_kept"]["theirs"]["value"] == 0  # their alt-texts: the references'
    assert data["against"]["counts"]["references_without_caption"] == 10
    swapped = figures(
        folder / "blind.jsonl", folder / "references.jsonl", "--against", folder / "right.jsonl"
    )["against"]["differences"]
    for key in ("bleu_4", "cider_d", "words"):
        assert swapped[key]["value"] == pytest.approx(-differences[key]["value"])


def test_captions_of_different_folders_are_not_compared_in_silence(folder: Path) -> None:
    for name, digit in (("right", "a"), ("blind", "b")):
        path = folder / f"{name}.jsonl"
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        for number, row in enumerate(rows):
            row["image_hash"] = ("c" if number > 4 else digit) * 16
        rows_of(path, [*rows[:29], rows[29] | {"image_hash": "another kind"}])
    files = (folder / "right.jsonl", folder / "references.jsonl")
    done = run(*files, "--against", folder / "blind.jsonl", *QUICK)
    assert "5 images of" in done.stderr and "not the same image, 00.png for one" in done.stderr
    done = run(*files, "--against", folder / "right.jsonl", *QUICK)
    assert "not the same image" not in done.stderr


def test_scores_of_each_image(folder: Path) -> None:
    """One row for each image and file; their means are those of the table, where it has means."""
    rows = (folder / "blind.jsonl").read_text().splitlines(keepends=True)
    error = {"file_name": "29.png", "error": {"class": "damaged", "message": "It is."}, "alt": ""}
    (folder / "blind.jsonl").write_text("".join([*rows[:29], json.dumps(error) + "\n"]))
    scores = folder / "new" / "scores.jsonl"
    arguments = (
        *(folder / "right.jsonl", folder / "references.jsonl", "--missing-as-empty"),
        *("--against", folder / "blind.jsonl", "--scores", scores),
    )
    data = figures(*arguments)
    found = [json.loads(line) for line in scores.read_text("utf-8").splitlines()]
    right, blind = (str(folder / f"{name}.jsonl") for name in ("right", "blind"))
    assert [row["captions"] for row in found] == [right] * NUM + [blind] * NUM
    assert found[0].keys() == {
        *("captions", "file_name", "caption", "bleu_1", "bleu_4", "rouge_l", "cider_d"),
        *("words", "duplicates", "names_kept", "alt_words_kept", "names_unsupported"),
    }
    for key in ("rouge_l", "cider_d"):
        mean = sum(row[key] for row in found[:NUM]) / NUM
        assert mean == pytest.approx(data["metrics"][key]["value"])
    missing = found[-1]
    assert (missing["file_name"], missing["caption"], missing["rouge_l"]) == ("29.png", None, 0)
    assert missing["words"] is None  # of no caption
    assert any(row["names_kept"] is None for row in found[:NUM]), "an alt-text without a name"
    hashes = {path: hashlib.sha256(Path(path).read_bytes()).hexdigest() for path in (right, blind)}
    assert hashes.items() <= data["sha256"].items()
    figures(*arguments)  # once more, over its own file
    done = run(folder / "right.jsonl", *QUICK, "--scores", folder / "references.jsonl")
    assert done.exit_code == 1 and "is not a file of eval's scores" in done.stderr


def test_nothing_is_dropped_in_silence(folder: Path) -> None:
    with (folder / "right.jsonl").open("a") as file:
        error = {"class": "damaged", "message": "It is."}
        file.write(json.dumps({"file_name": "00.png", "alt": "", "error": error}) + "\n")
        file.write(json.dumps({"file_name": "other.png", "caption": "A boat."}) + "\n")
        file.write("nonsense\n")
    done = run(folder / "right.jsonl", folder / "references.jsonl", *QUICK)
    assert done.exit_code == 0, done.output
    assert "BLEU-4" in done.stdout
    last = done.stdout.splitlines()[-1]
    for part in (
        "1 rows with errors",
        "1 records that are not rows",
        "1 rows replaced by a later row",
        "1 captions without a reference",
    ):
        assert part in last
    counts = figures(folder / "right.jsonl", folder / "references.jsonl")["counts"]
    assert counts["error_classes"] == {"damaged": 1}
    assert counts["captions"] == NUM
    assert counts["scored_with_references"] == NUM - 1


def test_missing_captions_may_count_as_empty_ones(folder: Path) -> None:
    rows = (folder / "right.jsonl").read_text().splitlines(keepends=True)
    (folder / "right.jsonl").write_text("".join(rows[:15]))
    arguments = (folder / "right.jsonl", folder / "references.jsonl")
    assert figures(*arguments)["metrics"]["rouge_l"]["value"] == pytest.approx(1)
    data = figures(*arguments, "--missing-as-empty")
    assert data["metrics"]["rouge_l"]["value"] == pytest.approx(0.5)
    assert data["metrics"]["rouge_l"]["images"] == NUM
    assert data["metrics"]["words"]["images"] == 15  # what is said of captions is of captions


def test_without_references(folder: Path) -> None:
    data = figures(folder / "right.jsonl")
    assert set(data["metrics"]) == {
        *("words", "duplicates", "names_kept", "names_unsupported", "alt_words_kept"),
    }
    assert data["references"] is None


def test_alt_texts_of_a_file(folder: Path) -> None:
    alts = rows_of(folder / "alts.jsonl", [{"file_name": "00.png", "alt": "the Zweebel at sea"}])
    data = figures(folder / "blind.jsonl", "--alt", alts)
    found = data["metrics"]["names_kept"]
    assert (found["value"], found["images"], found["unit"]) == (0, 1, "percent")


def test_report(folder: Path) -> None:
    done = run(folder / "right.jsonl", folder / "references.jsonl", *QUICK, "--html",
               folder / "report.html")  # fmt: skip
    assert done.exit_code == 0, done.output
    assert "BLEU-4" in (folder / "report.html").read_text("utf-8")
    assert "Report:" in done.stderr


def test_a_report_replaces_reports_alone(folder: Path) -> None:
    """The captions themselves, given by mistake, stay as they are."""
    captions = folder / "right.jsonl"
    before = captions.read_bytes()
    done = run(captions, folder / "references.jsonl", *QUICK, "--html", captions)
    assert done.exit_code == 1 and "is not a report of eval" in done.stderr
    assert captions.read_bytes() == before


def test_mistakes_are_told_in_a_sentence(folder: Path) -> None:
    right, references = folder / "right.jsonl", folder / "references.jsonl"
    other = rows_of(folder / "other.jsonl", [{"file_name": "x.png", "caption": "x"}])
    for arguments, message in (
        ((folder / "none.jsonl",), "there is no file of captions"),
        ((right, folder / "none.jsonl"), "there is no file of references"),
        ((other, references), "file_name must be the same in both"),
        ((right, "--embeddings", folder / "e.npy"), "name its model"),
        ((right, "--clip", "ViT-B-32"), "needs images"),
        ((right, references, "--html", folder), "is a folder"),
    ):
        done = run(*arguments, *QUICK)
        assert done.exit_code == 1
        assert message in done.stderr
        assert len(done.stderr.strip().splitlines()) == 1


def test_intervals_follow_the_seed(folder: Path) -> None:
    arguments = (folder / "blind.jsonl", folder / "references.jsonl")
    first, again = (figures(*arguments, "--seed", 1)["metrics"]["cider_d"] for _ in "ab")
    other = figures(*arguments, "--seed", 2)["metrics"]["cider_d"]
    assert first == again
    assert first["value"] == other["value"]
    assert first["low"] != other["low"]
