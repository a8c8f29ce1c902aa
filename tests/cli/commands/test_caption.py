"""The `caption` command, with a captioner that has no model."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from altogether_rt import opening
from altogether_rt.cli.commands.caption import folder as folder_command
from altogether_rt.cli.main import app
from altogether_rt.jobs import open as open_module
from altogether_rt.jobs.processes import ProcessExecutor
from altogether_rt.opening import ResolvedCaptioner, resolve_captioner
from tests.fake_captioner import FakeCaptioner

pytestmark = pytest.mark.lean


@pytest.fixture
def captioner(monkeypatch: pytest.MonkeyPatch) -> FakeCaptioner:
    fake = FakeCaptioner()
    monkeypatch.setattr(open_module, "open_captioner", lambda resolved, **options: fake)
    return fake


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with two pictures and a broken one in `photos`."""
    monkeypatch.chdir(tmp_path)
    photos = Path("photos")
    (photos / "sub").mkdir(parents=True)
    Image.new("RGB", (30, 20), "navy").save(photos / "a.png")
    Image.new("RGB", (30, 20), "teal").save(photos / "sub" / "b.JPG")
    (photos / "c.gif").write_text("404")
    lines = [
        '{"file_name": "a.png", "alt": "a boat"}',
        '{"file_name": "gone.png", "alt": "x"}',
        "?",
    ]
    (photos / "alts.jsonl").write_text("\n".join(lines))
    return photos


def caption(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["caption", *arguments])


def rows() -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path("captions.jsonl").read_text().splitlines()]


def test_folder_with_alts(folder: Path, captioner: FakeCaptioner) -> None:
    done = caption("photos", "--alt", "alts.jsonl")
    assert done.exit_code == 0
    assert [row["file_name"] for row in rows()] == ["a.png", "c.gif", "sub/b.JPG"]
    assert rows()[0]["alt"] == "a boat"
    assert "captions.jsonl: 2 captioned in 00:00" in done.stdout
    assert "1 failed (1 not_an_image)." in done.stdout
    assert "1 line of the alt-text file cannot be used: line 3: not JSON." in done.stderr
    assert "1 alt-text has no image in the folder: gone.png." in done.stderr
    done = caption("photos/", "--alt", "alts.jsonl")
    assert "0 captioned, 3 skipped (already there)." in done.stdout


def test_one_image_with_the_alt_texts_of_its_folder(folder: Path, captioner: FakeCaptioner) -> None:
    done = caption("photos/a.png", "--alt", "alts.jsonl")
    assert rows()[0]["alt"] == "a boat" and len(rows()) == 1
    assert "no image" not in done.stderr and "1 line of the alt-text file" in done.stderr


def test_hint_of_names_that_are_not_relative_to_the_folder(
    folder: Path, captioner: FakeCaptioner
) -> None:
    (folder / "alts.jsonl").write_text('{"file_name": "elsewhere/x.png", "alt": "a boat"}')
    done = caption("photos", "--alt", "alts.jsonl")
    assert done.exit_code == 1
    assert "the file's names must be relative to photos, as a.png is." in done.stderr
    done = caption("photos/c.gif", "--alt", "photos/alts.jsonl", "--out", "one.jsonl")
    assert done.exit_code == 1
    assert "must be relative to photos, as c.gif is." in done.stderr
    (folder / "alts.jsonl").write_text('{"file_name": "photos/a.png", "alt": "a boat"}')
    done = caption("photos", "--alt", "alts.jsonl")
    assert "was matched: photos/a.png is a.png." in done.stderr
    assert rows()[0]["alt"] == "a boat"
    Path("captions.jsonl").unlink()
    (folder / "alts.jsonl").write_text('{"file_name": "a.png", "alt": "a boat"}')
    assert "must be relative" not in caption("photos", "--alt", "alts.jsonl").stderr


def test_hint_of_alts_that_lie_there(folder: Path, captioner: FakeCaptioner) -> None:
    assert "give --alt alts.jsonl to use its alt-texts" in caption("photos").stderr


def test_json_summary(folder: Path, captioner: FakeCaptioner) -> None:
    done = caption("photos", "--alt", "alts.jsonl", "--json", "--sheet", "sheet.html")
    summary = json.loads(done.stdout)
    assert summary["captioned"] == 2
    assert summary["failed"] == {"not_an_image": 1}
    assert summary["images"] == 3
    assert summary["sheet"] == "sheet.html"
    assert summary["alts_without_image"] == {"count": 1, "examples": ["gone.png"]}
    assert Path("sheet.html").read_text().count("<article ") == 3


