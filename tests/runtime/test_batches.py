"""How rows are packed into one decoder call, against arrays written out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from altogether_rt.runtime.base import StepBatch, StepRow
from altogether_rt.runtime.batches import decode_batch, prefill_batch

VISUAL = np.arange(12, dtype=np.float32).reshape(2, 3, 2)  # (B, P, W)


def _fields(batch: StepBatch) -> dict[str, list[int]]:
    names = ("token_ids", "query_lengths", "past_lengths", "visual_index", "logit_index")
    return {name: getattr(batch, name).tolist() for name in names}


def test_rows_of_every_kind_in_one_call() -> None:
    """A row that decodes with two draft tokens, one that prefills, one idle, one that decodes."""
    rows = [
        StepRow([5, 6, 7], 9, None, 3),
        StepRow((8, 4), 0, VISUAL[1]),
        StepRow([], 2, None, 0),
        StepRow([3], 11),
    ]
    batch = StepBatch.from_rows(rows, 2)
    assert _fields(batch) == {
        "token_ids": [5, 6, 7, 0, 0, 0, 8, 4, 3],
        "query_lengths": [3, 5, 0, 1],
        "past_lengths": [9, 0, 2, 11],
        "visual_index": [3, 4, 5],
        "logit_index": [0, 1, 2, 7, 8],
    }
    assert np.asarray(batch.visual_tokens).tolist() == VISUAL[1].tolist()
    types = [
        batch.token_ids.dtype,
        batch.query_lengths.dtype,
        np.asarray(batch.visual_tokens).dtype,
    ]
    assert types == [np.int64, np.int32, np.float32]


@pytest.mark.parametrize(
    ("after_each_token", "logit_index"), [(False, [3, 8]), (True, [2, 3, 6, 7, 8])]
)
def test_prompts(after_each_token: bool, logit_index: list[int]) -> None:
    batch = prefill_batch(VISUAL, [(7,), (8, 9)], after_each_token=after_each_token)
    assert _fields(batch) == {
        "token_ids": [0, 0, 0, 7, 0, 0, 0, 8, 9],
        "query_lengths": [4, 5],
        "past_lengths": [0, 0],
        "visual_index": [0, 1, 2, 4, 5, 6],
        "logit_index": logit_index,
    }
    assert np.asarray(batch.visual_tokens).tolist() == VISUAL.reshape(6, 2).tolist()


def test_one_more_token_for_each_row() -> None:
    batch = decode_batch(np.array([5, 6]), [30, 40], 2)
    assert _fields(batch) == {
        "token_ids": [5, 6],
        "query_lengths": [1, 1],
        "past_lengths": [30, 40],
        "visual_index": [],
        "logit_index": [0, 1],
    }
    assert batch.visual_tokens.shape == (0, 2)
