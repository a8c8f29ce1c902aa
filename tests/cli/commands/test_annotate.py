"""`altogether-rt annotate`, all round: scenes, two rounds over HTTP, rows that train reads."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from altogether_rt.annotation.work import Work
from altogether_rt.cli.main import app
from altogether_rt.data.file_hash import file_hash
from tests.annotation.people import Person, truth

#: Four steps of fine-tuning: the target is the last round.
RECIPE = """
config = "{config}"
vocab_size = 300
[finetune.optimization]
num_steps = 4
batch_size = 8
warmup_steps = 1
"""


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, list(map(str, arguments)))


def json_of(*arguments: object) -> Any:
    done = run(*arguments, "--json")
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def answer_round(work: Path, name: str, write: Callable[[dict[str, Any]], str]) -> int:
    """Answers everything on the page that the command serves, and ends it with Ctrl-C."""
    command = [
        sys.executable, "-m", "altogether_rt.cli.main",
        "annotate", "serve", str(work), "--as", name,
    ]  # fmt: skip
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        num = Person(process.stdout.readline().strip()).save_all(write)
        process.send_signal(signal.SIGINT)
        _, error = process.communicate(timeout=20)
    assert process.returncode == 0
    assert f"{num} of {num} images answered." in error
    return num


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scenes") / "scenes"
    assert run("scenes", folder, "--num", 12, "--seed", 8, "--quiet").exit_code == 0
    return folder


@pytest.fixture(scope="module")
def finished(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A work folder with two rounds, answered by two people who make no mistakes."""
    work = tmp_path_factory.mktemp("finished") / "work"
    sharing = ["--annotators", "anna,ben", "--overlap", 0.25, "--gold", scenes]
    started = json_of("annotate", "start", scenes, "--alt", "alts.jsonl", "--out", work, *sharing)
    assert started == {
        "work": str(work), "round": 2, "images": 12, "from_captions": 0, "doubled": 3,
        "gold": 12, "left_out": 0, "annotators": ["anna", "ben"],
    }  # fmt: skip
    assert (
        answer_round(work, "anna", truth(scenes, 2)) + answer_round(work, "ben", truth(scenes, 2))
        == 12 + 3
    )
    assert json_of("annotate", "next", work)["round"] == 3
    for name in ("anna", "ben"):
        answer_round(work, name, truth(scenes, 3))
    return work


@pytest.mark.lean
def test_two_rounds_make_rows_of_three(finished: Path, scenes: Path, tmp_path: Path) -> None:
    out = tmp_path / "train.jsonl"
    data = json_of("annotate", "export", finished, "--out", out)
    assert data == {"file": str(out), "rows": 12, "left_out": {}}
    for line in out.read_text("utf-8").splitlines():
        row = json.loads(line)
        assert (tmp_path / row["file_name"]).is_file()
        assert len(row["rounds"]) == 3 and set(row["annotators"]) <= {"anna", "ben"}
    rows = [json.loads(line) for line in out.read_text("utf-8").splitlines()]
    captions = tmp_path / "captions.jsonl"
    captions.write_text(
        "".join(
            json.dumps({"file_name": Path(r["file_name"]).name, "caption": r["rounds"][-1]}) + "\n"
            for r in rows
        )
    )
    scores = json_of("scenes", "score", captions, scenes / "references.jsonl")
    assert scores["visual_facts_right"] == scores["names_kept"] == 100.0


@pytest.mark.slow
def test_train_reads_what_export_writes(finished: Path, tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="needs the extra train")
    from tests.train.tiny import CONFIG

    out, recipe = tmp_path / "train.jsonl", tmp_path / "recipe.toml"
    json_of("annotate", "export", finished, "--out", out)
    (tmp_path / "tiny.toml").write_text(CONFIG)
    recipe.write_text(RECIPE.format(config=tmp_path / "tiny.toml"))
    done = run("train", "--config", recipe, "--data", out, "--out", tmp_path / "ckpt", "--quiet")
    assert done.exit_code == 0, done.output
    assert (tmp_path / "ckpt" / "model.safetensors").is_file()


@pytest.mark.lean
def test_the_report_reads_well(finished: Path) -> None:
    text = run("annotate", "report", finished).stdout
    assert "round 2: 12 of 12 answered" in text
    assert "round 3: 12 of 12 answered" in text
    assert "Agreement on images with several answers" in text and "Gold images" in text
    assert "Words kept, added and removed: the means of an answer." in text
    # Perfect annotators set no flag, so alpha is not defined for flags.
    assert "alpha –: nobody removed a word, or set a flag" in text
    report = json_of("annotate", "report", finished)
    assert [r["doubles"]["words_shared"] for r in report["rounds"]] == [100.0, 100.0]
    assert report["rounds"][1]["gold"]["anna"]["answers"]["visual_facts_right"] == 100.0


