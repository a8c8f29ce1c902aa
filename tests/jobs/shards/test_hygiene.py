"""Alt-texts of shards that say nothing of their image are left unread when asked, and kept."""

from __future__ import annotations

import io
import tarfile
from contextlib import nullcontext
from pathlib import Path

import pytest

from altogether_rt.data.hygiene.clean import HygieneOptions
from altogether_rt.data.sinks.shards.open_store import open_store
from altogether_rt.data.sinks.shards.stats import RowCounts, ShardStats, read_stats
from altogether_rt.errors import AltogetherError
from altogether_rt.jobs.executor import LocalExecutor
from altogether_rt.jobs.shards.engine import LocalShardEngine
from altogether_rt.jobs.shards.plan import ShardTask
from altogether_rt.jobs.shards.run import caption_shards, plan_run
from tests.fake_captioner import FakeCaptioner
from tests.jobs.shards.stand_ins import job_for, png, shard_of
from tests.shards_fixtures import write_tar

parquet = pytest.importorskip("pyarrow.parquet", reason="needs the extra parquet")


def test_rows_keep_what_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "00000.tar"
    with tarfile.open(path, "w") as tar:
        for number, text in enumerate(("IMG_1234.JPG", "Tom &amp; Jerry", "a boat")):
            for name, data in ((f"{number}.png", png(number)), (f"{number}.txt", text.encode())):
                info = tarfile.TarInfo(name)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    captioner = FakeCaptioner()
    engine = LocalShardEngine(lambda: nullcontext(LocalExecutor(captioner)))
    options = HygieneOptions(unescape=True, drop_noise=True)
    shards, job = [shard_of(path)], job_for(tmp_path / "out", hygiene=options)
    with engine:
        caption_shards(plan_run(shards, job), job, engine)
    assert [list(request.alts) for request in captioner.requests] == [
        [],
        ["Tom & Jerry"],
        ["a boat"],
    ]
    rows = parquet.read_table(tmp_path / "out" / "00000.parquet").to_pylist()
    columns = ("alt", "alt_used", "alt_notes", "alt_language")
    assert [tuple(row[name] for name in columns) for row in rows] == [
        (["IMG_1234.JPG"], [], ["camera"], None),
        (["Tom &amp; Jerry"], ["Tom & Jerry"], ["entities"], None),
        (["a boat"], None, None, None),
    ]
    stats = read_stats(open_store(str(tmp_path / "out")), "00000")
    assert stats is not None
    counts = stats.counts.alts
    assert {kind: one.examples for kind, one in counts.noise.items()} == {
        "camera": ["IMG_1234.JPG"]
    }
    assert counts.unescaped == 1
    with pytest.raises(AltogetherError, match=r"another run \(hygiene is"):
        plan_run(shards, job_for(tmp_path / "out"))


def test_noise_is_counted_whoever_captioned_the_rows(tmp_path: Path) -> None:
    """Rows that a process before it made durable count as well, and nothing is left unread."""
    members = [
        member
        for number, text in enumerate(("DSC_0001.JPG", "a boat", "IMG_1234.JPG"))
        for member in ((f"{number}.png", png(number)), (f"{number}.txt", text.encode()))
    ]
    shard = shard_of(write_tar(tmp_path / "00000.tar", members))
    job = job_for(tmp_path / "out", part_rows=1)
    captioner = FakeCaptioner()
    engine = LocalShardEngine(lambda: nullcontext(LocalExecutor(captioner)))
    made = RowCounts()
    with engine:
        plan_run([shard], job)  # what a run begins with
        engine.run([ShardTask(shard, limit=2)], job, made.merge, lambda result: None)
        assert len(captioner.requests) == 2
        summary = caption_shards(plan_run([shard], job), job, engine)
    assert [list(request.alts) for request in captioner.requests][:1] == [["DSC_0001.JPG"]]
    assert len(captioner.requests) == 3, "two rows were there"
    assert {kind: one.count for kind, one in summary.counts.alts.noise.items()} == {"camera": 2}
    found = ShardStats.from_json((tmp_path / "out" / "00000_stats.json").read_bytes())
    assert found is not None and found.counts.alts == summary.counts.alts


def test_boilerplate_needs_all_texts(tmp_path: Path) -> None:
    with pytest.raises(AltogetherError, match="leave --drop-boilerplate out"):
        job_for(tmp_path, hygiene=HygieneOptions(drop_boilerplate=True))
