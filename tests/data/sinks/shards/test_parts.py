"""Durable parts of a shard, and the one file they become, however they were divided."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

import pytest

pytest.importorskip("pyarrow", reason="needs the extra parquet")

from pyarrow import parquet

from altogether_rt.data.sinks.shards import parts
from altogether_rt.data.sinks.shards.parts import (
    Parts,
    hash_of,
    read_metadata,
    stored_rows,
    write_parquet,
)
from altogether_rt.data.sinks.shards.rows import ShardRow, row_batch
from altogether_rt.data.sinks.shards.store import LocalStore

ROWS = [ShardRow(i, f"k{i}", [f"alt {i}"], caption=f"c{i}") for i in range(10)]
ABOUT = {"b": 1, "a": "é"}


def written(*sizes: int) -> bytes:
    """The file of ten rows that came in parts of these sizes."""
    rest, tables = ROWS, []
    for size in sizes:
        tables.append(row_batch(rest[:size]))
        rest = rest[size:]
    file = io.BytesIO()
    digest = write_parquet(file, tables, ABOUT)
    assert digest == hash_of(file) == hashlib.sha256(file.getvalue()).hexdigest()
    return file.getvalue()


def test_how_rows_were_divided_leaves_no_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "_GROUP_ROWS", 4)
    content = written(10)
    for sizes in ((4, 4, 2), (1, 9), (3, 3, 4), (1,) * 10):
        assert written(*sizes) == content
    opened = parquet.ParquetFile(io.BytesIO(content))
    groups = [opened.metadata.row_group(i).num_rows for i in range(opened.num_row_groups)]
    assert groups == [4, 4, 2]
    assert list(stored_rows(io.BytesIO(content))) == ROWS


def test_metadata_says_what_made_the_file() -> None:
    content = written(10)
    assert read_metadata(io.BytesIO(content)) == (ABOUT, 10)
    assert read_metadata(io.BytesIO(content[:-1])) is None
    table = parquet.read_table(io.BytesIO(content))
    for other in (table.drop_columns(["seed"]), table.replace_schema_metadata({})):
        file = io.BytesIO()
        parquet.write_table(other, file)
        assert read_metadata(file) is None


def test_parts_are_taken_as_far_as_they_go_without_a_gap(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    first = Parts(store, "work/s", {"run": 1})
    assert (first.num_rows, first.seconds, first.began) == (0, 0, None)
    first.append(ROWS[:2], began=100.0)
    first.append(ROWS[2:4], began=200.0)
    first.append(ROWS[4:7], began=300.0)
    names = store.files("work/s")
    again = Parts(store, "work/s", {"run": 1})
    again.recover()
    assert (again.num_rows, again.began) == (7, 100.0)
    assert again.seconds == first.seconds
    assert list(again.rows()) == ROWS[:7]
    store.write(names[1], b"damaged")
    again.recover()
    assert (again.num_rows, list(again.rows())) == (2, ROWS[:2])
    assert store.files("work/s") == names[:1], "what cannot be used is removed"
    with pytest.raises(FileNotFoundError):
        list(first.rows())
    other = Parts(store, "work/s", {"run": 2})
    other.recover()
    assert (other.num_rows, store.files("work/s")) == (0, [])


def test_of_two_parts_from_the_same_row_on_the_longer_is_taken(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    for count in (2, 3):  # by two processes that did not know of each other
        Parts(store, "work/s", {}).append(ROWS[:count], began=0.0)
    found = Parts(store, "work/s", {})
    found.recover()
    assert list(found.rows()) == ROWS[:3]
    assert len(store.files("work/s")) == 1
