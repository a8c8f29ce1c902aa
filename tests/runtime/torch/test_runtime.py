"""The reference backend against whole-sequence passes without a cache."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from altogether_rt.model.captioner import CaptionerModel
from altogether_rt.runtime.base import Runtime, StepBatch
from altogether_rt.runtime.torch.runtime import TorchRuntime
from tests.tiny import FAMILIES, IMAGE_SIZE, VOCAB_SIZE, tiny_config, tiny_model

Row = tuple[NDArray[np.float32], list[int]]  # visual tokens (P, W) and what follows them


@pytest.fixture(params=FAMILIES)
def model(request: pytest.FixtureRequest) -> CaptionerModel:
    return tiny_model(tiny_config(request.param))


def rows_of(runtime: Runtime, lengths: list[int]) -> list[Row]:
    rng = np.random.default_rng(1)
    visual = runtime.map(rng.normal(size=(len(lengths), 12)).astype(np.float32))
    ids = [rng.integers(3, VOCAB_SIZE, length).tolist() for length in lengths]
    return list(zip(visual, ids, strict=True))


def prefill(rows: list[Row]) -> StepBatch:
    """Whole sequences; logits wanted at every place."""
    width = rows[0][0].shape[1]
    ids: list[int] = []
    index: list[int] = []
    visual: list[NDArray[np.float32]] = []
    for tokens, text in rows:
        index += range(len(ids), len(ids) + len(tokens))
        ids += [VOCAB_SIZE - 1] * len(tokens) + text  # the value at a visual place is ignored
        visual.append(tokens)
    lengths = np.array([len(tokens) + len(text) for tokens, text in rows], np.int32)
    return StepBatch(
        token_ids=np.array(ids, np.int64),
        query_lengths=lengths,
        past_lengths=np.zeros(len(rows), np.int32),
        visual_tokens=np.concatenate(visual).reshape(-1, width),
        visual_index=np.array(index, np.int64),
        logit_index=np.arange(len(ids)),
    )


def extend(new: list[list[int]], past: list[int], width: int, wanted: list[int]) -> StepBatch:
    return StepBatch(
        token_ids=np.array([token for row in new for token in row], np.int64),
        query_lengths=np.array([len(row) for row in new], np.int32),
        past_lengths=np.array(past, np.int32),
        visual_tokens=np.zeros((0, width), np.float32),
        visual_index=np.zeros(0, np.int64),
        logit_index=np.array(wanted, np.int64),
    )


@torch.no_grad()
def alone(model: CaptionerModel, row: Row) -> NDArray[np.float32]:
    """Logits (P + T, vocab) of one sequence, without cache or batch."""
    visual, ids = row
    tokens = torch.tensor([ids], dtype=torch.long)
    logits: NDArray[np.float32] = model.logits(torch.from_numpy(visual)[None], tokens)[0].numpy()
    return logits


def close(found: NDArray[np.float32] | None, wanted: NDArray[np.float32]) -> None:
    assert found is not None
    np.testing.assert_allclose(found, wanted, atol=2e-4, rtol=1e-4)


def test_a_ragged_prefill_is_each_sequence_alone(model: CaptionerModel) -> None:
    with TorchRuntime(model, num_slots=5) as runtime:
        rows = rows_of(runtime, [0, 7, 3, 10])
        result = runtime.step(prefill(rows), want_logits=True)
        wanted = np.concatenate([alone(model, row) for row in rows])
    close(result.logits, wanted)
    assert result.greedy_ids.dtype == np.int64
    assert np.array_equal(result.greedy_ids, wanted.argmax(axis=-1))


def test_steps_verify_drafts_and_skip_idle_rows(model: CaptionerModel) -> None:
    with TorchRuntime(model, num_slots=4) as runtime:
        rows = rows_of(runtime, [2, 6, 4])
        runtime.step(prefill(rows))
        past = [len(visual) + len(ids) for visual, ids in rows]
        new = [[11, 12, 13, 14], [], [20]]
        result = runtime.step(extend(new, past, runtime.token_width, [4, 1, 3]), want_logits=True)
        first = alone(model, (rows[0][0], rows[0][1] + new[0]))[past[0] :]
        third = alone(model, (rows[2][0], rows[2][1] + new[2]))[past[2] :]
        close(result.logits, np.stack([third[0], first[1], first[3]]))
        # Only one of the four drafted tokens is kept, and the idle row goes on where it was.
        new = [[31], [41]]
        batch = extend(new, [past[0] + 1, past[1]], runtime.token_width, [0, 1])
        result = runtime.step(batch, want_logits=True)
        kept = [(rows[0][0], [*rows[0][1], 11, 31]), (rows[1][0], [*rows[1][1], 41])]
        close(result.logits, np.stack([alone(model, row)[-1] for row in kept]))


def test_moving_a_slot_keeps_its_sequence(model: CaptionerModel) -> None:
    with TorchRuntime(model, num_slots=3) as runtime:
        rows = rows_of(runtime, [2, 6, 4])
        runtime.step(prefill(rows))
        past = len(rows[2][0]) + 4
        runtime.move_slot(2, 0, past)
        result = runtime.step(extend([[9]], [past], runtime.token_width, [0]), want_logits=True)
        close(result.logits, alone(model, (rows[2][0], [*rows[2][1], 9]))[-1:])


def test_a_slot_is_usable_to_its_last_place(model: CaptionerModel) -> None:
    with TorchRuntime(model, num_slots=1, capacity=9) as runtime:
        (row,) = rows_of(runtime, [4])
        runtime.step(prefill([row]))
        result = runtime.step(extend([[5]], [8], runtime.token_width, [0]), want_logits=True)
        close(result.logits, alone(model, (row[0], [*row[1], 5]))[-1:])
        with pytest.raises(AssertionError, match="longer than its cache slot"):
            runtime.step(extend([[5]], [9], runtime.token_width, [0]))


def test_logits_only_when_asked_for_and_owned_by_the_result(model: CaptionerModel) -> None:
    with TorchRuntime(model, num_slots=1) as runtime:
        batch = prefill(rows_of(runtime, [4]))
        asked = runtime.step(batch, want_logits=True)
        assert asked.logits is not None
        kept = asked.logits.copy()
        again = runtime.step(batch)
        assert again.logits is None
        assert np.array_equal(again.greedy_ids, asked.greedy_ids)
        assert np.array_equal(asked.logits, kept)


def test_encode_and_map_are_the_model() -> None:
    model = tiny_model(tiny_config())
    pixels = np.random.default_rng(0).integers(0, 256, (3, IMAGE_SIZE, IMAGE_SIZE, 3), np.uint8)
    with TorchRuntime(model) as runtime:
        embeddings = runtime.encode(pixels)
        tokens = runtime.map(embeddings)
    with torch.no_grad():
        wanted = model.encode(torch.from_numpy(pixels))
        close(embeddings, wanted.numpy())
        close(tokens, model.visual_tokens(wanted).numpy())
    assert embeddings.dtype == tokens.dtype == np.float32


def test_what_it_says_of_itself() -> None:
    config = tiny_config()
    runtime: Runtime = TorchRuntime(tiny_model(config), num_slots=3)
    assert (runtime.num_slots, runtime.capacity) == (3, config.capacity)
    assert runtime.token_width == 64
    assert runtime.device == "cpu"
    with pytest.raises(AssertionError, match="4 rows, but 3 slots"):
        runtime.step(prefill(rows_of(runtime, [1, 1, 1, 1])))
    runtime.close()
    runtime.close()


def test_bfloat16_weights_stay_close() -> None:
    config = tiny_config()
    with TorchRuntime(tiny_model(config), num_slots=2) as runtime:
        batch = prefill(rows_of(runtime, [2, 5]))
        exact = runtime.step(batch, want_logits=True).logits
    model = tiny_model(config)
    encoder, model.encoder = model.encoder, None
    model.bfloat16().encoder = encoder
    with TorchRuntime(model, num_slots=2) as runtime:
        tokens = runtime.map(np.ones((2, 12), np.float32))
        rough = runtime.step(batch, want_logits=True).logits
    assert tokens.dtype == np.float32
    assert exact is not None and rough is not None
    assert rough.dtype == np.float32
    cosine = (exact * rough).sum() / (np.linalg.norm(exact) * np.linalg.norm(rough))
    assert 0.99 < cosine < 0.999999