@pytest.mark.lean
def test_pack_import_and_label_studio(scenes: Path, tmp_path: Path) -> None:
    work = tmp_path / "work"
    assert run("annotate", "start", scenes, "--alt", "alts.jsonl", "--out", work).exit_code == 0
    packed = json_of("annotate", "pack", work, "--as", "ben", "--out", tmp_path / "ben.html")
    assert packed["images"] == 12 and packed["bytes"] == (tmp_path / "ben.html").stat().st_size
    tasks = tmp_path / "tasks.json"
    options = ["--format", "label-studio", "--image-prefix", "/x/", "--out", tasks]
    exported = json_of("annotate", "export", work, *options)
    assert exported["tasks"] == 12 and Path(exported["config"]).read_text().startswith("<View>")
    entries = [
        {
            **task["data"], "caption": "From Label Studio.", "annotator": 1,
            "created_at": "2026-11-26T08:00:00Z", "lead_time": 3.0,
        }
        for task in json.loads(tasks.read_text())
    ]  # fmt: skip
    entries[0]["previous"] = "altered"
    entries[1]["caption"] = entries[1]["previous"]
    path = tmp_path / "min.json"
    path.write_text(json.dumps(entries))
    done = run("annotate", "import", work, path, "--as", "ben")
    assert done.exit_code == 0
    assert "11 answers taken (11 of ben), 0 were there already, 1 refused." in done.stdout
    assert "1 answers were refused: row 1: " in done.stderr
    assert "1 texts are unchanged; Label Studio" in done.stderr
    path.write_text(json.dumps(entries[:1]))
    done = run("annotate", "import", work, path)
    assert done.exit_code == 1 and "not one answer" in done.stderr


def test_files_of_others_are_not_replaced(scenes: Path, finished: Path, tmp_path: Path) -> None:
    """An image, a file of alt-texts, or what lies beside the tasks for Label Studio."""
    run("annotate", "start", scenes, "--alt", "alts.jsonl", "--out", tmp_path / "work",
        "--annotators", "ben")  # fmt: skip
    mine = tmp_path / "mine.xml"
    writers: list[tuple[object, ...]] = [
        ("export", finished, "--out"),
        ("export", finished, "--format", "label-studio", "--out"),
        ("pack", tmp_path / "work", "--as", "ben", "--out"),
    ]
    for writer in writers:
        for data in ((scenes / "0000.png").read_bytes(), (scenes / "alts.jsonl").read_bytes()):
            mine.write_bytes(data)
            done = run("annotate", *writer, mine)
            assert done.exit_code == 1 and "it is not replaced" in done.stderr
            assert mine.read_bytes() == data
        own = tmp_path / f"own{writer[-2]}.json"
        assert [run("annotate", *writer, own).exit_code for _ in range(2)] == [0, 0]
    done = run("annotate", *writers[1], mine.with_suffix(".json"))
    assert done.exit_code == 1 and "mine.xml is not a labelling configuration" in done.stderr


@pytest.mark.lean
def test_mistakes_are_sentences(scenes: Path, finished: Path, tmp_path: Path) -> None:
    for arguments, words in (
        (("next", scenes), "is not a work folder"),
        (("serve", finished, "--as", "Anna"), "cannot be an annotator's name"),
        (("serve", finished, "--as", "cleo"), "cleo has no images in round 3"),
        (("start", scenes, "--out", finished), "is there already"),
        (("start", tmp_path, "--out", tmp_path / "w"), "there are no images"),
        (("import", finished, tmp_path / "none"), "cannot be read"),
        (("export", scenes, "--out", tmp_path / "t.jsonl"), "is not a work folder"),
    ):
        done = run("annotate", *arguments)
        assert (done.exit_code, words in done.stderr) == (1, True), (arguments, done.output)
        assert done.stderr.count("\n") == 1 or arguments[0] == "start"
    work = tmp_path / "work"
    done = run("annotate", "start", scenes, "--out", work, "--limit", 2)
    assert done.exit_code == 0 and "No --alt is given" in done.stderr
    done = run("annotate", "export", work, "--out", tmp_path / "t.jsonl")
    assert done.exit_code == 1
    assert f"no image of {work} can be exported: 2 without an answer." in done.stderr
    assert not (tmp_path / "t.jsonl").exists()


@pytest.mark.lean
def test_images_left_out_are_said(scenes: Path, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "a.png").write_bytes((scenes / "0000.png").read_bytes())
    (photos / "b.png").write_bytes(b"")
    done = run("annotate", "start", photos, "--out", tmp_path / "work")
    assert done.exit_code == 0
    assert "1 images cannot be read" in done.stderr and "b.png is empty" in done.stderr
    captions = tmp_path / "captions.jsonl"
    captions.write_text('{"file_name": "a.png", "caption": "A."}\nnonsense\n')
    options = ["--from", captions, "--out", tmp_path / "other", "--json"]
    done = run("annotate", "start", photos, *options)
    assert "1 lines of" in done.stderr and json.loads(done.stdout)["from_captions"] == 1
    assert "images have no caption" not in done.stderr
    (photos / "c.png").write_bytes((scenes / "0001.png").read_bytes())
    done = run("annotate", "start", photos, "--from", captions, "--out", tmp_path / "third")
    assert f"1 images have no caption in {captions}: no text instead." in done.stderr
    rows = [
        {"file_name": "a.png", "caption": "Of another a.", "image_hash": "0" * 16},
        {"file_name": "c.png", "caption": "Of c.", "image_hash": file_hash(photos / "c.png")},
    ]
    captions.write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = run("annotate", "start", photos, "--from", captions, "--out", tmp_path / "fourth")
    assert "1 captions in" in done.stderr and "another image of the same name: a.png" in done.stderr
    texts = [task.text for task in Work(tmp_path / "fourth").round().tasks]
    assert texts == ["", "Of c."]
