"""The doors for a source and an executor: stand-ins of under 60 lines run through `caption`."""

from __future__ import annotations

import io
import json
import re
import tarfile
import threading
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from altogether_rt.captions import Caption, CaptionParams
from altogether_rt.data.images import ImageLimits
from altogether_rt.data.sources.base import Source
from altogether_rt.errors import ImageError
from altogether_rt.jobs.executor import Executor, LocalExecutor
from altogether_rt.jobs.folder import CaptionJob, CaptionSummary, caption_folder, open_folder
from altogether_rt.jobs.plan import CaptionPlan
from altogether_rt.jobs.processes import ProcessExecutor
from altogether_rt.jobs.samples import caption_samples
from tests.doors.list_sink import ListSink
from tests.doors.request_source import RequestSource
from tests.doors.tar_source import TarSource
from tests.doors.thread_executor import ThreadExecutor
from tests.fake_captioner import FakeCaptioner

pytestmark = pytest.mark.lean

NUM_IMAGES = 12
EXECUTORS = ("here", "threads", "processes")


def png(shade: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (9, 9), (shade, 9, 9)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Images, one of them broken, with alt-texts; and the same in two tar files beside it."""
    folder = tmp_path / "photos"
    folder.mkdir()
    alts = []
    for i in range(NUM_IMAGES):
        (folder / f"{i:02}.png").write_bytes(b"404" if i == 7 else png(i))
        alts.append(json.dumps({"file_name": f"{i:02}.png", "alt": f"alt {i}"}) + "\n")
    (folder / "alts.jsonl").write_text("".join(alts))
    for shard in range(2):
        with tarfile.open(tmp_path / f"{shard}.tar", "w") as tar:
            for i in range(6 * shard, 6 * shard + 6):
                (tmp_path / "alt.txt").write_text(f"alt {i}")
                tar.add(tmp_path / "alt.txt", f"{i:02}.txt")
                tar.add(folder / f"{i:02}.png", f"{i:02}.png")
            tar.add(tmp_path / "alt.txt", "notes.md")
    return folder


def executor(kind: str, batch_size: int = 3) -> Executor:
    open_captioner = partial(FakeCaptioner, batch_size=batch_size)
    if kind == "here":
        return LocalExecutor(open_captioner())
    if kind == "threads":
        return ThreadExecutor(3, open_captioner)
    return ProcessExecutor(2, open_captioner, "fake", slots=3)


def run(folder: Path, out: Path, source: Source | None, kind: str = "here") -> CaptionSummary:
    job = CaptionJob(folder=folder, out=out, alts=Path("alts.jsonl"))
    params = CaptionParams(8, 0.0, 1.0)
    return caption_folder(job, source or open_folder(job), executor(kind), params)


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


@pytest.mark.parametrize("kind", EXECUTORS)
def test_one_broken_image_is_one_error_row_in_every_executor(
    folder: Path, tmp_path: Path, kind: str
) -> None:
    out = tmp_path / "c.jsonl"
    assert run(folder, out, None, kind).failed == {"not_an_image": 1}
    rows = rows_of(out)
    assert [row["file_name"] for row in rows] == [f"{i:02}.png" for i in range(NUM_IMAGES)]
    assert [i for i, row in enumerate(rows) if "error" in row] == [7]


@pytest.mark.parametrize("kind", EXECUTORS)
def test_tar_members_give_the_rows_of_the_same_files(
    folder: Path, tmp_path: Path, kind: str
) -> None:
    files, members = tmp_path / "files.jsonl", tmp_path / "members.jsonl"
    run(folder, files, None)
    source = TarSource(tmp_path / "0.tar", tmp_path / "1.tar")
    summary = run(folder, members, source, kind)
    assert members.read_bytes() == files.read_bytes()
    assert source.unused()["members_left_out"].examples == ["notes.md", "notes.md"]
    assert (summary.captioned, summary.num_failed) == (NUM_IMAGES - 1, 1)
    assert run(folder, members, source, kind).skipped == NUM_IMAGES


def test_parts_of_a_source_are_the_whole(folder: Path, tmp_path: Path) -> None:
    job = CaptionJob(folder=folder, out=tmp_path / "c.jsonl")
    for source in (open_folder(job), TarSource(tmp_path / "0.tar", tmp_path / "1.tar")):
        parts = [source.part(rank, 2) for rank in range(2)]
        assert sum(part.num_shards for part in parts) == source.num_shards
        keys = [sample.key for part in parts for sample in part.samples()]
        assert sorted(keys) == [sample.key for sample in source.samples()]
        assert len(set(keys)) == len(keys) == NUM_IMAGES


@pytest.mark.parametrize("kind", ["here", "processes"])
def test_requests_of_a_server_are_answered_while_it_waits_for_more(kind: str) -> None:
    source = RequestSource()
    plan = CaptionPlan(CaptionParams(8, 0.0, 1.0), ImageLimits())
    serving = threading.Thread(
        target=caption_samples,
        # The stand-in for a captioner waits for a whole batch, which a real one does not.
        args=(source.samples(), executor(kind, batch_size=1), plan, source.answer),
        kwargs={"live": source.live},
        daemon=True,
    )
    serving.start()
    first = source.ask(png(1), "one").result(timeout=60)  # nothing else has been asked yet
    assert isinstance(first, Caption)
    assert first.text.endswith("[one]")
    others = [source.ask(png(2), "two"), source.ask(b"<html>")]
    second, broken = (future.result(timeout=60) for future in others)
    assert isinstance(second, Caption)
    assert isinstance(broken, ImageError)
    assert str(broken).startswith("request 2 does not begin like an image")
    source.close()
    serving.join(timeout=60)
    assert not serving.is_alive()


def test_a_sink_takes_the_answers_of_any_source(folder: Path, tmp_path: Path) -> None:
    plan = CaptionPlan(CaptionParams(8, 0.0, 1.0), ImageLimits())
    source = TarSource(tmp_path / "0.tar", tmp_path / "1.tar")
    with ListSink() as sink:
        caption_samples(source.samples(), executor("here"), plan, sink.write)
        assert not sink.output
        sink.finish()
    output = sink.output or []
    assert [key for key, _ in output] == [f"{i:02}.png" for i in range(NUM_IMAGES)]
    assert output[3][1].endswith("[alt 3]")
    assert output[7][1].startswith("07.png does not begin like an image")


def test_stand_ins_are_short() -> None:
    for path in Path(__file__).parent.glob("*.py"):
        if not path.name.startswith("test_"):
            assert len(path.read_text("utf-8").splitlines()) < 60, path.name


@pytest.mark.skipif(find_spec("onnxruntime") is None, reason="needs the extra cpu")
def test_the_guide_to_the_contracts_runs_as_it_is_printed(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    guide = Path(__file__).parents[2] / "docs" / "contracts.md"
    if not guide.exists():
        pytest.skip("the guide is not part of the wheel")
    first, second = re.findall(r"```python\n(.*?)```", guide.read_text("utf-8"), re.S)
    monkeypatch.chdir(tmp_path)
    first = first.replace("workers=2", "workers=1")  # processes would read this test as their main
    names: dict[str, Any] = {"__name__": "__main__"}
    exec(first, names)
    assert names["summary"].captioned == NUM_IMAGES - 1
    names |= {"source": TarSource(tmp_path / "0.tar"), "sink": ListSink()}
    exec(second, names)
    assert len(names["sink"].rows) == NUM_IMAGES // 2
