"""`caption`: progress, log, metrics, dry runs and samples, with a captioner that has no model."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from altogether_rt import opening
from altogether_rt.cli.main import app
from altogether_rt.jobs import open as open_module
from altogether_rt.jobs import processes
from altogether_rt.jobs.folder import CaptionJob, caption_folder, open_folder
from altogether_rt.jobs.open import fitting_workers
from altogether_rt.opening import resolve_captioner
from tests.fake_captioner import FakeCaptioner

pytestmark = pytest.mark.lean

NUM_GOOD, NUM_EMPTY = 12, 5


@pytest.fixture(autouse=True)
def captioner(monkeypatch: pytest.MonkeyPatch) -> FakeCaptioner:
    fake = FakeCaptioner()
    monkeypatch.setattr(open_module, "open_captioner", lambda resolved, **options: fake)
    return fake


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory; `photos` holds pictures, empty files and a text."""
    monkeypatch.chdir(tmp_path)
    photos = Path("photos")
    photos.mkdir()
    for number in range(NUM_GOOD):
        Image.new("RGB", (8, 8), (9 * number, 0, 0)).save(photos / f"{number:02}.png")
    for number in range(NUM_EMPTY):
        (photos / f"empty{number}.png").touch()
    (photos / "page.jpg").write_text("<html>")
    (photos / "alts.jsonl").write_text('{"file_name": "01.png", "alt": "a boat"}\n')
    return photos


def caption(*arguments: str, folder: str = "photos") -> Result:
    return CliRunner().invoke(app, ["caption", folder, *arguments])


