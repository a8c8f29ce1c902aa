"""What a resumed run takes as done, and what must be on disk before the output appears."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import pytest

from altogether_rt.data.rows import encode_row
from altogether_rt.data.sinks.jsonl import JsonlSink
from tests.data.sinks.test_jsonl import accept, failure, row, run, written

pytestmark = pytest.mark.lean


def test_a_failed_row_that_was_tried_again_is_done(tmp_path: Path) -> None:
    out = tmp_path / "c.jsonl"
    out.write_bytes(encode_row(failure("a")) + encode_row(failure("b")))
    with JsonlSink(out) as sink:  # stopped after the first of both
        assert sink.recover(accept, retry_errors=True) == set()
        sink.write(row("a"))
    assert run(out, ["a", "b"], retry_errors=True) == ["b"]
    assert out.read_bytes() == encode_row(row("a")) + encode_row(row("b"))


@pytest.mark.parametrize("existing", [[], ["b"]])
def test_rows_are_flushed_before_they_are_the_output(
    tmp_path: Path, existing: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "c.jsonl"
    if existing:
        run(out, existing)
    events: list[str] = []
    fsync, replace = os.fsync, os.replace

    def spy_fsync(descriptor: int) -> None:
        events.append(f"flush {os.readlink(f'/proc/self/fd/{descriptor}').rpartition('.')[2]}")
        fsync(descriptor)

    def spy_replace(source: Path, target: Path) -> None:
        events.append(f"replace {str(source).rpartition('.')[2]}")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", spy_fsync)
    monkeypatch.setattr(os, "replace", spy_replace)
    run(out, ["a", "b"])
    made = "tmp" if existing else "part"
    assert events[-2:] == [f"flush {made}", f"replace {made}"]
    assert written(out) == ["a", "b"]


def test_a_journal_that_became_the_output_meanwhile_is_not_written_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another run finishes after this one has opened its journal and before it has the lock."""
    out = tmp_path / "c.jsonl"
    journal = Path(f"{out}.part")
    lock = fcntl.flock
    finished: list[bool] = []

    def slow_lock(descriptor: int, operation: int) -> None:
        if not finished:
            finished.append(True)
            journal.write_bytes(encode_row(row("a")))
            os.replace(journal, out)
        lock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", slow_lock)
    assert run(out, ["a", "b"]) == ["b"]
    assert written(out) == ["a", "b"]


def test_what_a_stopped_run_left_is_judged_as_what_a_finished_one_did(tmp_path: Path) -> None:
    """A row to be made again is not checked, and a failed one is known, in OUT and in OUT.part."""
    out = tmp_path / "c.jsonl"
    rows = b"".join(map(encode_row, (row("a", "old"), row("b"), failure("c"))))
    for path in (out, Path(f"{out}.part")):
        path.write_bytes(rows)
        with JsonlSink(out) as sink:
            found = sink.recover(
                lambda row: "of another bundle" if row.get("caption") == "old" else None,
                is_stale=lambda row: row["file_name"] == "a",
            )
        assert found == {"b", "c"}
        assert sink.error_names == {"c"}
        path.unlink()
