"""A resumed run compares content: images and alt-texts that changed are never taken as done."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from altogether_rt.data.embeddings import EncoderStamp, SavedEmbeddings
from altogether_rt.errors import AltogetherError
from altogether_rt.jobs.executor import LocalExecutor
from altogether_rt.jobs.folder import (
    CaptionJob,
    CaptionSummary,
    EmbeddingFiles,
    caption_folder,
    open_folder,
)
from altogether_rt.jobs.processes import ProcessExecutor
from tests.fake_captioner import FakeCaptioner

pytestmark = pytest.mark.lean

STAMP = EncoderStamp("0123456789ab", 16)


def draw(path: Path, seed: int) -> None:
    pixels = np.random.default_rng(seed).integers(0, 255, (20, 30, 3), np.uint8)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Four pictures, the last one broken, and alt-texts for three."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for seed, name in enumerate("abc"):
        draw(folder / f"{name}.png", seed)
    (folder / "d.png").write_bytes(b"no picture")
    write_alts(folder, a="boat", b="house", c="tree")
    return folder


def write_alts(folder: Path, **alts: str) -> None:
    lines = [json.dumps({"file_name": f"{name}.png", "alt": alt}) for name, alt in alts.items()]
    (folder / "alts.jsonl").write_text("\n".join(lines))


def run(folder: Path, out: Path, fake: FakeCaptioner | None = None, **options: Any) -> Summary:
    fake = fake or FakeCaptioner()
    alts = options.pop("alts", Path("alts.jsonl"))
    job = CaptionJob(folder=folder, out=out, alts=alts, **options)
    return caption_folder(job, open_folder(job), LocalExecutor(fake), fake.params())


Summary = CaptionSummary


def rows_of(out: Path) -> dict[str, dict[str, Any]]:
    rows = [json.loads(line) for line in out.read_text("utf-8").splitlines()]
    assert len({row["file_name"] for row in rows}) == len(rows)
    return {row["file_name"]: row for row in rows}


def test_a_replaced_image_is_named_and_made_again_when_asked(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "c.jsonl"
    run(folder, out)
    before, old = rows_of(out), os.stat(folder / "b.png")
    draw(folder / "b.png", 9)
    os.utime(folder / "b.png", ns=(old.st_atime_ns, old.st_mtime_ns))
    summary = run(folder, out)
    assert (summary.captioned, summary.skipped, list(summary.changes.images)) == (0, 4, ["b.png"])
    assert rows_of(out) == before
    fake = FakeCaptioner()
    summary = run(folder, out, fake, update=True)
    assert (summary.captioned, summary.updated, len(fake.requests)) == (1, 1, 1)
    after = rows_of(out)
    assert {name for name in after if after[name] != before[name]} == {"b.png"}
    undisturbed = tmp_path / "d.jsonl"
    run(folder, undisturbed)
    assert out.read_bytes() == undisturbed.read_bytes()
    assert not run(folder, out).changes.images


def test_a_broken_image_that_was_mended_has_changed(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "c.jsonl"
    run(folder, out)
    draw(folder / "d.png", 4)
    summary = run(folder, out)
    assert (list(summary.changes.images), summary.errors_skipped) == (["d.png"], 1)
    assert run(folder, out, update=True).captioned == 1
    assert "caption" in rows_of(out)["d.png"]


def test_an_image_that_only_moved_or_was_touched_has_not_changed(
    folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "c.jsonl"
    run(folder, out)
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    for path in copy.iterdir():
        os.utime(path, (0, 0))
    summary = run(copy, out, update=True)
    assert (summary.captioned, summary.skipped, summary.updated) == (0, 4, 0)


def test_another_folder_with_the_same_names_is_refused(folder: Path, tmp_path: Path) -> None:
    out, other = tmp_path / "c.jsonl", tmp_path / "other"
    run(folder, out)
    shutil.copytree(folder, other)
    for seed, name in enumerate("abcd"):
        draw(other / f"{name}.png", 20 + seed)
    before = out.read_bytes()
    with pytest.raises(AltogetherError, match=r"holds captions of other images \(a.png for one\)"):
        run(other, out)
    assert out.read_bytes() == before
    assert run(other, out, update=True).updated == 4
    draw(other / "a.png", 50)
    draw(other / "b.png", 51)
    assert list(run(other, out).changes.images) == ["a.png", "b.png"]


def test_two_images_make_another_folder_and_one_does_not(tmp_path: Path) -> None:
    """Of a single image it cannot be told whether it was replaced or is that of another folder."""
    out = tmp_path / "c.jsonl"
    for names in ("a", "ab"):
        folder = tmp_path / names
        folder.mkdir()
        for seed, name in enumerate(names):
            draw(folder / f"{name}.png", seed)
        run(folder, out, alts=None, overwrite=True)
        for seed, name in enumerate(names):
            draw(folder / f"{name}.png", 40 + seed)
        if names == "a":
            assert list(run(folder, out, alts=None).changes.images) == ["a.png"]
            continue
        with pytest.raises(AltogetherError, match="holds captions of other images"):
            run(folder, out, alts=None)


def test_a_changed_alt_text_is_named_and_made_again_when_asked(
    folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "c.jsonl"
    run(folder, out)
    before = rows_of(out)
    write_alts(folder, a="boat", b="shed", c="tree")
    summary = run(folder, out)
    assert (summary.captioned, list(summary.changes.alts)) == (0, ["b.png"])
    assert rows_of(out) == before
    assert run(folder, out, update=True).updated == 1
    assert rows_of(out)["b.png"]["alt"] == "shed"


def test_forgotten_alt_texts_are_refused(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "c.jsonl"
    run(folder, out)
    with pytest.raises(AltogetherError, match=r"written from alt-texts .* give them again"):
        run(folder, out, alts=None)


def test_an_interrupted_update_goes_on(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "c.jsonl"
    run(folder, out)
    for seed, name in enumerate("abc"):
        draw(folder / f"{name}.png", 30 + seed)
    fake = FakeCaptioner(batch_size=1)
    fake.interrupt_after = 2
    with pytest.raises(KeyboardInterrupt):
        run(folder, out, fake, update=True)
    fake.interrupt_after = None
    run(folder, out, fake, update=True)
    assert len(fake.requests) == 3  # none of them twice
    undisturbed = tmp_path / "d.jsonl"
    run(folder, undisturbed)
    assert out.read_bytes() == undisturbed.read_bytes()


def test_rows_without_a_hash_are_kept_and_counted(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "c.jsonl"
    run(folder, out)
    rows = [{**row} for row in rows_of(out).values()]
    for row in rows:
        del row["image_hash"]
    out.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    draw(folder / "a.png", 9)
    summary = run(folder, out, update=True)
    assert (summary.captioned, summary.skipped, summary.images_unchecked) == (0, 4, 3)


def test_metadata_does_not_make_another_image(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "c.jsonl"
    image = Image.open(folder / "a.png").copy()
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\0"
    image.save(folder / "e.jpg")
    image.save(folder / "f.webp", exif=exif)
    run(folder, out)
    image.save(folder / "e.jpg", xmp=b"<x:xmpmeta xmlns:x='adobe:ns:meta/'/>")
    image.save(folder / "f.webp", xmp=b"<x/>", exif=exif)
    assert b"xmpmeta" in (folder / "e.jpg").read_bytes()
    assert not run(folder, out).changes.images
    image.save(folder / "e.jpg", comment=b"another")
    assert list(run(folder, out).changes.images) == ["e.jpg"]


def test_saved_embeddings_follow_the_image(folder: Path, tmp_path: Path) -> None:
    out, saved = tmp_path / "c.jsonl", tmp_path / "e.npy"
    files = EmbeddingFiles(STAMP, save=saved)
    run(folder, out, embeddings=files)
    before = {name: SavedEmbeddings(saved, STAMP).get(name).content for name in ("a.png", "b.png")}
    draw(folder / "b.png", 9)
    run(folder, out, embeddings=files, update=True)
    after = SavedEmbeddings(saved, STAMP)
    assert after.get("a.png").content == before["a.png"]
    assert after.get("b.png").content != before["b.png"]


def test_identical_pixels_in_other_files_keep_their_own_hash(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "c.jsonl"
    Image.open(folder / "a.png").save(folder / "e.bmp")
    write_alts(folder, a="", b="house")
    fake = FakeCaptioner()
    run(folder, out, fake)
    rows = rows_of(out)
    assert rows["a.png"]["caption"] == rows["e.bmp"]["caption"]
    assert rows["a.png"]["image_hash"] != rows["e.bmp"]["image_hash"]
    assert len(fake.requests) == 3
    assert not run(folder, out).changes.images


@pytest.mark.parametrize("workers", [0, 2])
def test_notes_on_a_mended_file_stand_in_its_row(
    folder: Path, tmp_path: Path, workers: int
) -> None:
    Image.open(folder / "a.png").save(folder / "e.jpg")
    (folder / "e.jpg").write_bytes((folder / "e.jpg").read_bytes()[:-2])  # its end marker
    Image.open(folder / "a.png").save(folder / "g.png")
    broken = (folder / "g.png").read_bytes()
    (folder / "g.png").write_bytes(broken[:-12])  # IEND
    out, fake = tmp_path / "c.jsonl", FakeCaptioner()
    job = CaptionJob(folder=folder, out=out)
    pool = ProcessExecutor(2, FakeCaptioner, "fake", slots=3)
    executor = pool if workers else LocalExecutor(fake)
    caption_folder(job, open_folder(job), executor, fake.params())
    rows = rows_of(out)
    assert rows["e.jpg"]["notes"] == ["it ends without an end marker"]
    assert rows["g.png"]["notes"] == ["it ends without an IEND chunk"]
    assert rows["g.png"]["caption"] == rows["a.png"]["caption"]
    assert {name for name, row in rows.items() if "notes" in row} == {"e.jpg", "g.png"}
    assert all("image_hash" in row for row in rows.values())
