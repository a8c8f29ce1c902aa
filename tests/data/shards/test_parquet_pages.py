"""Pages that are read a value at a time give what pyarrow gives, whatever wrote them."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from altogether_rt.data.shards.base import Shard
from altogether_rt.data.shards.pages import values as pages
from altogether_rt.data.shards.pages.snappy import unpack_snappy
from altogether_rt.data.shards.pages.values import can_read, large_values
from altogether_rt.data.shards.parquet import ParquetSource
from tests.shards_fixtures import png

pyarrow = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")

OPTIONS = [
    {"compression": codec, "use_dictionary": dictionary, "data_page_version": version}
    for codec in ("none", "snappy", "gzip", "zstd")
    for dictionary in (True, False)
    for version in ("1.0", "2.0")
]


def contents(rng: random.Random, *, nulls: bool) -> list[bytes | None]:
    found: list[bytes | None] = []
    for _ in range(rng.randint(1, 300)):
        kind = rng.randint(0, 5)
        if kind == 0 and nulls:
            found.append(None)
        elif kind == 1:
            found.append(bytes(rng.randint(0, 100_000)))  # packs well
        elif kind == 2 and found:
            found.append(rng.choice(found) if nulls else found[-1])
        else:
            found.append(rng.randbytes(rng.randint(0, 3000)))
    return found


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_values_are_those_of_pyarrow(tmp_path: Path, options: dict[str, Any]) -> None:
    rng = random.Random(str(options))
    path = tmp_path / "a.parquet"
    for in_struct in (False, True):
        values = contents(rng, nulls=True)
        column = [None if v is None else {"bytes": v} for v in values] if in_struct else values
        table = pyarrow.table({"image": column, "text": ["t"] * len(values)})
        parquet.write_table(table, path, write_page_checksum=True, **options)
        file = parquet.ParquetFile(path)
        chunk, schema = file.metadata.row_group(0).column(0), file.schema.column(0)
        assert can_read(chunk, schema)
        assert list(large_values(str(path), chunk, schema)) == values


def test_required_columns(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    schema = pyarrow.schema([pyarrow.field("image", pyarrow.binary(), nullable=False)])
    parquet.write_table(pyarrow.table({"image": [b"a", b"bb"]}, schema=schema), path)
    file = parquet.ParquetFile(path)
    args = file.metadata.row_group(0).column(0), file.schema.column(0)
    assert list(large_values(str(path), *args)) == [b"a", b"bb"]


@pytest.mark.parametrize("options", OPTIONS[::3], ids=str)
def test_damage_is_a_value_error(tmp_path: Path, options: dict[str, Any]) -> None:
    rng = random.Random(1)
    path = tmp_path / "a.parquet"
    values = contents(rng, nulls=True)
    parquet.write_table(pyarrow.table({"image": values}), path, **options)
    raw = path.read_bytes()
    file = parquet.ParquetFile(path)
    chunk, schema = file.metadata.row_group(0).column(0), file.schema.column(0)
    for _ in range(60):
        data = bytearray(raw)
        data[rng.randrange(4, 4 + chunk.total_compressed_size)] ^= rng.randint(1, 255)
        path.write_bytes(data)
        try:
            found = list(large_values(str(path), chunk, schema))
        except ValueError:
            continue
        assert len(found) == len(values)


def test_snappy_over_its_buffers() -> None:
    rng = random.Random(0)
    raw = b"".join(
        rng.choice([bytes(70_000), rng.randbytes(300_000), b"ab" * 9]) for _ in range(20)
    )
    packed = pyarrow.compress(raw, codec="snappy", asbytes=True)
    for size in (1000, 1 << 20):
        parts: list[bytes] = []
        unpack_snappy((packed[at : at + size] for at in range(0, len(packed), size)), parts.append)
        assert b"".join(parts) == raw


@pytest.mark.parametrize("in_struct", [False, True])
def test_a_source_reads_large_pages_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, in_struct: bool
) -> None:
    monkeypatch.setattr(pages, "LARGE_BYTES", 1)
    images: list[Any] = [png(1), None, b"", png(2)]
    (tmp_path / "x.png").write_bytes(png(3))
    if in_struct:
        images = [{"bytes": image, "path": None} for image in images]
        images += [{"bytes": None, "path": "x.png"}, None]
    count = len(images)
    table = pyarrow.table({"image": images, "text": [f"t{n}" for n in range(count)]})
    path = tmp_path / "a.parquet"
    parquet.write_table(table, path, row_group_size=3)
    calls: list[str] = []
    original = pages.large_values

    def counted(path: str, chunk: Any, schema: Any) -> Any:
        calls.append(path)
        return original(path, chunk, schema)

    monkeypatch.setattr(pages, "large_values", counted)
    found = list(ParquetSource(Shard("a", str(path)), path).samples())
    assert calls, "read by pages"
    monkeypatch.setattr(pages, "LARGE_BYTES", 1 << 30)
    expected = list(ParquetSource(Shard("a", str(path)), path).samples())
    assert [(s.key, s.alts, str(s.image)) for s in found] == [
        (s.key, s.alts, str(s.image)) for s in expected
    ]