def events(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_with_progress_in_json_every_line_of_stderr_is_json() -> None:
    done = caption("--progress", "json")
    assert done.exit_code == 0
    told = events(done.stderr)
    last = [line for line in told if line["event"] == "progress"][-1]
    assert (last["done"], last["total"], last["captioned"]) == (18, 18, NUM_GOOD)
    assert last["errors"] == {"empty": NUM_EMPTY, "not_an_image": 1}
    assert last["tokens"] == 3 * NUM_GOOD
    assert last["eta_s"] == 0
    assert {line["event"] for line in told} == {"progress", "note"}  # that alts.jsonl is there
    assert all("time" in line for line in told)


@pytest.mark.parametrize("mode", ["auto", "plain", "none"])
def test_a_short_run_without_a_terminal_shows_no_progress(mode: str) -> None:
    done = caption("--progress", mode)
    assert done.stderr.startswith("photos holds alts.jsonl")
    assert "/s" not in done.stderr
    assert "\r" not in done.stderr


def test_an_error_is_json_too_and_one_line() -> None:
    done = caption("--progress", "json", folder="gone\n\x1bc")
    assert done.exit_code == 1
    last = events(done.stderr)[-1]
    assert last["event"] == "error"
    assert last["message"].startswith("gone\n\x1bc cannot be read")


def test_the_summary_has_the_first_examples_of_each_class_of_error() -> None:
    done = caption()
    lines = done.stdout.splitlines()
    assert "6 failed (5 empty, 1 not_an_image)." in lines[0]
    assert lines[1] == (
        "  empty: empty0.png is empty. empty1.png is empty. empty2.png is empty. (and 2 more)"
    )
    assert lines[2].startswith("  not_an_image: page.jpg does not begin")
    data = json.loads(caption("--overwrite", "--json").stdout)
    assert data["failed"] == {"empty": 5, "not_an_image": 1}
    assert data["failed_examples"]["empty"] == [f"empty{n}.png is empty." for n in range(3)]


def test_the_log_tells_the_run_and_the_next_is_added() -> None:
    assert caption("--log-file", "run.log", "--log-json", "--seed", "4").exit_code == 0
    whole = events(Path("run.log").read_text())
    told = [line for line in whole if line["event"] != "note"]
    assert len(whole) > len(told)
    assert [line["event"] for line in told] == [
        *("start", "captioner"),
        *("image_error",) * 4,  # the first three of `empty`, and one
        *("result", "end"),
    ]
    start, end = told[0], told[-1]
    assert start["parameters"]["seed"] == 4
    assert start["parameters"]["inputs"] == ["photos"]
    assert {"altogether-rt", "python", "numpy", "pillow"} <= start["versions"].keys()
    assert start["machine"]["num_processors"] >= 1
    assert told[1]["bundle"] == resolve_captioner("starter").bundle_id
    assert (told[2]["key"], told[2]["class"]) == ("empty0.png", "empty")
    assert end["exit_code"] == 0
    assert told[-2]["data"]["captioned"] == NUM_GOOD
    caption("--log-file", "run.log", "--log-json", folder="gone")
    more = events(Path("run.log").read_text())[len(whole) :]
    assert [line["event"] for line in more] == ["start", "error", "end"]
    assert more[-1]["exit_code"] == 1


def test_an_interrupted_run_says_so_in_its_log(captioner: FakeCaptioner) -> None:
    captioner.interrupt_after = 3
    done = caption("--log-file", "run.log")
    assert done.exit_code == 130
    assert "give the same command to go on" in done.stderr
    last = Path("run.log").read_text().splitlines()[-1]
    assert "ERROR end: caption ended with 130" in last


def test_a_bug_stands_in_the_log(captioner: FakeCaptioner, monkeypatch: pytest.MonkeyPatch) -> None:
    def stream(*_: object, **options: object) -> None:
        raise ZeroDivisionError("no\nway")

    monkeypatch.setattr(captioner, "stream", stream)
    assert isinstance(caption("--log-file", "run.log").exception, ZeroDivisionError)
    last = Path("run.log").read_text().splitlines()[-1]
    assert r"ERROR bug: caption ended with ZeroDivisionError: no\nway" in last


def test_metrics_are_there_after_the_run() -> None:
    assert caption("--metrics-file", "run.prom").exit_code == 0
    text = Path("run.prom").read_text()
    assert f"altogether_rt_captions_total {NUM_GOOD}\n" in text
    assert 'altogether_rt_errors_total{class="empty"} 5\n' in text
    assert "altogether_rt_running 0\n" in text
    assert "altogether_rt_queue_depth 0\n" in text


@pytest.mark.parametrize("option", ["--log-file", "--metrics-file"])
@pytest.mark.parametrize(
    "name", ["captions.jsonl", "captions.jsonl.part", "photos/alts.jsonl", "s.html"]
)
def test_log_and_metrics_are_no_other_file_of_the_run(option: str, name: str) -> None:
    done = caption("--alt", "photos/alts.jsonl", "--sheet", "s.html", option, name)
    assert done.exit_code == 1
    assert "name another" in done.stderr
    assert not Path("captions.jsonl").exists()
    assert Path("photos/alts.jsonl").read_text() == '{"file_name": "01.png", "alt": "a boat"}\n'


def test_log_and_metrics_are_two_files() -> None:
    done = caption("--log-file", "x", "--metrics-file", "./x")
    assert "--metrics-file is x, which the run uses" in done.stderr
    assert caption("--log-json").exit_code == 2


def test_a_dry_run_reads_everything_and_writes_nothing(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **options: object) -> None:
        raise AssertionError("no captioner is needed")

    monkeypatch.setattr(open_module, "open_executor", fail)
    monkeypatch.setattr(opening, "resolve_captioner", fail)
    cut = (folder / "11.png").read_bytes()
    Image.new("RGB", (300, 300)).save(folder / "cut.png")
    (folder / "cut.png").write_bytes((folder / "cut.png").read_bytes()[:100])
    before = sorted(os.listdir("."))
    done = caption("--alt", "alts.jsonl", "--dry-run")
    assert done.exit_code == 0
    assert done.stdout.splitlines() == [
        "dry run, nothing is written: 19 images, 1 with alt-texts; 12 can be read, 7 cannot.",
        "  empty: empty0.png is empty. empty1.png is empty. empty2.png is empty. (and 2 more)",
        "  truncated: cut.png is cut off within its PNG pixels.",
        "  not_an_image: page.jpg does not begin like an image of a known format.",
    ]
    data = json.loads(caption("--alt", "alts.jsonl", "--dry-run", "--json").stdout)
    assert (data["dry_run"], data["images"], data["readable"]) == (True, 19, 12)
    assert (data["with_alt_texts"], data["alt_lines_used"]) == (1, 1)
    assert data["failed"] == {"empty": 5, "truncated": 1, "not_an_image": 1}
    assert sorted(os.listdir(".")) == before
    assert (folder / "11.png").read_bytes() == cut
    assert caption("--dry-run", "--embeddings", "e.npy").exit_code == 2


def test_a_sample_is_the_same_share_each_time_and_a_whole_run_goes_on_from_it() -> None:
    assert caption("--sample", "0.5", "--seed", "1").exit_code == 0
    first = Path("captions.jsonl").read_bytes()
    names = [json.loads(line)["file_name"] for line in first.splitlines()]
    assert 0 < len(names) < 18
    assert caption("--sample", "0.5", "--seed", "1", "--out", "b.jsonl").exit_code == 0
    assert Path("b.jsonl").read_bytes() == first
    data = json.loads(caption("--seed", "1", "--json").stdout)
    assert data["skipped"] == len(names)
    rows = [json.loads(line) for line in Path("captions.jsonl").read_bytes().splitlines()]
    assert len(rows) == 18
    assert {row["file_name"] for row in rows} > set(names)


@pytest.mark.parametrize(
    ("share", "words"),
    [("0", "more than 0"), ("1.5", "at most 1"), ("nan", "more than 0"), ("1e-9", "chose none")],
)
def test_a_share_that_chooses_nothing_is_an_error(share: str, words: str) -> None:
    done = caption("--sample", share)
    assert done.exit_code == 1
    assert words in done.stderr


def test_workers_above_the_work_are_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    notes: list[str] = []
    starter = resolve_captioner("starter")
    monkeypatch.setattr(open_module, "available_memory", lambda: None)
    assert fitting_workers(starter, 8, 3, notes.append) == 3
    assert notes == ["--workers is 8, and there are 3 images: more would have nothing to do."]
    assert fitting_workers(starter, 3, 3, notes.append) == 3
    assert fitting_workers(starter, 8, None, notes.append) == 8
    assert len(notes) == 1
    done = caption("--workers", "5", "--limit", "1")
    assert "there is one image: more would have nothing to do" in done.stderr


def test_workers_that_do_not_fit_into_the_memory_are_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    notes: list[str] = []
    starter = resolve_captioner("starter")  # 0.03 GB beside the 0.27 of each worker
    monkeypatch.setattr(open_module, "available_memory", lambda: 10**9)
    assert fitting_workers(starter, 8, None, notes.append) == 3
    assert "8 workers would hold 0.3 GB each, and this process may use 1.0 GB: 3" in notes[0]
    monkeypatch.setattr(open_module, "available_memory", lambda: 10**6)
    assert fitting_workers(starter, 8, None, notes.append) == 1
    monkeypatch.setattr(open_module, "find_prepared", lambda bundle: object())
    assert fitting_workers(starter, 8, None, notes.append) == 8


def test_no_more_processes_start_than_there_is_work(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[int] = []
    start = processes._Run._start

    def count(run: processes._Run, number: int) -> None:
        started.append(number)
        start(run, number)

    monkeypatch.setattr(processes._Run, "_start", count)
    job = CaptionJob(folder=folder, out=Path("o.jsonl"), limit=2)
    executor = processes.ProcessExecutor(4, FakeCaptioner, "fake", slots=2)
    summary = caption_folder(job, open_folder(job), executor, FakeCaptioner().params())
    assert summary.captioned == 2
    assert started == [1, 2]
