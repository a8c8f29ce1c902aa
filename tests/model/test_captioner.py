"""The captioner as a whole: training view and cached view, against a reference language model."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor, nn

from altogether_rt.config import CaptionerConfig, EncoderConfig, MapperConfig, PromptConfig
from altogether_rt.model.captioner import CaptionerModel
from altogether_rt.model.decoder import KVCache
from altogether_rt.preprocess.prompts import PromptTokenizer
from tests.model.huggingface import FAMILIES, PAD, VOCAB, Pair, make_pair

PREFIX, EMBED, ALT = 5, 12, 8
CLOSE: dict[str, Any] = {"atol": 2e-4, "rtol": 1e-4}
#: An empty alt-text, a short one, one that fills the prompt, one that is cut.
ALTS: tuple[list[str], ...] = (
    [],
    ["w30 w41 w52"],
    ["w10 w11 w12 w13 w14 w15 w16 w17"],
    ["w60 w61 w62 w63 w64", "w70 w71 w72 w73 w74"],
)


class NoisyEncoder(nn.Module):
    """Stands in for a vision tower; its dropout shows whether it was left in evaluation mode."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, EMBED)
        self.dropout = nn.Dropout(0.5)

    def forward(self, pixels: Tensor) -> Tensor:
        out: Tensor = self.dropout(self.linear(pixels.float().mean(dim=(1, 2)) / 255))
        return out


def captioner_of(pair: Pair, prompt: PromptConfig) -> CaptionerModel:
    mapper = MapperConfig(prefix_length=PREFIX, clip_length=3, layers=1, heads=4)
    encoder = EncoderConfig("any", EMBED, image_size=8)
    config = CaptionerConfig("test", encoder, mapper, pair.decoder.config, prompt)
    torch.manual_seed(1)
    captioner = CaptionerModel(config, NoisyEncoder())
    captioner.decoder.load_state_dict(pair.decoder.state_dict())
    with torch.no_grad():
        for parameter in captioner.mapper.parameters():
            parameter.normal_(std=0.3)
    return captioner.eval()


