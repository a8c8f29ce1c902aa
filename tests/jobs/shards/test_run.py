"""Every sample of every shard has one row, whatever its shard is like and whoever dies."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("pyarrow")

import pyarrow
from pyarrow import parquet

from altogether_rt.data.shards.base import Shard
from altogether_rt.data.sinks.shards.open_store import open_store
from altogether_rt.data.sinks.shards.run_file import read_shards, record_shards
from altogether_rt.data.sinks.shards.stats import RowCounts
from altogether_rt.data.sinks.shards.tables import run_tables
from altogether_rt.errors import AltogetherError
from altogether_rt.jobs.executor import LocalExecutor
from altogether_rt.jobs.shards.engine import LocalShardEngine, ShardEngine
from altogether_rt.jobs.shards.plan import ShardJob, ShardTask
from altogether_rt.jobs.shards.processes import ProcessShardEngine
from altogether_rt.jobs.shards.reading import ShardReader
from altogether_rt.jobs.shards.run import ShardSummary, caption_shards, plan_run
from altogether_rt.jobs.shards.shard import caption_shard
from altogether_rt.jobs.shards.status import read_status
from tests.fake_captioner import FakeCaptioner
from tests.jobs.shards.stand_ins import KilledBy, job_for, make_tars, png, shard_of

pytestmark = pytest.mark.lean

NUM_SAMPLES = 40


@pytest.fixture
def shards(tmp_path: Path) -> list[Shard]:
    return make_tars(tmp_path / "in", 3, NUM_SAMPLES)


def caption(
    shards: list[Shard], job: ShardJob, engine: ShardEngine | None = None, **options: Any
) -> ShardSummary:
    plan = plan_run(shards, job, only_missing=options.pop("only_missing", False))
    with engine or local(FakeCaptioner()) as used:
        return caption_shards(plan, job, used, **options)


def local(captioner: FakeCaptioner) -> LocalShardEngine:
    return LocalShardEngine(lambda: nullcontext(LocalExecutor(captioner)))


def rows_of(out: Path, shard: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = parquet.read_table(out / f"{shard}.parquet").to_pylist()
    return rows


def stats_of(out: Path, shard: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / f"{shard}_stats.json").read_text())
    return found


def files_of(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(out.rglob("*.parquet"))}


def test_a_row_a_sample_in_the_order_of_the_shard(shards: list[Shard], tmp_path: Path) -> None:
    out = tmp_path / "out"
    summary = caption(shards, job_for(out))
    assert summary.shards == {"done": 3}
    for index, shard in enumerate(shards):
        rows = rows_of(out, shard.name)
        assert [row["row"] for row in rows] == list(range(NUM_SAMPLES))
        assert [row["key"] for row in rows] == [
            f"{index:05}{number:04}" for number in range(NUM_SAMPLES)
        ]
        for number, row in enumerate(rows):
            assert row["alt"] == [f"alt {number}"]
            kind = "missing" if number % 9 == 8 else "not_an_image" if number % 7 == 3 else None
            assert row["error_class"] == kind
            assert (row["caption"] is None) == (kind is not None)
            if kind is None:
                assert row["caption"].endswith(f"[alt {number}]") and row["tokens"] == 3
            else:
                assert row["key"] in row["error"]


def test_statistics_have_the_fields_of_img2dataset(shards: list[Shard], tmp_path: Path) -> None:
    out = tmp_path / "out"
    caption(shards, job_for(out))
    stats = stats_of(out, "00000")
    missing = len([n for n in range(NUM_SAMPLES) if n % 9 == 8])
    broken = len([n for n in range(NUM_SAMPLES) if n % 7 == 3 and n % 9 != 8])
    captioned = NUM_SAMPLES - missing - broken
    assert stats["count"] == NUM_SAMPLES and stats["successes"] == captioned
    assert stats["failed_to_download"] + stats["failed_to_resize"] == missing + broken
    assert stats["status_dict"] == {
        "success": captioned,
        "missing": missing,
        "not_an_image": broken,
    }
    assert stats["end_time"] >= stats["start_time"] and stats["duration"] >= 0
    digest = hashlib.sha256((out / "00000.parquet").read_bytes()).hexdigest()
    assert stats["parquet_sha256"] == digest
    assert stats["ending"]["kind"] == "whole" and stats["rows_found"] == NUM_SAMPLES


def test_nothing_but_the_output_is_left(shards: list[Shard], tmp_path: Path) -> None:
    out = tmp_path / "out"
    caption(shards, job_for(out))
    names = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
    each = {f"{shard.name}{end}" for shard in shards for end in (".parquet", "_stats.json")}
    assert names == each | {"_run.json", "_shards.json"}


def test_a_rerun_changes_nothing(shards: list[Shard], tmp_path: Path) -> None:
    out = tmp_path / "out"
    caption(shards, job_for(out))
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    summary = caption(shards, job_for(out))
    assert (summary.num_skipped, summary.num_new) == (3, 0)
    assert summary.counts.rows == 3 * NUM_SAMPLES
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before


def test_several_processes_write_what_one_writes(shards: list[Shard], tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    caption(shards, job_for(one))
    counted: list[RowCounts] = []
    summary = caption(
        shards, job_for(two), ProcessShardEngine(2, FakeCaptioner), on_rows=counted.append
    )
    assert summary.shards == {"done": 3} and sum(c.rows for c in counted) == 3 * NUM_SAMPLES
    assert files_of(two) == files_of(one)


def test_parts_of_any_size_become_the_same_file(shards: list[Shard], tmp_path: Path) -> None:
    outs = []
    for part_rows in (1, 7, 1000):
        outs.append(tmp_path / str(part_rows))
        caption(shards, job_for(outs[-1], part_rows=part_rows))
    assert files_of(outs[0]) == files_of(outs[1]) == files_of(outs[2])


def test_ctrl_c_keeps_every_row_that_was_made(shards: list[Shard], tmp_path: Path) -> None:
    whole, out = tmp_path / "whole", tmp_path / "out"
    caption(shards, job_for(whole))
    captioner = FakeCaptioner()
    captioner.interrupt_after = 20
    with pytest.raises(KeyboardInterrupt):
        caption(shards, job_for(out), local(captioner))
    again = FakeCaptioner()
    caption(shards, job_for(out), local(again))
    assert files_of(out) == files_of(whole)
    total = sum(stats_of(out, shard.name)["successes"] for shard in shards)
    assert len(again.requests) == total - 20


def test_a_sample_that_kills_has_an_error_and_its_neighbours_have_captions(
    shards: list[Shard], tmp_path: Path
) -> None:
    whole, out = tmp_path / "whole", tmp_path / "out"
    caption(shards[:1], job_for(whole))
    deaths: list[str] = []
    engine = ProcessShardEngine(1, KilledBy, on_restart=deaths.append)
    summary = caption(shards[:1], job_for(out), engine)
    assert summary.shards == {"done": 1} and summary.counts.errors["crashed"] == 1
    rows, expected = rows_of(out, "00000"), rows_of(whole, "00000")
    assert rows[4]["error_class"] == "crashed" and "it alone" in rows[4]["error"]
    assert rows[:4] + rows[5:] == expected[:4] + expected[5:]
    # All together, 32 together, alone, and twice alone in a process that had nothing else before.
    assert len(deaths) == 5 and "signal 9" in deaths[0]


def read_and_die(shard: Shard) -> Any:
    os._exit(9)


def test_a_shard_that_kills_its_readers_is_given_up_and_the_others_are_done(
    shards: list[Shard], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    deaths: list[str] = []
    engine = ProcessShardEngine(1, FakeCaptioner, on_restart=deaths.append)
    summary = caption(shards, job_for(out, open_shard=DiesAtFirst()), engine)
    assert summary.shards == {"done": 2, "failed": 1} and len(deaths) == 3
    assert "00000" in str(summary.bad["failed"])
    assert json.loads((out / "00000_error.json").read_text())["shard"] == "00000"
    # Mended, it is done as if nothing had been.
    summary = caption(shards, job_for(out))
    assert summary.shards == {"done": 3} and not (out / "00000_error.json").exists()


class DiesAtFirst:
    """Opens shards; the first one ends the process."""

    def __call__(self, shard: Shard) -> Any:
        from tests.jobs.shards.stand_ins import PlainTar

        return read_and_die(shard) if shard.name == "00000" else PlainTar(shard)


def test_a_shard_that_cannot_be_read_stops_no_other(shards: list[Shard], tmp_path: Path) -> None:
    out = tmp_path / "out"
    gone = Path(shards[1].url)
    gone.rename(tmp_path / "elsewhere.tar")
    summary = caption(shards, job_for(out))
    assert summary.shards == {"done": 2, "failed": 1}
    assert str(gone) in str(summary.bad["failed"])
    (tmp_path / "elsewhere.tar").rename(gone)
    assert caption(shards, job_for(out)).shards == {"done": 3}


def test_another_run_is_refused_in_one_sentence(shards: list[Shard], tmp_path: Path) -> None:
    out = tmp_path / "out"
    caption(shards, job_for(out))
    with pytest.raises(AltogetherError, match=r'bundle is "fake" there and "other" here') as caught:
        caption(shards, job_for(out, bundle_id="other"))
    assert str(caught.value).count(".") == 1
    summary = caption(shards, job_for(out, bundle_id="other", overwrite=True))
    assert summary.shards == {"done": 3} and summary.num_skipped == 0
    metadata = parquet.read_schema(out / "00000.parquet").metadata[b"altogether_rt"]
    assert json.loads(metadata)["bundle"] == "other"


def test_an_overwrite_that_stopped_leaves_no_mix(shards: list[Shard], tmp_path: Path) -> None:
    """Shards of the former run count as missing for the new one."""
    out, other = tmp_path / "out", tmp_path / "other"
    caption(shards, job_for(out))
    captioner = FakeCaptioner()
    captioner.interrupt_after = 10
    engine = local(captioner)
    with pytest.raises(KeyboardInterrupt):
        caption(shards, job_for(out, bundle_id="other", overwrite=True), engine)
    caption(shards, job_for(out, bundle_id="other"))
    caption(shards, job_for(other, bundle_id="other"))
    assert files_of(out) == files_of(other)


def test_what_an_overwrite_has_not_come_to_is_missing(shards: list[Shard], tmp_path: Path) -> None:
    out = tmp_path / "out"
    caption(shards, job_for(out))
    new = job_for(out, bundle_id="other", overwrite=True)
    caption(shards, new, limit=NUM_SAMPLES)
    status = read_status(out)
    assert status.shards == {"done": 1, "missing": 2} and status.counts.rows == NUM_SAMPLES
    assert "00001 (its captions are of another run)" in str(status.bad["missing"])
    assert run_tables(open_store(out)).names == ("00000.parquet",)


def test_runs_that_begin_at_once_lose_none_of_each_others_shards(
    shards: list[Shard], tmp_path: Path
) -> None:
    """Each lists the folder before the other has written to it."""
    out = tmp_path / "out"
    store = open_store(out)
    plan_run(shards[:1], job_for(out))
    there = list(store.all_files())
    for shard in shards:
        record_shards(store, [shards[0], shard], there)
    assert read_status(out).shards == {"missing": 3}
    before = files_under(out)
    plan_run(shards, job_for(out))
    assert files_under(out) == before, "they are known"
    more = dataclasses.replace(shards[1], num_expected=40)
    plan_run([more], job_for(out))
    assert read_shards(store, store.all_files())["00001"] == 40
    caption(shards[:2], job_for(out))
    assert run_tables(store).num_unfinished == 1


def files_under(out: Path) -> set[Path]:
    return set(out.rglob("*"))


@pytest.mark.parametrize("single", [False, True], ids=["run", "shard"])
def test_captions_that_are_gone_are_made_again(
    shards: list[Shard], tmp_path: Path, single: bool
) -> None:
    """Somebody removed a file that was damaged; its statistics still say that it is there."""
    out = tmp_path / "out"
    caption(shards, job_for(out))
    whole = files_of(out)
    (out / "00001.parquet").unlink()
    status = read_status(out)
    assert status.shards == {"done": 2, "missing": 1}
    assert status.counts.rows == 2 * NUM_SAMPLES
    if single:
        job = job_for(out)
        executor = LocalExecutor(FakeCaptioner())
        assert caption_shard(ShardTask(shards[1]), job, open_store(out), executor).state == "done"
    else:
        assert caption(shards, job_for(out, retry_errors=True)).shards == {"done": 3}
    assert files_of(out) == whole and read_status(out).shards == {"done": 3}


def test_captions_that_lost_the_file_of_their_run(shards: list[Shard], tmp_path: Path) -> None:
    """Tools that copy data sets may leave out what begins with an underscore."""
    out = tmp_path / "out"
    caption(shards[:2], job_for(out))
    whole = files_of(out)
    for name in ("_run.json", "_shards.json"):
        (out / name).unlink()
    with pytest.raises(AltogetherError, match="no captions of this run"):
        caption(shards, job_for(out, bundle_id="other"))
    assert not (out / "_run.json").exists()
    assert caption(shards, job_for(out)).num_skipped == 2
    assert read_status(out).shards == {"done": 3} and whole.items() < files_of(out).items()


@pytest.mark.parametrize("content", [b"", b"{}", b'{"shard": "000'])
def test_damaged_statistics_are_written_again(
    shards: list[Shard], tmp_path: Path, content: bytes
) -> None:
    out = tmp_path / "out"
    caption(shards, job_for(out))
    (out / "00001_stats.json").write_bytes(content)
    assert read_status(out).shards == {"done": 2, "missing": 1}
    captioner = FakeCaptioner()
    assert caption(shards, job_for(out), local(captioner)).shards == {"done": 3}
    assert captioner.requests == [] and read_status(out).shards == {"done": 3}
    assert stats_of(out, "00001")["count"] == NUM_SAMPLES


def test_a_file_of_another_size_is_another_file(shards: list[Shard], tmp_path: Path) -> None:
    """It may be another shard with the same name. One that was copied has another time."""
    out = tmp_path / "out"
    caption(shards[:1], job_for(out))
    first = shards[0]
    copied = dataclasses.replace(first, etag="copied")
    summary = caption([copied], job_for(out))
    assert (summary.changed.count, summary.num_replaced) == (1, 0)
    other = dataclasses.replace(first, num_bytes=1, etag="other")
    summary = caption([other], job_for(out))
    assert (summary.changed.count, summary.num_replaced) == (1, 1)


def test_retry_errors_tries_those_and_copies_the_others(
    shards: list[Shard], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    caption(shards, job_for(out, open_shard=WithoutImages()))
    assert stats_of(out, "00000")["successes"] < 36
    again = FakeCaptioner()
    engine = local(again)
    missing = sum(stats_of(out, shard.name)["status_dict"]["gone"] for shard in shards)
    caption(shards, job_for(out, retry_errors=True), engine)
    whole = tmp_path / "whole"
    caption(shards, job_for(whole))
    assert files_of(out) == files_of(whole)
    assert len(again.requests) == missing


class WithoutImages:
    """Opens shards, every fifth sample of which has lost its image for this once."""

    def __call__(self, shard: Shard) -> Any:
        from tests.jobs.shards.stand_ins import Faded

        return Faded(shard)


def test_a_limit_counts_over_shards_and_is_gone_on_from(
    shards: list[Shard], tmp_path: Path
) -> None:
    out, whole = tmp_path / "out", tmp_path / "whole"
    summary = caption(shards, job_for(out), limit=NUM_SAMPLES + 10)
    assert summary.shards == {"done": 1, "limited": 1}
    assert summary.counts.rows == NUM_SAMPLES + 10
    assert len(rows_of(out, "00001")) == 10
    assert caption(shards, job_for(out), limit=NUM_SAMPLES + 10).num_new == 0
    caption(shards, job_for(whole))
    again = FakeCaptioner()
    caption(shards, job_for(out), local(again))
    assert files_of(out) == files_of(whole)
    done = [row for row in rows_of(whole, "00001")[:10] if row["caption"] is not None]
    rest = sum(stats_of(out, shard.name)["successes"] for shard in shards[1:])
    assert len(again.requests) == rest - len(done)


@pytest.mark.parametrize("limit", [3, 6, 8])
def test_a_limit_within_a_row_group(tmp_path: Path, limit: int) -> None:
    path = tmp_path / "00000.parquet"
    columns = {"image": [png(n) for n in range(9)], "alt": [f"alt {n}" for n in range(9)]}
    parquet.write_table(pyarrow.table(columns), path, row_group_size=6)
    out, whole = tmp_path / "out", tmp_path / "whole"
    summary = caption([shard_of(path)], job_for(out, open_shard=ShardReader()), limit=limit)
    assert summary.shards == {"limited": 1}
    assert [row["alt"] for row in rows_of(out, "00000")] == [[f"alt {n}"] for n in range(limit)]
    for folder in (out, whole):
        caption([shard_of(path)], job_for(folder, open_shard=ShardReader()))
    assert files_of(out) == files_of(whole) and len(rows_of(out, "00000")) == 9


def test_a_row_that_kills_is_found_in_a_row_group(tmp_path: Path) -> None:
    path = tmp_path / "00000.parquet"
    columns = {"image": [png(n) for n in range(9)], "alt": [f"alt {n}" for n in range(9)]}
    parquet.write_table(pyarrow.table(columns), path)
    job = job_for(tmp_path / "out", open_shard=ShardReader())
    summary = caption([shard_of(path)], job, ProcessShardEngine(1, KilledBy))
    assert summary.counts.errors == {"crashed": 1} and summary.counts.rows == 9
    assert rows_of(tmp_path / "out", "00000")[4]["error_class"] == "crashed"


def test_a_shard_without_all_its_samples_is_incomplete_and_keeps_its_rows(
    shards: list[Shard], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    short = shard_of(Path(shards[0].url), num_expected=NUM_SAMPLES + 2)
    cut = Path(shards[1].url)
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size // 2 + 100])
    summary = caption([short, shard_of(cut), shards[2]], job_for(out))
    assert summary.shards == {"done": 1, "incomplete": 2}
    assert "42 expected" in str(summary.bad["incomplete"])
    assert stats_of(out, "00001")["ending"]["kind"] == "truncated"
    assert 0 < len(rows_of(out, "00001")) < NUM_SAMPLES
    assert caption([short, shard_of(cut), shards[2]], job_for(out)).num_new == 0
    # The whole file comes: it is another file now, and is captioned as such.
    make_tars(tmp_path / "in", 2, NUM_SAMPLES)
    mended = shard_of(cut)
    assert caption([short, mended, shards[2]], job_for(out)).shards == {"done": 2, "incomplete": 1}
    assert len(rows_of(out, "00001")) == NUM_SAMPLES


def test_durable_rows_of_another_file_are_not_used(shards: list[Shard], tmp_path: Path) -> None:
    out = tmp_path / "out"
    captioner = FakeCaptioner()
    captioner.interrupt_after = 20
    with pytest.raises(KeyboardInterrupt):
        caption(shards[:1], job_for(out), local(captioner))
    again = FakeCaptioner()
    changed = Shard("00000", shards[1].url, shards[1].num_bytes, "another etag")
    caption([changed], job_for(out), local(again))
    assert len(again.requests) == stats_of(out, "00000")["successes"]
    assert rows_of(out, "00000")[0]["key"] == "000010000"


def test_durable_rows_of_other_keys_are_not_used(shards: list[Shard], tmp_path: Path) -> None:
    """Size and time may be the same though the content is not."""
    out = tmp_path / "out"
    captioner = FakeCaptioner()
    captioner.interrupt_after = 20
    with pytest.raises(KeyboardInterrupt):
        caption(shards[:1], job_for(out), local(captioner))
    changed = Shard("00000", shards[1].url, shards[0].num_bytes, shards[0].etag)
    caption([changed], job_for(out))
    assert [row["key"] for row in rows_of(out, "00000")] == [
        f"00001{number:04}" for number in range(NUM_SAMPLES)
    ]


@pytest.mark.parametrize("overwrite", [False, True])
def test_captions_never_replace_a_shard(tmp_path: Path, overwrite: bool) -> None:
    """A Parquet shard has the name that its captions would have in the same folder."""
    folder = tmp_path / "in"
    folder.mkdir()
    table = pyarrow.table({"image": [png(1)], "alt": ["alt 1"]})
    parquet.write_table(table, folder / "00000.parquet")
    before = files_of(folder)
    (tmp_path / "link").symlink_to(folder)
    for out in (folder, tmp_path / "link"):
        job = job_for(out, open_shard=ShardReader(), overwrite=overwrite)
        with pytest.raises(AltogetherError, match="would replace it: name another folder"):
            plan_run([shard_of(folder / "00000.parquet")], job)
    assert files_of(folder) == before and len(list(folder.iterdir())) == 1


@pytest.mark.parametrize("name", ["00001.parquet", "00001_stats.json"])
@pytest.mark.parametrize("overwrite", [False, True])
def test_captions_never_replace_what_a_downloader_left(
    shards: list[Shard], name: str, overwrite: bool
) -> None:
    """img2dataset puts both beside its tars."""
    folder = Path(shards[0].url).parent
    (folder / name).write_bytes(b"{}")
    with pytest.raises(AltogetherError, match=rf"are no captions.*\({name}\)") as caught:
        plan_run(shards, job_for(folder, overwrite=overwrite))
    assert str(caught.value).count(":") == 1
    assert (folder / name).read_bytes() == b"{}" and not (folder / "_run.json").exists()
    (folder / name).unlink()
    assert caption(shards, job_for(folder)).shards == {"done": 3}
    assert caption(shards, job_for(folder)).num_skipped == 3
