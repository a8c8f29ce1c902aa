"""Alt-texts taken from images, and captions written into them, across runs that are stopped."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from altogether_rt.captions import Caption
from altogether_rt.cli.main import app
from altogether_rt.data.sinks.alt_writer import IN_PLACE, AltWriter
from altogether_rt.data.xmp.files import read_alt_texts, write_alt_text
from altogether_rt.errors import AltogetherError
from altogether_rt.jobs import open as open_module
from altogether_rt.jobs.executor import LocalExecutor
from altogether_rt.jobs.folder import CaptionJob, CaptionSummary, caption_folder, open_folder
from tests.fake_captioner import FakeCaptioner

pytestmark = pytest.mark.lean

ALT = b"""<x:xmpmeta xmlns:x="adobe:ns:meta/"><r:RDF
xmlns:r="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><r:Description r:about=""
xmlns:i="http://iptc.org/std/Iptc4xmpCore/1.0/xmlns/"
xmlns:dc="http://purl.org/dc/elements/1.1/">%s</r:Description></r:RDF></x:xmpmeta>"""
BOAT = ALT % b"<i:AltTextAccessibility>the Marigold</i:AltTextAccessibility>"
MORE = ALT % b"<dc:description>a shed by the lake</dc:description>"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A picture with an alt-text, one with a description, one with nothing, and a BMP."""
    folder = tmp_path / "photos"
    (folder / "sub").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name, xmp in (("a.jpg", BOAT), ("b.webp", MORE), ("sub/c.png", b""), ("d.bmp", b"")):
        image = Image.fromarray(rng.integers(0, 255, (20, 30, 3), np.uint8))
        options: dict[str, Any] = {"xmp": xmp} if xmp else {}
        image.save(folder / name, **options)
    return folder


def run(
    folder: Path, out: Path, fake: FakeCaptioner | None = None, **options: Any
) -> CaptionSummary:
    fake = fake or FakeCaptioner()
    job = CaptionJob(folder=folder, out=out, **options)
    return caption_folder(job, open_folder(job), LocalExecutor(fake), fake.params())


def write(folder: Path, out: Path, target: str, **options: Any) -> AltWriter:
    """Run with `--write-alt`; what was written into images."""
    written = run(folder, out, write_alt=target, **options).alts_written
    assert written is not None
    return written


def rows_of(out: Path) -> dict[str, dict[str, Any]]:
    rows = [json.loads(line) for line in out.read_text("utf-8").splitlines()]
    return {row["file_name"]: row for row in rows}


def alt_of(path: Path) -> str:
    texts = read_alt_texts(path)
    return "" if texts is None else texts.alt


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_alt_texts_come_from_the_images(folder: Path, tmp_path: Path) -> None:
    run(folder, tmp_path / "1", embedded="alt")
    run(folder, tmp_path / "2", embedded="description")
    alts = [{name: row["alt"] for name, row in rows_of(tmp_path / n).items()} for n in "12"]
    assert alts[0] == {"a.jpg": "the Marigold", "b.webp": "", "d.bmp": "", "sub/c.png": ""}
    assert alts[1] == {**alts[0], "b.webp": "a shed by the lake"}
    with pytest.raises(AltogetherError, match=r"no image in .* has an alt-text in its XMP"):
        run(folder / "sub", tmp_path / "3", embedded="description")
    write_alt_text(folder / "sub" / "c.png", folder / "sub" / "c.png", "ours")
    said = r"has an alt-text in its XMP \(1 with captions of --write-alt, which are none\)"
    with pytest.raises(AltogetherError, match=said):
        run(folder / "sub", tmp_path / "3", embedded="alt")


def test_captions_in_place_change_neither_alts_nor_images(folder: Path, tmp_path: Path) -> None:
    out, undisturbed = tmp_path / "c.jsonl", tmp_path / "d.jsonl"
    run(folder, undisturbed, embedded="alt")
    written = write(folder, out, IN_PLACE, embedded="alt")
    assert written.num_written == 3
    assert written.failed.examples == [
        "d.bmp: alt-texts are written to whole JPEG, PNG and WebP files"
    ]
    assert out.read_bytes() == undisturbed.read_bytes()
    for name, row in rows_of(out).items():
        assert alt_of(folder / name) == ("" if name == "d.bmp" else row["caption"])
    summary = run(folder, out, embedded="alt", write_alt=IN_PLACE)
    assert (summary.captioned, summary.skipped) == (0, 4)
    assert not summary.changes.images
    assert not summary.changes.alts
    assert summary.alts_written is not None
    assert summary.alts_written.num_written == 0


def test_an_alt_text_that_the_caption_does_not_know_is_kept(folder: Path, tmp_path: Path) -> None:
    assert write(folder, tmp_path / "c.jsonl", IN_PLACE).kept.examples == ["a.jpg"]
    assert alt_of(folder / "a.jpg") == "the Marigold"


@pytest.mark.parametrize("target", ["inplace", "in_place", "In-Place"])
def test_in_place_misspelt_is_no_folder(folder: Path, tmp_path: Path, target: str) -> None:
    with pytest.raises(AltogetherError, match=f"write in-place .* or ./{target} for a folder"):
        write(folder, tmp_path / "c.jsonl", target)
    assert not (tmp_path / "c.jsonl").exists()
    AltWriter(folder, f"./{target}")