def prompts_of(prompt: PromptConfig) -> list[list[int]]:
    words = Tokenizer(models.WordLevel({f"w{i}": i for i in range(VOCAB)}, unk_token="w3"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PromptTokenizer(words, prompt, PAD)
    return [list(tokenizer.prompt(alts).ids) for alts in ALTS]


def cached(captioner: CaptionerModel, visual: Tensor, prompts: list[list[int]]) -> list[Tensor]:
    """Logits (tokens, vocab) of one ragged prefill of all rows."""
    decoder = captioner.decoder
    longest = max(len(ids) for ids in prompts)
    ids = torch.tensor([row + [0] * (longest - len(row)) for row in prompts], dtype=torch.long)
    lengths = torch.tensor([PREFIX + len(row) for row in prompts])
    cache = KVCache.zeros(captioner.config.decoder, len(prompts), PREFIX + longest)
    embeddings = torch.cat([visual, decoder.embed(ids)], dim=1)
    hidden, _ = decoder.step(embeddings, lengths, torch.zeros_like(lengths), cache)
    logits = decoder.logits(hidden)
    return [logits[row, :length] for row, length in enumerate(lengths)]


@pytest.fixture(params=FAMILIES)
def pair(request: pytest.FixtureRequest) -> Pair:
    return make_pair(request.param, seed=4)


@torch.no_grad()
def test_attended_left_padding_is_plain_attended_tokens(pair: Pair) -> None:
    """As the public training code does: one rectangular batch, pads in it, a mask of ones."""
    prompt = PromptConfig(max_alt_tokens=ALT, padding="attended_left")
    captioner = captioner_of(pair, prompt)
    prompts = prompts_of(prompt)
    assert [row.count(PAD) for row in prompts] == [8, 5, 0, 0]
    visual = captioner.visual_tokens(torch.randn(len(prompts), EMBED))
    ids = torch.tensor(prompts)
    table = pair.reference.get_input_embeddings()
    wanted = pair.expected_from(torch.cat([visual, table(ids)], dim=1))
    torch.testing.assert_close(captioner.logits(visual, ids), wanted, **CLOSE)
    torch.testing.assert_close(torch.stack(cached(captioner, visual, prompts)), wanted, **CLOSE)


@torch.no_grad()
def test_no_padding_is_the_reference_with_padding_masked(pair: Pair) -> None:
    prompt = PromptConfig(max_alt_tokens=ALT)
    captioner = captioner_of(pair, prompt)
    prompts = prompts_of(prompt)
    assert [len(row) for row in prompts] == [0, 3, 8, 8]
    visual = captioner.visual_tokens(torch.randn(len(prompts), EMBED))
    table = pair.reference.get_input_embeddings()
    for row, (ids, found) in enumerate(
        zip(prompts, cached(captioner, visual, prompts), strict=True)
    ):
        padding = torch.full((3,), PAD)
        text = table(torch.tensor([*ids, *padding.tolist()], dtype=torch.long))
        embeddings = torch.cat([visual[row], text])[None]
        mask = torch.ones(1, embeddings.shape[1], dtype=torch.long)
        mask[:, -3:] = 0
        wanted = pair.expected_from(embeddings, mask)[0, : PREFIX + len(ids)]
        torch.testing.assert_close(found, wanted, **CLOSE)


@torch.no_grad()
def test_padding_changes_the_outcome(pair: Pair) -> None:
    """Or the two tests above would compare nothing."""
    last = []
    for padding in ("none", "attended_left"):
        prompt = PromptConfig(max_alt_tokens=ALT, padding=padding)
        captioner = captioner_of(pair, prompt)
        torch.manual_seed(2)
        visual = captioner.visual_tokens(torch.randn(len(ALTS), EMBED))
        last.append(torch.stack([row[-1] for row in cached(captioner, visual, prompts_of(prompt))]))
    change = (last[0] - last[1]).abs().amax(dim=-1)
    assert (change[:2] > 0.1).all()
    assert (change[2:] < 1e-3).all()  # these fill the prompt, so there is nothing to pad


def test_logits_at_positions_are_those_of_the_whole(pair: Pair) -> None:
    captioner = captioner_of(pair, PromptConfig(max_alt_tokens=ALT))
    visual = captioner.visual_tokens(torch.randn(3, EMBED))
    ids = torch.randint(0, VOCAB, (3, 9))
    whole = captioner.logits(visual, ids)
    assert whole.shape == (3, PREFIX + 9, VOCAB)
    positions = torch.tensor([[0, 4], [2, 13], [1, 0], [2, 7], [0, 4]])
    some = captioner.logits(visual, ids, positions)
    torch.testing.assert_close(some, whole[positions[:, 0], positions[:, 1]])


def test_right_padding_is_harmless_in_training(pair: Pair) -> None:
    captioner = captioner_of(pair, PromptConfig(max_alt_tokens=ALT))
    visual = captioner.visual_tokens(torch.randn(2, EMBED)).detach()
    ids = torch.randint(0, VOCAB, (2, 6))
    gradients = []
    for padding in (0, 7):
        padded = torch.cat([ids, torch.full((2, padding), PAD)], dim=1)
        logits = captioner.logits(visual, padded)[:, : PREFIX + 6]
        captioner.zero_grad()
        logits.square().mean().backward()
        gradients.append(
            [p.grad.clone() for p in captioner.decoder.parameters() if p.grad is not None]
        )
    assert len(gradients[0]) > 10
    for alone, beside in zip(*gradients, strict=True):
        torch.testing.assert_close(beside, alone, atol=1e-5, rtol=1e-3)


def test_the_encoder_stays_frozen() -> None:
    pair = make_pair("opt")
    captioner = captioner_of(pair, PromptConfig(max_alt_tokens=ALT)).train()
    assert captioner.mapper.training
    pixels = torch.randint(0, 256, (2, 8, 8, 3), dtype=torch.uint8)
    embeddings = captioner.encode(pixels)
    assert embeddings.shape == (2, EMBED)
    assert torch.equal(embeddings, captioner.encode(pixels))  # no dropout
    assert not embeddings.requires_grad
    captioner.visual_tokens(embeddings).sum().backward()
    assert captioner.encoder is not None
    assert all(parameter.grad is None for parameter in captioner.encoder.parameters())
    trainable = {name.split(".")[0] for name, p in captioner.named_parameters() if p.requires_grad}
    assert trainable == {"mapper", "decoder"}


def test_a_captioner_without_encoder_says_so() -> None:
    config = captioner_of(make_pair("opt"), PromptConfig(max_alt_tokens=ALT)).config
    with pytest.raises(AssertionError, match="without its encoder"):
        CaptionerModel(replace(config, name="no encoder")).encode(torch.zeros(1, 8, 8, 3))
