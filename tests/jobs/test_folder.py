"""Folder in, rows out: order, errors, resuming, whatever happens."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from altogether_rt.data.images import ImageLimits
from altogether_rt.errors import AltogetherError
from altogether_rt.jobs.executor import LocalExecutor
from altogether_rt.jobs.folder import CaptionJob, CaptionSummary, caption_folder, open_folder
from tests.fake_captioner import FakeCaptioner
from tests.jobs.watching import size_of

#: Of the HEIC files of the data folder, those that can be read where the extra is installed.
NUM_READABLE_HEIC = 6 if importlib.util.find_spec("pillow_heif") else 0

pytestmark = pytest.mark.lean


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Twelve pictures, three of them broken, in two folders; alt-texts for some."""
    folder = tmp_path / "pictures"
    rng = np.random.default_rng(0)
    for i in range(12):
        path = folder / ("sub" if i % 3 == 2 else ".") / f"{i:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (20, 30, 3), np.uint8)).save(path)
    (folder / "00.png").write_bytes(b"")
    (folder / "04.png").write_bytes((folder / "04.png").read_bytes()[:500])
    (folder / "10.png").write_text("not found")
    alts = [{"file_name": f"{i:02}.png", "alt": [f"alt {i}", "two"]} for i in (1, 3, 4, 77)]
    (folder / "alts.jsonl").write_text("".join(json.dumps(alt) + "\n" for alt in alts))
    return folder


def run(
    folder: Path, out: Path, captioner: FakeCaptioner | None = None, **options: Any
) -> CaptionSummary:
    captioner = captioner or FakeCaptioner()
    params = captioner.params(seed=options.pop("seed", None))
    alts = options.pop("alts", Path("alts.jsonl"))
    job = CaptionJob(folder=folder, out=out, alts=alts, **options)
    return caption_folder(job, open_folder(job), LocalExecutor(captioner), params)


def rows_of(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.read_text("utf-8").splitlines()]


def test_one_row_an_image_in_order(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "c.jsonl"
    summary = run(folder, out)
    rows = rows_of(out)
    top = [f"{i:02}.png" for i in range(12) if i % 3 != 2]
    assert [row["file_name"] for row in rows] == top + [f"sub/{i:02}.png" for i in (2, 5, 8, 11)]
    assert (summary.captioned, summary.skipped) == (9, 0)
    assert summary.failed == {"empty": 1, "truncated": 1, "not_an_image": 1}
    by_name = {row["file_name"]: row for row in rows}
    row = by_name["01.png"]
    assert list(row) == ["file_name", "alt", "caption", "finish_reason", "tokens",
                         "alt_truncated", "bundle", "params", "seed", "image_hash"]  # fmt: skip
    png = (folder / "01.png").read_bytes()
    assert row["image_hash"] == hashlib.sha256(png).hexdigest()[:16]
    assert row["alt"] == ["alt 1", "two"]
    assert row["caption"].endswith("[alt 1; two]")
    assert row["params"] == {"max_new_tokens": 8, "temperature": 0.0, "top_p": 1.0, "seed": 0}
    assert (row["bundle"], row["seed"], row["finish_reason"]) == ("fake", 7, "eos")
    assert by_name["06.png"]["alt"] == ""
    failed = by_name["04.png"]
    assert list(failed) == ["file_name", "alt", "error", "image_hash"]
    assert failed["alt"] == ["alt 4", "two"]
    assert failed["error"]["class"] == "truncated"


def test_alts_without_image_are_reported(folder: Path, tmp_path: Path) -> None:
    inputs = open_folder(CaptionJob(folder=folder, out=tmp_path / "c", alts=Path("alts.jsonl")))
    assert inputs.alts_without_image.examples == ["77.png"]


def test_batch_size_changes_nothing(folder: Path, tmp_path: Path) -> None:
    for size in (1, 2, 50):
        run(folder, tmp_path / f"{size}.jsonl", FakeCaptioner(batch_size=size))
    assert len({(tmp_path / f"{size}.jsonl").read_bytes() for size in (1, 2, 50)}) == 1


def test_rerun_captions_only_what_is_new(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "c.jsonl"
    run(folder, out)
    before = out.read_bytes()
    captioner = FakeCaptioner()
    summary = run(folder, out, captioner)
    assert captioner.requests == []
    assert (summary.captioned, summary.skipped, summary.num_failed) == (0, 12, 0)
    assert out.read_bytes() == before
    Image.new("RGB", (9, 9)).save(folder / "00-new.png")
    summary = run(folder, out, captioner)
    assert (summary.captioned, summary.skipped) == (1, 12)
    names = [row["file_name"] for row in rows_of(out)]
    assert names[:2] == ["00-new.png", "00.png"]
    assert len(names) == 13


def test_limit(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "c.jsonl"
    assert run(folder, out, limit=3).captioned == 2
    assert len(rows_of(out)) == 3
    assert run(folder, out, limit=5).skipped == 3
    assert run(folder, out).skipped == 5
    undisturbed = tmp_path / "d.jsonl"
    run(folder, undisturbed)
    assert out.read_bytes() == undisturbed.read_bytes()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"captioner": FakeCaptioner("other")}, "of bundle fake, and this one is other"),
        ({"seed": 5}, "other parameters"),
        ({"alts": None}, r"from alt-texts \(that of 01.png for one\), and there are none now"),
    ],
)
def test_another_run_is_refused(
    folder: Path, tmp_path: Path, change: dict[str, Any], reason: str
) -> None:
    out = tmp_path / "c.jsonl"
    run(folder, out)
    before = out.read_bytes()
    with pytest.raises(AltogetherError, match=reason):
        run(folder, out, **change)
    assert out.read_bytes() == before
    run(folder, out, overwrite=True, **change)
    assert out.read_bytes() != before


