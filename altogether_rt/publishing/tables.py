"""The layouts of tables: Parquet for `datasets`, and JSON lines as `caption` writes them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO, Final

from altogether_rt.data.alts import clean_text
from altogether_rt.data.embeddings import import_parquet
from altogether_rt.data.rows import encode_row
from altogether_rt.data.shards.opening import open_shard
from altogether_rt.errors import AltogetherError
from altogether_rt.mixing.captions import CaptionRecord
from altogether_rt.publishing.counts import ExportCounts
from altogether_rt.publishing.inputs import CaptionedShards
from altogether_rt.publishing.layouts import Layout

__all__ = ["ParquetLayout", "write_rows"]

_BATCH_ROWS: Final = 4096

#: Fields of a caption that go into a row of JSON lines where the run has them.
_ROW_FIELDS: Final = ("finish_reason", "tokens", "alt_truncated", "seed")


#: Bytes of images in a row group, which readers take into memory as a whole.
_GROUP_BYTES: Final = 32 * 1024 * 1024

_TEXT: Final = {"dtype": "string", "_type": "Value"}
#: What `datasets` is told of the columns: which of them is an image.
_FEATURES: Final = {
    "image": {"_type": "Image"},
    "key": _TEXT,
    "shard": _TEXT,
    "alts": {"feature": _TEXT, "_type": "List"},
    "caption": _TEXT,
}


@dataclass(frozen=True)
class ParquetLayout(Layout):
    """`NAME.parquet` with the columns key, shard, alts, caption and, with `shards`, image.

    Samples without a caption are left out.
    """

    shards: CaptionedShards | None = None

    def file_name(self, shard: str) -> str:
        return f"{shard}.parquet"

    def settings(self) -> dict[str, Any]:
        return {"format": "parquet", "images": self.shards is not None}

    def stamp(self, shard: str) -> str | None:
        return None if self.shards is None else self.shards.stamp(shard)

    def input_of(self, shard: str) -> str | None:
        return None if self.shards is None else self.shards.url(shard)

    def write(
        self, shard: str, records: Iterable[CaptionRecord], file: BinaryIO, counts: ExportCounts
    ) -> str | None:
        parquet = import_parquet()
        import pyarrow

        schema = _schema(with_images=self.shards is not None)
        with parquet.ParquetWriter(file, schema, compression="zstd") as writer:
            for rows in _groups(self._rows(shard, records)):
                writer.write_table(pyarrow.Table.from_pylist(rows, schema))
                counts.captions += len(rows)
        return None

    def _rows(self, shard: str, records: Iterable[CaptionRecord]) -> Iterator[dict[str, Any]]:
        pairs: Iterable[tuple[CaptionRecord, bytes | None]]
        if self.shards is None:
            pairs = ((record, None) for record in records)
        else:
            pairs = _with_images(self.shards, shard, records)
        for record, image in pairs:
            if record.caption is not None:
                yield {
                    "image": None if image is None else {"bytes": image, "path": None},
                    "key": clean_text(record.key),
                    "shard": shard,
                    "alts": [clean_text(alt) for alt in record.alts],
                    "caption": record.caption,
                }


def _schema(*, with_images: bool) -> Any:
    import pyarrow

    text = pyarrow.string()
    fields = [("key", text), ("shard", text), ("alts", pyarrow.list_(text)), ("caption", text)]
    features = {name: kind for name, kind in _FEATURES.items() if with_images or name != "image"}
    if with_images:
        image = pyarrow.struct([("bytes", pyarrow.binary()), ("path", text)])
        fields.insert(0, ("image", image))
    described = json.dumps({"info": {"features": features}})
    return pyarrow.schema(fields, metadata={"huggingface": described})


def _with_images(
    shards: CaptionedShards, name: str, records: Iterable[CaptionRecord]
) -> Iterator[tuple[CaptionRecord, bytes | None]]:
    """Each record with the image of its sample: row N of a run is of sample N of the shard."""
    with open_shard(shards.find(name), shards.options, shards.spool) as source:
        samples = source.samples()
        for record in records:
            sample = next(samples, None)
            if sample is None or clean_text(sample.key) != record.key:
                raise AltogetherError(
                    f"{source.shard.url} is not the shard that was captioned, or not read as it "
                    f"was: it has no sample {record.key!r} where the run has one."
                )
            yield record, sample.image if isinstance(sample.image, bytes) else None


def _groups(rows: Iterable[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    """Rows that go into a row group together."""
    group: list[dict[str, Any]] = []
    num_bytes = 0
    for row in rows:
        group.append(row)
        num_bytes += len(row["image"]["bytes"]) if row["image"] else 0
        if len(group) == _BATCH_ROWS or num_bytes >= _GROUP_BYTES:
            yield group
            group, num_bytes = [], 0
    if group:
        yield group


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
