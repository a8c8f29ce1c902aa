"""Captions of shards are checked as those of folders are, and what style `alt` cut is marked."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from altogether_rt.captions import Caption, CaptionParams, CaptionRequest
from altogether_rt.data.check_counts import CheckCounts
from altogether_rt.data.sinks.shards.open_store import open_store
from altogether_rt.data.sinks.shards.stats import RowCounts, read_stats
from altogether_rt.errors import AltogetherError
from altogether_rt.jobs.executor import LocalExecutor
from altogether_rt.jobs.shards.engine import LocalShardEngine
from altogether_rt.jobs.shards.plan import ShardTask
from altogether_rt.jobs.shards.reading import ShardReader
from altogether_rt.jobs.shards.run import caption_shards, plan_run
from altogether_rt.jobs.shards.status import read_status
from altogether_rt.wording.checks import CaptionChecker
from tests.fake_captioner import FakeCaptioner
from tests.jobs.shards.stand_ins import job_for, png, shard_of
from tests.shards_fixtures import write_tar

parquet = pytest.importorskip("pyarrow.parquet", reason="needs the extra parquet")

CAPTIONS = {
    "the Marigold": "The Marigold at her mooring.",
    "a boat": "I'm sorry, I cannot see the image.",
    "": "A dog sleeps.",
}


class Speaker(FakeCaptioner):
    """Says what the test wants for an alt-text; the second is cut."""

    def stream(
        self, requests: Iterable[CaptionRequest], params: CaptionParams | None = None, **_: Any
    ) -> Iterator[Caption]:
        for request in requests:
            alt = "".join(request.alts)
            shortened: Any = "word" if alt == "a boat" else ""
            yield Caption(CAPTIONS[alt], "eos", 3, False, 7, shortened=shortened)


def run(tmp_path: Path, out: str, checker: CaptionChecker | None, **options: Any) -> RowCounts:
    """Caption three samples in two processes' time: the first row is there before."""
    members = [("0.png", png(0)), ("0.txt", b"the Marigold"), ("1.png", png(1))]
    members += [("1.txt", b"a boat"), ("2.png", png(2)), ("3.png", b"404")]
    path = tmp_path / "00000.tar"
    shard = shard_of(path if path.exists() else write_tar(path, members))
    job = job_for(tmp_path / out, part_rows=1, open_shard=ShardReader(), checker=checker, **options)
    with LocalShardEngine(lambda: nullcontext(LocalExecutor(Speaker()))) as engine:
        plan_run([shard], job)  # what a run begins with
        engine.run([ShardTask(shard, limit=1)], job, lambda made: None, lambda result: None)
        return caption_shards(plan_run([shard], job), job, engine).counts


def test_rows_and_counts_say_what_came_of_captions(tmp_path: Path) -> None:
    checker = CaptionChecker()
    counts = run(tmp_path, "out", checker)
    rows = parquet.read_table(tmp_path / "out" / "00000.parquet").to_pylist()
    found = [
        row["checks"] and {key: value for key, value in row["checks"].items() if value is not None}
        for row in rows
    ]
    wanted = [checker.check(text, [alt] if alt else [], "eos") for alt, text in CAPTIONS.items()]
    assert found == [*wanted, None], "the last has no caption"
    assert wanted[1]["flags"] == ["refusal", "alt_unused"]
    assert [row["shortened"] for row in rows] == [None, "word", None, None]
    assert counts.checks.num_checked == 3
    assert {flag: one.examples for flag, one in counts.checks.flagged.items()} == {
        "refusal": ["1"],
        "alt_unused": ["1"],
    }
    stats = read_stats(open_store(str(tmp_path / "out")), "00000")
    assert stats is not None and stats.counts.checks == counts.checks
    assert read_status(tmp_path / "out").counts.checks == counts.checks


def test_rows_that_are_not_checked_say_nothing(tmp_path: Path) -> None:
    counts = run(tmp_path, "out", None)
    rows = parquet.read_table(tmp_path / "out" / "00000.parquet").to_pylist()
    assert [row["checks"] for row in rows] == [None] * 4
    assert counts.checks == CheckCounts() and counts.checks_data() == {}
    with pytest.raises(AltogetherError, match="another run"):
        run(tmp_path, "out", CaptionChecker())


def test_copied_rows_keep_their_checks(tmp_path: Path) -> None:
    """Making the errors of a finished file again copies its other rows."""
    run(tmp_path, "out", CaptionChecker())
    before = (tmp_path / "out" / "00000.parquet").read_bytes()
    counts = run(tmp_path, "out", CaptionChecker(), retry_errors=True)
    assert (tmp_path / "out" / "00000.parquet").read_bytes() == before
    assert counts.checks.num_checked == 3


def test_counts_are_the_same_after_writing_and_adding() -> None:
    checker = CaptionChecker(["Describe this image for a blind person, please."])
    one, other, both = CheckCounts(), CheckCounts(), CheckCounts()
    for counts, name in ((one, "a"), (other, "b")):
        for alt, text in CAPTIONS.items():
            for into in (counts, both):
                into.add(name + alt, checker.check(text, [alt] if alt else []))
    one.merge(other)
    assert one == both and CheckCounts.from_dict(one.to_dict()) == both
