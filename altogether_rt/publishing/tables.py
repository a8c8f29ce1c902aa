"""The layouts of tables: Parquet for `datasets`, and JSON lines as `caption` writes them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, BinaryIO, Final

from altogether_rt.data.alts import clean_text
from altogether_rt.data.embeddings import import_parquet
from altogether_rt.data.rows import encode_row
from altogether_rt.mixing.captions import CaptionRecord
from altogether_rt.publishing.counts import ExportCounts
from altogether_rt.publishing.layouts import Layout

__all__ = ["ParquetLayout", "write_rows"]

_BATCH_ROWS: Final = 4096

#: Fields of a caption that go into a row of JSON lines where the run has them.
_ROW_FIELDS: Final = ("finish_reason", "tokens", "alt_truncated", "seed")


@dataclass(frozen=True)
class ParquetLayout(Layout):
    """`NAME.parquet` with the columns key, shard, alts, caption; samples without one are left
    out."""

    def file_name(self, shard: str) -> str:
        return f"{shard}.parquet"

    def settings(self) -> dict[str, Any]:
        return {"format": "parquet"}

    def write(
        self, shard: str, records: Iterable[CaptionRecord], file: BinaryIO, counts: ExportCounts
    ) -> str | None:
        parquet = import_parquet()
        import pyarrow

        schema = pyarrow.schema(
            [
                ("key", pyarrow.string()),
                ("shard", pyarrow.string()),
                ("alts", pyarrow.list_(pyarrow.string())),
                ("caption", pyarrow.string()),
            ]
        )
        captioned = (record for record in records if record.caption is not None)
        with parquet.ParquetWriter(file, schema, compression="zstd") as writer:
            for batch in _batches(captioned):
                rows = [
                    {
                        "key": clean_text(record.key),
                        "shard": shard,
                        "alts": [clean_text(alt) for alt in record.alts],
                        "caption": record.caption,
                    }
                    for record in batch
                ]
                writer.write_table(pyarrow.Table.from_pylist(rows, schema))
                counts.captions += len(rows)
        return None


def write_rows(
    file: BinaryIO,
    shard: str | None,
    records: Iterable[CaptionRecord],
    made_with: Mapping[str, Any],
    counts: ExportCounts,
) -> None:
    """Append rows of JSON lines, also those of errors.

    shard: precedes keys, unless it is None. made_with: fields of every caption's row.
    """
    for record in records:
        row: dict[str, Any] = {
            "file_name": record.key if shard is None else f"{shard}/{record.key}",
            "alt": list(record.alts) if len(record.alts) > 1 else "".join(record.alts),
        }
        if record.caption is not None:
            row["caption"] = record.caption
            fields = {name: record.fields.get(name) for name in _ROW_FIELDS}
            row |= {name: value for name, value in fields.items() if value is not None}
            row |= made_with
            counts.captions += 1
        else:
            row["error"] = _error(record)
        file.write(encode_row(row))


def _error(record: CaptionRecord) -> dict[str, str]:
    error = record.fields.get("error")
    if isinstance(error, dict):
        return error
    kind = record.fields.get("error_class") or "missing"
    return {"class": str(kind), "message": str(error or "There is no caption.")}


def _batches(records: Iterable[CaptionRecord]) -> Iterator[Sequence[CaptionRecord]]:
    source = iter(records)
    while batch := list(islice(source, _BATCH_ROWS)):
        yield batch