def test_copies(folder: Path, tmp_path: Path) -> None:
    out, copies = tmp_path / "c.jsonl", tmp_path / "copies"
    before = contents(folder)
    (copies / "sub").mkdir(parents=True)
    shutil.copy(folder / "a.jpg", copies / "sub" / "c.png")  # another file
    run(folder, out)
    written = write(folder, out, str(copies))
    assert written.num_written == 2
    assert written.kept.examples == [str(copies / "sub" / "c.png")]
    assert contents(folder) == before
    rows = rows_of(out)
    for name in ("a.jpg", "b.webp"):
        assert alt_of(copies / name) == rows[name]["caption"]
    with pytest.raises(AltogetherError, match="whose images it copies"):
        write(folder, out, str(folder / "new"))


def test_an_image_that_changed_gets_no_caption(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "c.jsonl"
    run(folder, out)
    Image.new("RGB", (9, 9)).save(folder / "sub" / "c.png")
    before = (folder / "sub" / "c.png").read_bytes()
    written = write(folder, out, IN_PLACE)
    assert "sub/c.png: the image has changed" in written.failed.examples[-1]
    assert (folder / "sub" / "c.png").read_bytes() == before


def test_nothing_is_written_through_links(folder: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    (outside / "deep").mkdir(parents=True)
    shutil.copy(folder / "b.webp", outside / "deep" / "e.webp")
    shutil.move(folder / "a.jpg", outside / "a.jpg")
    (folder / "a.jpg").symlink_to(outside / "a.jpg")
    (folder / "deep").symlink_to(outside / "deep")
    copies = tmp_path / "copies"
    copies.mkdir()
    (copies / "sub").symlink_to(outside)
    os.mkfifo(copies / "b.webp")
    before = contents(outside)
    in_place = write(folder, tmp_path / "c.jsonl", IN_PLACE)
    assert [failed.partition(":")[0] for failed in in_place.failed.examples] == [
        "a.jpg", "d.bmp", "deep/e.webp",
    ]  # fmt: skip
    copied = write(folder, tmp_path / "c.jsonl", str(copies))
    assert [failed.partition(":")[0] for failed in copied.failed.examples] == [
        "b.webp", "d.bmp", "sub/c.png",
    ]  # fmt: skip
    assert contents(outside) == before


class Stalling(FakeCaptioner):
    """Gives so many captions, then waits to be killed."""

    def __init__(self, num_captions: int) -> None:
        super().__init__(batch_size=1, delay_s=0.01)
        self._num_captions = num_captions

    def stream(self, *arguments: Any, **options: Any) -> Iterator[Caption]:
        for number, caption in enumerate(super().stream(*arguments, **options)):
            if number == self._num_captions:
                time.sleep(60)
            yield caption


@pytest.mark.usefixtures("uncovered")
def test_a_killed_run_leaves_whole_images_and_goes_on(
    folder: Path, tmp_path: Path, root: Path
) -> None:
    pixels = {}
    for index in range(20):
        image = Image.new("RGB", (9, 9), (index, 0, 0))
        image.save(folder / f"{index:02}.png")
        pixels[f"{index:02}.png"] = image.tobytes()
    out = tmp_path / "c.jsonl"
    program = (
        "import sys; from pathlib import Path; from tests.jobs.test_alts_in_images import *\n"
        "run(Path(sys.argv[1]), Path(sys.argv[2]), Stalling(int(sys.argv[3])), write_alt=IN_PLACE)"
    )
    killed = 0
    for num_rows in (3, 9, 1000):
        arguments = [str(folder), str(out), str(num_rows + 3)]
        process = subprocess.Popen([sys.executable, "-c", program, *arguments], cwd=root)
        part = Path(f"{out}.part")
        while process.poll() is None:
            if part.exists() and part.read_bytes().count(b"\n") >= num_rows:
                process.send_signal(signal.SIGKILL)
                break
            time.sleep(0.002)
        killed += process.wait() == -signal.SIGKILL
        for name in pixels:
            with Image.open(folder / name) as image:
                assert image.tobytes() == pixels[name]
    assert killed == 2
    rows = rows_of(out)
    assert len(rows) == 24
    for name in pixels:
        assert alt_of(folder / name) == rows[name]["caption"]


def test_a_temporary_of_a_killed_run_is_no_image(folder: Path, tmp_path: Path) -> None:
    shutil.copy(folder / "d.bmp", folder / ".d.bmp.0123456789abcdef.tmp")
    run(folder, tmp_path / "c.jsonl")
    assert len(rows_of(tmp_path / "c.jsonl")) == 4


def test_the_command(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(open_module, "open_captioner", lambda *_, **options: FakeCaptioner())
    monkeypatch.chdir(tmp_path)

    def caption(*options: str) -> Any:
        return CliRunner().invoke(app, ["caption", "photos", *options])

    done = caption("--alt-embedded", "alt", "--write-alt", "in-place")
    assert done.exit_code == 0
    assert "3 images have their captions as alt-text in XMP." in done.stdout
    assert "1 image cannot hold its caption: d.bmp" in done.stderr
    done = caption("--alt-embedded", "alt", "--write-alt", "in-place")
    assert "3 images have their captions as alt-text in XMP, 3 from before." in done.stdout
    done = caption("--alt-embedded", "alt", "--write-alt", "copies", "--json")
    assert json.loads(done.stdout)["alts_written"] == 3
    assert caption("--alt-embedded", "alt", "--alt", "x").exit_code == 2
    assert caption("--alt-embedded", "other").exit_code == 2