def test_interrupted_run_goes_on(folder: Path, tmp_path: Path) -> None:
    out, undisturbed = tmp_path / "c.jsonl", tmp_path / "d.jsonl"
    run(folder, undisturbed)
    captioner = FakeCaptioner()
    captioner.interrupt_after = 4
    with pytest.raises(KeyboardInterrupt):
        run(folder, out, captioner)
    assert not out.exists()
    captioner.interrupt_after = None
    summary = run(folder, out, captioner)
    assert len(captioner.requests) == 9  # none of them twice
    assert summary.skipped >= 4
    assert out.read_bytes() == undisturbed.read_bytes()


def test_failing_captioner_keeps_the_rows_so_far(folder: Path, tmp_path: Path) -> None:
    class Failing(FakeCaptioner):
        def params(self, **overrides: Any) -> Any:
            self.delay_s = 0.0
            return super().params(**overrides)

        def stream(self, requests: Any, params: Any = None, **options: Any) -> Any:
            yield from (
                caption for _, caption in zip(range(3), super().stream(requests), strict=False)
            )
            raise RuntimeError("out of memory")

    out = tmp_path / "c.jsonl"
    with pytest.raises(RuntimeError):
        run(folder, out, Failing())
    assert run(folder, out).captioned == 6


def test_sidecars_of_old_and_new_rows(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "c.jsonl"
    run(folder, out, limit=4)
    assert not list(folder.rglob("*.txt"))
    run(folder, out, sidecar=".txt")
    captions = {row["file_name"]: row["caption"] for row in rows_of(out) if "caption" in row}
    texts = {
        path.relative_to(folder).with_suffix(".png").as_posix(): path.read_text("utf-8")
        for path in folder.rglob("*.txt")
    }
    assert texts == {name: caption + "\n" for name, caption in captions.items()}
    (folder / "01.txt").write_text("mine\n")
    assert run(folder, out, sidecar=".txt").sidecars_kept.count == 1
    assert (folder / "01.txt").read_text() == "mine\n"


def test_twins_are_captioned_once(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "c.jsonl"
    for i in range(100):  # the pixels of 03.png, twice with its alt-texts and else with none
        Image.open(folder / "03.png").save(folder / f"{20 + i}.bmp")
    alts = [{"file_name": name, "alt": ["alt 3", "two"]} for name in ("03.png", "20.bmp")]
    (folder / "alts.jsonl").write_text("".join(json.dumps(alt) + "\n" for alt in alts))
    captioner = FakeCaptioner()
    summary = run(folder, out, captioner)
    assert summary.captioned == 109
    captions = {row["file_name"]: row.get("caption") for row in rows_of(out)}
    assert captions["20.bmp"] == captions["03.png"]
    assert len({captions[f"{20 + i}.bmp"] for i in range(1, 100)}) == 1
    assert captions["21.bmp"] != captions["20.bmp"]
    assert len(captioner.requests) == 9 + 1


def test_only_broken_images(tmp_path: Path) -> None:
    for i in range(100):
        (tmp_path / f"{i}.jpg").write_text("x")
    out = tmp_path / "c.jsonl"
    summary = run(tmp_path, out, alts=None)
    assert summary.failed == {"not_an_image": 100}
    assert len(rows_of(out)) == 100


def test_nothing_to_caption(tmp_path: Path) -> None:
    (tmp_path / "readme.txt").write_text("x")
    with pytest.raises(AltogetherError, match="there are no images in"):
        run(tmp_path, tmp_path / "c.jsonl", alts=None)
    assert os.listdir(tmp_path) == ["readme.txt"]
    (tmp_path / "sub").mkdir()
    Image.new("RGB", (9, 9)).save(tmp_path / "sub" / "a.png")
    with pytest.raises(AltogetherError, match="subfolders were left out"):
        run(tmp_path, tmp_path / "c.jsonl", alts=None, recursive=False)


def test_alt_file_is_looked_for_here_and_there(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run(folder, tmp_path / "c.jsonl", alts=Path("alts.jsonl"))  # the folder's own
    (tmp_path / "alts.jsonl").write_text('{"file_name": "01.png", "alt": "from here"}\n')
    run(folder, tmp_path / "d.jsonl", alts=Path("alts.jsonl"))
    assert rows_of(tmp_path / "d.jsonl")[1]["alt"] == "from here"
    with pytest.raises(AltogetherError, match="neither here nor in"):
        run(folder, tmp_path / "e.jsonl", alts=Path("absent.jsonl"))
    with pytest.raises(AltogetherError, match="--out is the alt-text file"):
        run(folder, tmp_path / "alts.jsonl", overwrite=True)


def test_max_pixels(folder: Path, tmp_path: Path) -> None:
    summary = run(folder, tmp_path / "c.jsonl", limits=ImageLimits(max_pixels=100))
    assert summary.failed["too_large"] == 10  # the header of the truncated one is whole


def test_names_that_are_not_text(tmp_path: Path) -> None:
    Image.new("RGB", (9, 9)).save(tmp_path / "x.png")
    os.rename(tmp_path / "x.png", os.fsencode(tmp_path) + b"/caf\xe9\n.png")
    out = tmp_path / "c.jsonl"
    for expected in ((1, 0), (0, 1)):
        summary = run(tmp_path, out, alts=None, sidecar=".txt")
        assert (summary.captioned, summary.skipped) == expected
    assert rows_of(out)[0]["file_name"] == "caf\udce9\n.png"
    assert (tmp_path / "caf\udce9\n.txt").exists()


@pytest.mark.usefixtures("uncovered")
@pytest.mark.parametrize("seed", range(3))
def test_killed_at_any_moment(folder: Path, tmp_path: Path, seed: int, root: Path) -> None:
    rng = random.Random(seed)
    undisturbed, out = tmp_path / "undisturbed.jsonl", tmp_path / "killed.jsonl"
    run(folder, undisturbed)
    command = [sys.executable, "-m", "tests.fake_captioner", str(folder), str(out), "alts.jsonl"]
    killed = 0
    for _ in range(30):
        process = subprocess.Popen([*command, ".txt"], cwd=root)
        deadline = time.monotonic() + 30
        wanted = rng.randrange(1, 8)  # rows more than there are, then death
        part = Path(f"{out}.part")
        start = size_of(part)
        while process.poll() is None and time.monotonic() < deadline:
            size = size_of(part)
            if size > start + wanted * 100:
                time.sleep(rng.random() * 0.01)
                process.send_signal(signal.SIGKILL)
                break
            time.sleep(0.001)
        killed += process.wait() == -signal.SIGKILL
        if process.returncode == 0:
            break
    assert process.returncode == 0
    assert killed >= 1
    assert out.read_bytes() == undisturbed.read_bytes()
    assert len(list(folder.rglob("*.txt"))) == 9
    assert sorted(os.listdir(tmp_path)) == ["killed.jsonl", "pictures", "undisturbed.jsonl"]


@pytest.mark.slow
def test_large_images_in_several_threads_stay_under_a_gigabyte(tmp_path: Path, root: Path) -> None:
    folder = tmp_path / "large"
    folder.mkdir()
    size = (7000, 7000)
    Image.new("RGBA", size, (9, 8, 7, 99)).save(folder / "a.png", compress_level=1)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("CMYK", size, (9, 8, 7, 6)).save(folder / "b.jpg", progressive=True, exif=exif)
    os.link(folder / "a.png", folder / "c.png")
    os.link(folder / "b.jpg", folder / "d.jpg")
    program = (
        "from tests import fake_captioner; fake_captioner.main()\n"
        "from altogether_rt.bench.timing import peak_memory_bytes; print(peak_memory_bytes())"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(folder), str(tmp_path / "c.jsonl")],
        capture_output=True, text=True, check=True, cwd=root,
    )  # fmt: skip
    assert [row["file_name"][0] for row in rows_of(tmp_path / "c.jsonl")] == list("abcd")
    assert all("caption" in row for row in rows_of(tmp_path / "c.jsonl"))
    assert int(done.stdout) < 870_000_000


def test_odd_folder(shared_data: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "c.jsonl"
    summary = run(shared_data / "odd", out, alts=None)
    rows = rows_of(out)
    assert len(rows) == 63
    assert summary.captioned == 41 + NUM_READABLE_HEIC
    assert summary.captioned + summary.num_failed == 63
    assert capfd.readouterr().err == ""


def test_published_alts(shared_data: Path, tmp_path: Path) -> None:
    out = tmp_path / "c.jsonl"
    summary = run(shared_data / "alts", out)
    assert (summary.captioned, summary.num_failed) == (93, 0)
    assert sum(row["alt"] == "" for row in rows_of(out)) == 5


def test_update_makes_again_what_has_other_alts(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "c.jsonl"
    run(folder, out, sidecar=".txt")
    (folder / "03.txt").write_text("by hand\n")
    before = rows_of(out)
    alts = folder / "alts.jsonl"
    for old, new in (("alt 1", "alt one"), ("alt 3", "alt three"), ("alt 4", "alt four")):
        alts.write_text(alts.read_text().replace(old, new))
    assert list(run(folder, out, sidecar=".txt").changes.alts) == ["01.png", "03.png", "04.png"]
    assert rows_of(out) == before
    captioner = FakeCaptioner()
    captioner.interrupt_after = 1
    with pytest.raises(KeyboardInterrupt):
        run(folder, out, captioner, sidecar=".txt", update=True)
    summary = run(folder, out, sidecar=".txt", update=True)
    rows = rows_of(out)
    assert [row["file_name"] for row in rows] == [row["file_name"] for row in before]
    changed = {a["file_name"] for a, b in zip(rows, before, strict=True) if a != b}
    assert changed == {"01.png", "03.png", "04.png"}
    assert (folder / "01.txt").read_text() == rows[1]["caption"] + "\n"
    assert "alt one" in rows[1]["caption"]
    assert (folder / "03.txt").read_text() == "by hand\n"
    assert summary.sidecars_kept.count == 1
    assert run(folder, out, sidecar=".txt", update=True).updated == 0


def test_old_errors_are_counted(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "c.jsonl"
    assert run(folder, out).errors_skipped == 0
    assert run(folder, out).errors_skipped == 3
    assert run(folder, out, retry_errors=True).errors_skipped == 0
