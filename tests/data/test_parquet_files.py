"""What a Parquet file's columns unpack to is known before pyarrow reads them."""

from __future__ import annotations

import io
from pathlib import Path
from random import Random
from typing import Any

import pytest

from altogether_rt.data.parquet_files import check_row_groups
from altogether_rt.data.parquet_footer import ColumnChunk, column_chunks

pyarrow: Any = pytest.importorskip("pyarrow", reason="needs the extra parquet")
parquet: Any = pytest.importorskip("pyarrow.parquet", reason="needs the extra parquet")


def table_file(table: Any, **options: Any) -> io.BytesIO:
    out = io.BytesIO()
    parquet.write_table(table, out, **options)
    out.seek(3)
    return out


def test_chunks_are_those_that_pyarrow_finds() -> None:
    table = pyarrow.table(
        {
            "file_name": [f"{i}.png" for i in range(1000)],
            "alt": [["a", None], [], ["b"], None] * 250,
            "image": [{"bytes": b"x" * 99, "path": "p"}] * 1000,
            "flag": [True, None] * 500,
            "width": [1.5] * 1000,
        },
        metadata={"k" * 300: "v" * 70_000},
    )
    file = table_file(table, row_group_size=300, compression="zstd")
    metadata = parquet.ParquetFile(file).metadata
    file.seek(3)
    expected = []
    for group in range(metadata.num_row_groups):
        for index in range(metadata.num_columns):
            chunk = metadata.row_group(group).column(index)
            path = tuple(chunk.path_in_schema.split("."))
            expected.append(ColumnChunk(path, chunk.num_values, chunk.total_uncompressed_size))
    assert list(column_chunks(file)) == expected
    assert len(expected) == 4 * 6
    assert file.tell() == 3


def test_what_unpacks_to_much_is_refused_if_it_is_wanted(tmp_path: Path) -> None:
    table = pyarrow.table({"alt": ["a" * 1000] * 400_000, "file_name": ["a"] * 400_000})
    path = tmp_path / "t.parquet"
    options = {"use_dictionary": False, "compression": "zstd"}
    path.write_bytes(table_file(table, row_group_size=400_000, **options).getvalue())
    assert path.stat().st_size < 1 << 20
    check_row_groups(path, ["file_name"])
    with pytest.raises(ValueError, match=r"a row group has 400000 values of .* in alt: write"):
        check_row_groups(path, ["file_name", "alt"])


def test_damaged_footers_are_errors_of_value() -> None:
    whole = table_file(pyarrow.table({"alt": ["a", "b"], "n": [1, 2]})).getvalue()
    random, damaged = Random(0), 0
    for _ in range(3000):
        data = bytearray(whole)
        for _ in range(random.choice((1, 1, 3))):
            data[random.randrange(len(data) - 600, len(data))] = random.randrange(256)
        try:
            list(column_chunks(io.BytesIO(data[random.choice((0, 0, 0, 40)) :])))
        except ValueError:
            damaged += 1
    assert damaged > 300
    for short in (b"", b"PAR1", b"\xff\xff\xff\x7fPAR1", b"\x01\x00\x00\x00PAR1"):
        with pytest.raises(ValueError, match="footer"):
            list(column_chunks(io.BytesIO(short)))