def test_quiet(folder: Path, captioner: FakeCaptioner) -> None:
    done = caption("photos", "--alt", "alts.jsonl", "--quiet")
    assert (done.exit_code, done.stdout, done.stderr) == (0, "", "")


def test_options_reach_the_captioner(
    folder: Path, captioner: FakeCaptioner, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []

    def resolve(
        bundle: str, *, device: str, dtype: str, kv_cache: str, allow_download: bool
    ) -> Any:
        seen.extend((bundle, device, dtype, kv_cache, allow_download))
        return resolve_captioner("starter")

    def load(resolved: Any, **options: Any) -> FakeCaptioner:
        seen.extend((options["threads"], options["num_slots"]))
        return captioner

    monkeypatch.setattr(opening, "resolve_captioner", resolve)
    monkeypatch.setattr(open_module, "open_captioner", load)
    arguments = (
        "photos --bundle b --device cpu --dtype float16 --kv-cache int8 --threads 2 --batch-size 5 "
        "--temperature 0.5 --top-p 0.9 --max-new-tokens 6 --seed 3 --limit 1 --out new/o.jsonl "
        "--sidecar .caption"
    )
    assert caption(*arguments.split()).exit_code == 0
    assert seen == ["b", "cpu", "float16", "int8", False, 2, 5]
    (row,) = [json.loads(line) for line in Path("new/o.jsonl").read_text().splitlines()]
    assert row["params"] == {"max_new_tokens": 6, "temperature": 0.5, "top_p": 0.9, "seed": 3}
    assert Path("photos/a.caption").read_text() == row["caption"] + "\n"


def test_captioner_is_loaded_as_asked(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []

    def load(resolved: ResolvedCaptioner, **options: Any) -> FakeCaptioner:
        calls.append((resolved.name, resolved.device, options))
        return FakeCaptioner()

    monkeypatch.setattr(open_module, "open_captioner", load)
    assert caption("photos", "--batch-size", "4", "--speculation", "off").exit_code == 0
    options = {"threads": None, "num_slots": 4, "speculation": "off"}
    assert calls == [("starter", "auto", options)]


@pytest.mark.parametrize(("given", "threads"), [(None, 3), (2, 2)])
def test_workers_share_the_cores(
    folder: Path, monkeypatch: pytest.MonkeyPatch, given: int | None, threads: int
) -> None:
    calls: list[Any] = []
    monkeypatch.setattr(open_module, "available_cores", lambda: 7)
    monkeypatch.setattr(
        open_module, "open_captioner", lambda resolved, **options: calls.append(options)
    )
    starter = resolve_captioner("starter")
    with open_module.open_executor(
        starter, workers=2, threads=given, num_slots=5, speculation="off"
    ) as executor:
        assert isinstance(executor, ProcessExecutor)
        assert executor.num_workers == 2
        executor._open_captioner()
    assert calls == [{"threads": threads, "num_slots": 5, "speculation": "off"}]


def test_no_recursion(folder: Path, captioner: FakeCaptioner) -> None:
    caption("photos", "--no-recursive")
    assert [row["file_name"] for row in rows()] == ["a.png", "c.gif"]


def test_another_seed_is_another_run(folder: Path, captioner: FakeCaptioner) -> None:
    caption("photos")
    done = caption("photos", "--seed", "1")
    assert done.exit_code == 1
    assert "captions.jsonl holds captions written with other parameters (seed: 0 then, 1 now)" in (
        done.stderr
    )
    assert "Traceback" not in done.stderr
    assert caption("photos", "--seed", "1", "--overwrite").exit_code == 0
    assert rows()[0]["params"]["seed"] == 1


def test_failed_images_are_tried_again_when_asked(folder: Path, captioner: FakeCaptioner) -> None:
    caption("photos")
    Image.new("RGB", (9, 9)).save(folder / "c.gif")
    assert "error" in rows()[1]
    caption("photos")
    assert "error" in rows()[1]
    caption("photos", "--retry-errors")
    assert "caption" in rows()[1]


def test_what_changed_is_named(folder: Path, captioner: FakeCaptioner) -> None:
    caption("photos", "--alt", "alts.jsonl")
    Image.new("RGB", (30, 20), "red").save(folder / "a.png")
    (folder / "alts.jsonl").write_text('{"file_name": "sub/b.JPG", "alt": "a ship"}')
    done = caption("photos", "--alt", "alts.jsonl")
    assert "1 image has changed since it was captioned (a.png): --update captions it" in done.stdout
    assert "2 images have other alt-texts than their captions were written from" in done.stdout
    assert "1 image failed in an earlier run: --retry-errors" in done.stderr
    summary = json.loads(caption("photos", "--alt", "alts.jsonl", "--json").stdout)
    assert summary["images_changed"] == {"count": 1, "examples": ["a.png"]}
    assert summary["alts_changed"] == {"count": 2, "examples": ["a.png", "sub/b.JPG"]}
    assert summary["images_unchecked"] == 0
    done = caption("photos", "--alt", "alts.jsonl", "--update")
    assert "2 made again, since image or alt-texts have changed" in done.stdout
    assert [row["alt"] for row in rows()] == ["", "", "a ship"]


def test_lines_that_are_no_rows_are_named(folder: Path, captioner: FakeCaptioner) -> None:
    caption("photos")
    with Path("captions.jsonl").open("a") as file:
        file.write("garbage\n")
    done = caption("photos")
    assert "1 line was not a row" in done.stderr
    assert "captions.jsonl.set-aside now: line 4 of captions.jsonl." in done.stderr
    assert len(rows()) == 3


def test_captions_edited_by_hand_are_never_replaced(folder: Path, captioner: FakeCaptioner) -> None:
    caption("photos", "--alt", "alts.jsonl")
    first, *others = rows()
    first |= {"caption": "by hand", "edited": True}
    others[1] |= {"edited": "yes"}  # what a sheet does not write is no edit
    output = Path("captions.jsonl")
    output.write_text("".join(json.dumps(row) + "\n" for row in (first, *others)))
    lines = (folder / "alts.jsonl").read_text().replace("a boat", "a ship")
    (folder / "alts.jsonl").write_text(lines + '\n{"file_name": "sub/b.JPG", "alt": "a bay"}')
    done = caption("photos", "--alt", "alts.jsonl", "--update")
    assert "1 made again" in done.stdout
    assert "keeps 1 caption edited by hand (a.png): delete a row there" in done.stderr
    assert [row.get("caption") == "by hand" for row in rows()] == [True, False, False]
    assert [row["alt"] for row in rows()] == ["a boat", "", "a bay"]
    before = output.read_bytes()
    done = caption("photos", "--alt", "alts.jsonl", "--overwrite")
    assert done.exit_code == 1 and output.read_bytes() == before
    assert "has 1 caption edited by hand (a.png), which --overwrite does not replace" in done.stderr
    output.write_text("".join(json.dumps(row) + "\n" for row in rows()[1:]))
    assert caption("photos", "--alt", "alts.jsonl", "--overwrite").exit_code == 0
    assert rows()[0]["alt"] == "a ship"


def test_rows_of_another_folder_in_the_output_are_told_of(
    folder: Path, captioner: FakeCaptioner
) -> None:
    other = Path("other")
    other.mkdir()
    Image.new("RGB", (30, 20), "olive").save(other / "d.png")
    Image.new("RGB", (30, 20), "gray").save(other / "e.png")
    caption("photos")
    done = caption("other", "--limit", "1")
    assert "captions.jsonl also has 3 rows of images not in other (a.png; c.gif; sub/b.JPG)" in (
        done.stderr
    )
    assert "an --out of its own" in done.stderr and len(rows()) == 4
    done = caption("photos", "--no-recursive", "--json")
    assert json.loads(done.stdout)["rows_elsewhere"] == {"count": 1, "examples": ["d.png"]}
    assert "rows of" not in caption("other/e.png", "--out", "e.jsonl").stderr
    assert "rows of" not in caption("other", "--out", "e.jsonl").stderr
    assert "not in" not in caption("other/e.png", "--out", "e.jsonl").stderr


def test_a_sheet_that_cannot_be_written_is_refused_before_the_run(
    folder: Path, captioner: FakeCaptioner, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = caption("photos", "--sheet", "photos/alts.jsonl/sheet.html")
    assert done.exit_code == 1 and not Path("captions.jsonl").exists()
    assert "alts.jsonl is not a folder): name another for the sheet." in done.stderr
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    done = caption("photos", "--sheet", "new/sheet.html")
    assert done.exit_code == 1 and not Path("captions.jsonl").exists()
    assert "new/sheet.html cannot be written (no right to write to " in done.stderr


def test_a_disk_that_is_too_full_for_the_sheet(
    folder: Path, captioner: FakeCaptioner, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write_sheet(*_: object, **options: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(folder_command, "write_sheet", write_sheet)
        done = caption("photos", "--sheet", "sheet.html")
    assert done.exit_code == 1 and len(rows()) == 3
    assert "sheet.html cannot be written (No space left on device); the captions are in" in (
        done.stderr
    )
    assert caption("photos", "--sheet", "sheet.html").exit_code == 0 and Path("sheet.html").exists()


def test_sidecars_of_a_run_are_not_offered_as_alts(folder: Path, captioner: FakeCaptioner) -> None:
    caption("photos", "--sidecar", ".txt")
    assert "--alt-beside" not in caption("photos").stderr
    assert "--alt-beside" not in caption("photos", "--out", "other.jsonl").stderr
    (folder / "a.txt").write_text("by hand\n")
    assert "1 .txt file lies beside the images" in caption("photos").stderr


def test_hand_written_sidecars_survive_overwriting(folder: Path, captioner: FakeCaptioner) -> None:
    (folder / "a.txt").write_text("by hand\n")
    caption("photos", "--sidecar", ".txt")
    first = (folder / "sub" / "b.txt").read_text()
    Image.new("RGB", (30, 20), "red").save(folder / "sub" / "b.JPG")
    done = caption("photos", "--sidecar", ".txt", "--overwrite")
    assert "1 sidecar file holds other text and was left alone: photos/a.txt." in done.stderr
    assert (folder / "a.txt").read_text() == "by hand\n"
    assert (folder / "sub" / "b.txt").read_text() != first


def test_a_sheet_replaces_sheets_alone(folder: Path, captioner: FakeCaptioner) -> None:
    Path("page.html").write_text("<!doctype html>\n<html><title>Mine</title>")
    done = caption("photos", "--sheet", "page.html")
    assert done.exit_code == 1
    assert "page.html is not a contact sheet, and it is not replaced" in done.stderr
    assert not Path("captions.jsonl").exists()
    for _ in range(2):
        assert caption("photos", "--sheet", "sheet.html").exit_code == 0
    Path("link.html").symlink_to("sheet.html")
    assert caption("photos", "--sheet", "link.html").exit_code == 1
    os.mkfifo("fifo")
    assert caption("photos", "--sheet", "fifo").exit_code == 1


def test_a_sheet_needs_a_file_of_rows(folder: Path) -> None:
    assert caption("photos", "--out", "-", "--sheet", "s.html").exit_code == 2


def test_all_failed(folder: Path, captioner: FakeCaptioner) -> None:
    done = caption("photos/c.gif")
    assert done.exit_code == 1
    assert "the one image could not be captioned: captions.jsonl says why" in done.stderr
    assert rows()[0]["error"]["class"] == "not_an_image"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["absent"], "absent cannot be read"),
        (["photos/sub", "--alt", "absent.jsonl"], "there is no alt-text file absent.jsonl"),
        (["photos", "--out", "photos"], "photos is a folder"),
        (["photos", "--sidecar", "txt"], "it must be an ending such as .txt"),
        (["empty"], "there are no images in empty"),
    ],
)
def test_user_errors_are_one_sentence(
    folder: Path, captioner: FakeCaptioner, arguments: list[str], sentence: str
) -> None:
    Path("empty").mkdir()
    done = caption(*arguments)
    assert done.exit_code == 1
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr
    assert not Path("captions.jsonl").exists()


@pytest.mark.parametrize("arguments", [["--limit", "0"], ["--batch-size", "x"], ["--nonsense"]])
def test_usage_errors(folder: Path, arguments: list[str]) -> None:
    assert caption("photos", *arguments).exit_code == 2


@pytest.mark.parametrize("name", ["captions.csv", "sheet.HTML", "a.png"])
def test_an_output_that_is_named_like_something_else(
    folder: Path, captioner: FakeCaptioner, name: str
) -> None:
    done = caption("photos", "--out", name)
    assert done.exit_code == 2 and "rows are JSON lines" in done.output
    assert not Path(name).exists()
    Path(name).touch()  # who has made it, wants it
    assert caption("photos", "--out", name).exit_code == 0


def test_interrupt_says_how_to_go_on(folder: Path, captioner: FakeCaptioner) -> None:
    captioner.interrupt_after = 1
    done = caption("photos")
    assert done.exit_code == 130
    assert "give the same command to go on" in done.stderr
    assert Path("captions.jsonl.part").exists()
    captioner.interrupt_after = None
    assert caption("photos").exit_code == 0
    assert len(rows()) == 3
    assert os.listdir() == ["photos", "captions.jsonl"] or not Path("captions.jsonl.part").exists()


@pytest.mark.parametrize(
    ("number", "sigint", "code"),
    [
        (signal.SIGINT, "signal.default_int_handler", 130),
        (signal.SIGTERM, "signal.default_int_handler", 143),
        (signal.SIGTERM, "signal.SIG_IGN", 143),
    ],
)
def test_real_interrupt(
    folder: Path, root: Path, number: signal.Signals, sigint: str, code: int
) -> None:
    for i in range(40):
        Image.new("RGB", (9, 9), (i, 0, 0)).save(folder / f"{i:02}.png")
    program = (
        "import signal, sys; from altogether_rt.cli import main\n"
        "from altogether_rt.jobs import open as module\n"
        "from tests.fake_captioner import FakeCaptioner\n"
        # A suite run in the background inherits SIGINT ignored.
        f"signal.signal(signal.SIGINT, {sigint})\n"
        "module.open_captioner = lambda *_, **options: FakeCaptioner(delay_s=0.05)\n"
        "sys.argv[1:] = ['caption', 'photos', '--log-file', 'log']; main.run()\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(root)},
    )
    part = Path("captions.jsonl.part")
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and not (part.exists() and part.stat().st_size):
        time.sleep(0.01)
    process.send_signal(number)
    _, stderr = process.communicate(timeout=30)
    assert process.returncode == code
    assert f"caption ended with {code}" in Path("log").read_text()
    assert "Interrupted: the captions so far are kept" in stderr
    assert "Traceback" not in stderr
    assert part.read_bytes().endswith(b"\n")


def test_help_shows_examples() -> None:
    done = CliRunner().invoke(app, ["caption", "--help"])
    assert done.exit_code == 0
    assert "altogether-rt caption photos/ --alt alts.jsonl" in done.stdout


def test_alt_texts_that_say_nothing_are_counted_and_left_out_when_asked(
    folder: Path, captioner: FakeCaptioner
) -> None:
    lines = [
        {"file_name": "a.png", "alt": ["IMG_1234.JPG", "Tom &amp; Jerry"]},
        {"file_name": "sub/b.JPG", "alt": "a boat"},
    ]
    (folder / "alts.jsonl").write_text("\n".join(map(json.dumps, lines)))
    done = caption("photos", "--alt", "alts.jsonl")
    assert "1 alt-text says nothing of its image: 1 name that a camera gave" in done.stderr
    assert "--drop-noise-alts leaves such unread" in done.stderr
    assert list(captioner.requests[0].alts) == ["IMG_1234.JPG", "Tom &amp; Jerry"]
    assert "hygiene" not in rows()[0] and "alt_used" not in rows()[0]
    # Captions from other texts do not stand beside these.
    done = caption("photos", "--alt", "alts.jsonl", "--drop-noise-alts", "--unescape-alts")
    assert done.exit_code == 1
    assert "written with other options for alt-texts (none)" in " ".join(done.stderr.split())
    captioner.requests.clear()
    options = ("--drop-noise-alts", "--unescape-alts", "--drop-boilerplate", "--overwrite")
    done = caption("photos", "--alt", "alts.jsonl", *options, "--json")
    assert list(captioner.requests[0].alts) == ["Tom & Jerry"]
    first, *others = rows()
    assert first["alt"] == ["IMG_1234.JPG", "Tom &amp; Jerry"]
    assert first["alt_used"] == ["Tom & Jerry"]
    assert first["alt_notes"] == ["camera", "entities"]
    assert first["hygiene"] == ["unescape", "drop_noise", "drop_boilerplate"]
    assert all("alt_used" not in row for row in others)
    summary = json.loads(done.stdout)
    assert summary["alts_noise"] == {"camera": {"count": 1, "examples": ["IMG_1234.JPG"]}}
    assert summary["alts_unescaped"] == 1
    assert "read without boilerplate: none was found" in done.stderr
    done = caption("photos", "--alt", "alts.jsonl", *options[:3])
    assert done.exit_code == 0, done.stderr
    assert "0 captioned, 3 skipped (already there)." in done.stdout


def test_the_language_of_alt_texts(folder: Path, captioner: FakeCaptioner) -> None:
    pytest.importorskip("py3langid", reason="needs the extra lang")
    line = {"file_name": "a.png", "alt": "ein brauner Hund läuft am Strand"}
    (folder / "alts.jsonl").write_text(json.dumps(line))
    done = caption("photos", "--alt", "alts.jsonl", "--alt-language")
    assert rows()[0]["alt_language"] == ["de"]
    assert "alt_language" not in rows()[1]
    assert "Languages of alt-texts: 1 de." in done.stderr
