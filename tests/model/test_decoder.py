"""The decoder against transformers' own classes: whole, in steps, ragged, verifying drafts."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import pytest
import torch
from torch import Tensor

from altogether_rt.model.decoder import KVCache
from tests.model.huggingface import FAMILIES, FFN, POSITIONS, VOCAB, WIDTH, Pair, make_pair

CAPACITY = 24
KINDS = ("weight", "bias")
CLOSE: dict[str, Any] = {"atol": 2e-4, "rtol": 1e-4}  # logits are of the order of 10

pair_of = lru_cache(make_pair)


@pytest.fixture(params=FAMILIES)
def pair(request: pytest.FixtureRequest) -> Pair:
    return pair_of(request.param)


def sequence(length: int, seed: int) -> list[int]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, VOCAB, (length,), generator=generator).tolist()


class Slots:
    """A decoder with a cache, fed lists of tokens: what a runtime does, in a few lines."""

    def __init__(self, pair: Pair, slots: int) -> None:
        self.decoder = pair.decoder
        self.cache = KVCache.zeros(pair.decoder.config, slots, CAPACITY)
        # What a slot held before must not matter.
        self.cache.keys.normal_()
        self.cache.values.normal_()

    @torch.no_grad()
    def step(self, rows: list[list[int]], past: list[int]) -> list[Tensor]:
        """Logits (tokens, vocab) of each row."""
        longest = max(len(row) for row in rows)
        ids = torch.tensor([row + [7] * (longest - len(row)) for row in rows])
        lengths = torch.tensor([len(row) for row in rows])
        embedded = self.decoder.embed(ids)
        hidden, _ = self.decoder.step(embedded, lengths, torch.tensor(past), self.cache)
        logits = self.decoder.logits(hidden)
        return [logits[index, : len(row)] for index, row in enumerate(rows)]


def test_whole_sequences_are_the_reference(pair: Pair) -> None:
    rows = [sequence(POSITIONS, seed) for seed in range(3)]
    with torch.no_grad():
        logits = pair.decoder.logits(pair.decoder(pair.decoder.embed(torch.tensor(rows))))
    wanted = torch.stack([pair.expected(row) for row in rows])
    assert wanted.abs().max() > 1  # the comparison says something
    torch.testing.assert_close(logits, wanted, **CLOSE)


def test_prefill_then_token_by_token_is_the_reference(pair: Pair) -> None:
    ids = sequence(CAPACITY, 1)
    slots = Slots(pair, 1)
    logits = slots.step([ids[:9]], [0])
    for place in range(9, CAPACITY):
        logits += slots.step([ids[place : place + 1]], [place])
    torch.testing.assert_close(torch.cat(logits), pair.expected(ids), **CLOSE)


def test_ragged_batches_are_each_row_alone(pair: Pair) -> None:
    rows = [sequence(length, length) for length in (17, 5, 11, 2)]
    slots = Slots(pair, 6)
    first = slots.step([rows[0][:12], rows[1][:1], rows[2][:6], rows[3][:1]], [0, 0, 0, 0])
    second = slots.step([rows[0][12:], rows[1][1:], rows[2][6:10], rows[3][1:]], [12, 1, 6, 1])
    third = slots.step([[], [], rows[2][10:]], [17, 5, 10])
    found = [torch.cat(parts) for parts in zip(first, second, strict=True)]
    found[2] = torch.cat([found[2], third[2]])
    for row, logits in zip(rows, found, strict=True):
        torch.testing.assert_close(logits, pair.expected(row), **CLOSE)


def test_rejected_drafts_are_forgotten_by_a_smaller_length(pair: Pair) -> None:
    prompts = [sequence(6, 1), sequence(9, 2)]
    drafts = [sequence(5, 3), sequence(3, 4)]
    slots = Slots(pair, 2)
    slots.step(prompts, [0, 0])
    verified = slots.step(drafts, [6, 9])
    for prompt, draft, logits in zip(prompts, drafts, verified, strict=True):
        wanted = pair.expected(prompt + draft)[len(prompt) :]
        torch.testing.assert_close(logits, wanted, **CLOSE)
    # Two of the first row's draft tokens are kept and none of the second's.
    chosen = [sequence(4, 5), sequence(1, 6)]
    kept = [prompts[0] + drafts[0][:2], prompts[1]]
    found = slots.step(chosen, [len(row) for row in kept])
    for past, new, logits in zip(kept, chosen, found, strict=True):
        torch.testing.assert_close(logits, pair.expected(past + new)[len(past) :], **CLOSE)


def test_a_step_writes_the_places_of_its_tokens_and_no_other(pair: Pair) -> None:
    slots = Slots(pair, 4)
    before = slots.cache.keys.clone(), slots.cache.values.clone()
    slots.step([sequence(3, 1), [], sequence(5, 2)], [2, 4, 0])
    written = torch.zeros(4, CAPACITY, dtype=torch.bool)
    written[0, 2:5] = written[2, 0:5] = True
    for old, new in zip(before, (slots.cache.keys, slots.cache.values), strict=True):
        changed = (old != new).any(dim=-1).any(dim=2).any(dim=0)  # (slots, capacity)
        assert torch.equal(changed, written)


def test_right_padding_is_harmless(pair: Pair) -> None:
    ids = sequence(12, 1)
    with torch.no_grad():
        alone = pair.decoder(pair.decoder.embed(torch.tensor([ids])))
        padded = pair.decoder(pair.decoder.embed(torch.tensor([ids + sequence(9, 2)])))
    torch.testing.assert_close(padded[:, :12], alone, atol=1e-5, rtol=1e-5)


def test_gradients_are_the_reference(pair: Pair) -> None:
    ids = torch.tensor([sequence(10, 1), sequence(10, 2)])
    targets = ids[:, 1:].reshape(-1)
    gradients: list[Tensor] = []
    embeddings = pair.decoder.embed, pair.reference.get_input_embeddings()
    logits = pair.decoder.logits(pair.decoder(embeddings[0](ids))), pair.reference(ids).logits
    for table, output in zip(embeddings, logits, strict=True):
        loss = torch.nn.functional.cross_entropy(output[:, :-1].flatten(0, 1), targets)
        gradients += torch.autograd.grad(loss, [table.weight])
    # The reference's table gives its padding token no gradient from where it is read.
    rows = [row for row in range(VOCAB) if row != 1]
    torch.testing.assert_close(gradients[0][rows], gradients[1][rows], atol=1e-5, rtol=1e-4)


def test_too_long_a_sequence_is_refused(pair: Pair) -> None:
    slots = Slots(pair, 1)
    slots.step([sequence(CAPACITY - 1, 1)], [0])
    slots.step([[3]], [CAPACITY - 1])  # the last place is usable
    with pytest.raises(AssertionError, match="longer than its cache slot"):
        slots.step([[3]], [CAPACITY])
    with pytest.raises(AssertionError, match="max_positions"):
        pair.decoder(pair.decoder.embed(torch.zeros(1, POSITIONS + 1, dtype=torch.long)))


def test_weights_have_their_documented_names() -> None:
    def names(family: str) -> dict[str, tuple[int, ...]]:
        return {k: tuple(v.shape) for k, v in pair_of(family).decoder.state_dict().items()}

    layer = ("norm1", "q", "k", "v", "out", "norm2", "fc1", "fc2")
    opt = names("opt")
    wanted = {f"layers.{n}.{part}.{kind}" for n in range(3) for part in layer for kind in KINDS}
    wanted |= {"embed.weight", "positions.weight", "norm.weight", "norm.bias"}
    assert set(opt) == wanted
    assert opt["positions.weight"] == (POSITIONS + 2, WIDTH)
    assert opt["layers.0.fc1.weight"] == (FFN, WIDTH)
    narrow = names("opt-350m")
    assert narrow["embed.weight"] == (VOCAB, WIDTH // 2)
    assert narrow["project_in.weight"] == (WIDTH, WIDTH // 2)
    assert narrow["project_out.weight"] == (WIDTH // 2, WIDTH)
    assert "norm.weight" not in narrow and "project_in.bias" not in narrow
    llama = names("llama")
    assert llama["layers.1.k.weight"] == (WIDTH // 2, WIDTH)
    assert llama["head.weight"] == (VOCAB, WIDTH)
    assert "layers.1.gate.weight" in llama and "positions.weight" not in llama
    assert not any(name.endswith("bias") for name in llama)
