"""What a sample's row of a shard's Parquet file holds, column by column."""

from __future__ import annotations

import pytest

pytest.importorskip("pyarrow", reason="needs the extra parquet")

from altogether_rt.captions import Caption
from altogether_rt.data.alts import Alts
from altogether_rt.data.sinks.shards.rows import ShardRow, as_rows, make_row, row_batch, schema
from altogether_rt.errors import ImageError
from altogether_rt.wording.checks import CaptionChecker

CAPTION = Caption("A boat.", "loop", 4, False, (1 << 63) - 1)


def test_every_column_of_a_caption() -> None:
    alts = Alts(("our boat", "img"), used=("our boat",), notes=("", "noise"), languages=("en", ""))
    row = make_row(7, "a", alts, CAPTION, CaptionChecker())
    assert row == ShardRow(
        row=7,
        key="a",
        alt=["our boat", "img"],
        caption="A boat.",
        finish_reason="loop",
        tokens=4,
        alt_truncated=False,
        seed=(1 << 63) - 1,
        alt_used=["our boat"],
        alt_notes=["", "noise"],
        alt_language=["en", ""],
        checks={"alt_words": [1, 1], "flags": ["loop"]},
    )


@pytest.mark.parametrize("of_captioner", [False, True])
@pytest.mark.parametrize("of_file", [False, True])
def test_alt_texts_may_be_cut_in_two_ways(of_captioner: bool, of_file: bool) -> None:
    caption = Caption("c", "eos", 1, of_captioner, 0)
    row = make_row(0, "a", Alts(("x",), truncated=of_file), caption)
    assert row.alt_truncated is (of_captioner or of_file)


def test_every_column_of_an_error() -> None:
    row = make_row(3, "a\udce9", Alts(("x",)), ImageError("damaged", "It is\udce9 broken."))
    assert row == ShardRow(3, "a\ufffd", ["x"], error_class="damaged", error="It is\ufffd broken.")


def test_rows_come_back_from_their_columns() -> None:
    rows = [
        make_row(0, "a", Alts(("x", "y")), CAPTION),
        make_row(1, "b", Alts(), ImageError("empty", "No.")),
    ]
    table = row_batch(rows)
    assert as_rows(table) == rows
    assert table.column_names == [
        *("row", "key", "alt", "caption", "error_class", "error", "finish_reason", "tokens"),
        *("alt_truncated", "seed", "alt_used", "alt_notes", "alt_language", "shortened", "checks"),
    ]
    assert [field.name for field in schema() if not field.nullable] == ["row", "key", "alt"]
