"""The columns of a shard's Parquet file, and the rows that fill them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import cache
from typing import Any

from altogether_rt.captions import Answer
from altogether_rt.data.alts import Alts, clean_text
from altogether_rt.data.embeddings import import_parquet
from altogether_rt.data.rows import alt_notes
from altogether_rt.errors import ImageError
from altogether_rt.wording.checks import CaptionChecker

__all__ = ["ShardRow", "as_rows", "make_row", "row_batch", "schema"]


@dataclasses.dataclass(frozen=True, slots=True)
class ShardRow:
    """One sample of a shard: its caption, or its error."""

    row: int  # number of the sample in its shard, from 0
    key: str
    alt: list[str]  # empty: none
    caption: str | None = None
    error_class: str | None = None
    error: str | None = None  # a sentence
    finish_reason: str | None = None
    tokens: int | None = None  # of the caption, EOS included
    alt_truncated: bool | None = None
    seed: int | None = None
    alt_used: list[str] | None = None  # what was read of the alt-texts, where that is not all
    alt_notes: list[str] | None = None  # of each alt-text, why
    alt_language: list[str] | None = None  # of each alt-text, where it was asked for
    shortened: str | None = None  # where style `alt` cut the caption, if it did
    checks: dict[str, Any] | None = None  # as `CaptionChecker.check` gives them, where asked for


_FIELDS = tuple(field.name for field in dataclasses.fields(ShardRow))


def make_row(
    row: int, key: str, alts: Alts, answer: Answer, checker: CaptionChecker | None = None
) -> ShardRow:
    """The row of a sample that was answered. checker: of its caption; None: it is not checked."""
    key = clean_text(key)
    texts = list(alts.texts)
    notes = alt_notes(alts)
    if isinstance(answer, ImageError):
        return ShardRow(
            row, key, texts, error_class=answer.kind, error=clean_text(str(answer)), **notes
        )
    caption = clean_text(answer.text)
    checks = None
    if checker is not None:
        checks = checker.check(caption, alts.read, answer.finish_reason)
    return ShardRow(
        row,
        key,
        texts,
        caption=caption,
        finish_reason=answer.finish_reason,
        tokens=answer.tokens,
        alt_truncated=answer.alt_truncated or alts.truncated,
        seed=answer.seed,
        shortened=answer.shortened or None,
        checks=checks,
        **notes,
    )


@cache
def schema() -> Any:
    """The columns as an Arrow schema. Raises MissingDependencyError without pyarrow."""
    import_parquet()
    import pyarrow as arrow

    text = arrow.string()
    types = {
        "row": arrow.int64(),
        "key": text,
        "alt": arrow.list_(text),
        "tokens": arrow.int32(),
        "alt_truncated": arrow.bool_(),
        "seed": arrow.int64(),
        "alt_used": arrow.list_(text),
        "alt_notes": arrow.list_(text),
        "alt_language": arrow.list_(text),
        "checks": arrow.struct(
            {
                "alt_words": arrow.list_(arrow.int32()),
                "alt_names": arrow.list_(arrow.int32()),
                "new_names": arrow.list_(text),
                "new_numbers": arrow.list_(text),
                "flags": arrow.list_(text),
            }
        ),
    }
    required = ("row", "key", "alt")
    return arrow.schema(
        [arrow.field(name, types.get(name, text), name not in required) for name in _FIELDS]
    )


def row_batch(rows: Sequence[ShardRow]) -> Any:
    """Rows as an Arrow table."""
    import pyarrow as arrow

    columns = schema()
    return arrow.table(
        [arrow.array([getattr(row, field.name) for row in rows], field.type) for field in columns],
        schema=columns,
    )


def as_rows(table: Any) -> list[ShardRow]:
    """The rows of a table, or a batch, with these columns."""
    columns = [table.column(name).to_pylist() for name in _FIELDS]
    return [ShardRow(*values) for values in zip(*columns, strict=True)]
