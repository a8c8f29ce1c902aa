"""The captioning objective against its definition, computed one example at a time."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from torch import Tensor

from altogether_rt.config import (
    CaptionerConfig,
    DecoderConfig,
    EncoderConfig,
    GenerationConfig,
    MapperConfig,
    PromptConfig,
)
from altogether_rt.importing.tokenizer import placeholder_tokenizer_json
from altogether_rt.metrics import DocumentFrequencies, bleu, cider_d
from altogether_rt.model.captioner import CaptionerModel
from altogether_rt.preprocess.prompts import PromptTokenizer
from altogether_rt.train.captioning import CaptioningObjective, HeldOut
from altogether_rt.train.data import Example, OpenImage, example_order
from altogether_rt.train.recipe import Optimization, TrainingStage

EOS, PAD = 2, 1
MAX_CAPTION = 12

EXAMPLES = [
    Example(("the Marigold",), "a boat"),
    Example((), "two bells"),
    Example(("a cup", "Porto Lindo"), "a longer caption than fits"),
    Example(("x",), "y"),
    Example(("IMG_0001.jpg",), "a red cup", "a cup"),
]


class Texts:
    """Examples without images."""

    def __init__(self, examples: Sequence[Example]) -> None:
        self._examples = examples

    def __len__(self) -> int:
        return len(self._examples)

    def key(self, index: int) -> str:
        return str(index)

    def stamp(self, index: int) -> str:
        return str(index)

    def image(self, index: int) -> OpenImage:
        raise AssertionError("its embedding is known")

    def example(self, index: int, epoch: int) -> Example:
        return self._examples[index]

    def texts_id(self, index: int) -> str:
        return str(index)


class Drawn:
    """An embedding for each image."""

    def __init__(self, num: int) -> None:
        self.rows = np.random.default_rng(0).normal(size=(num, 6)).astype(np.float32)

    def take(self, indices: Sequence[int]) -> NDArray[np.float32]:
        return self.rows[list(indices)]


def config(prompt: PromptConfig) -> CaptionerConfig:
    return CaptionerConfig(
        "tiny",
        EncoderConfig("tiny", embed_dim=6, image_size=16),
        MapperConfig(prefix_length=3, clip_length=3, layers=1, heads=2),
        DecoderConfig(
            vocab_size=300, layers=2, width=16, heads=2, ffn_width=32, max_positions=200,
            eos_id=EOS, pad_id=PAD, position_offset=2,
        ),
        prompt,
        GenerationConfig(max_new_tokens=MAX_CAPTION),
    )  # fmt: skip


PROMPTS = {
    "plain": PromptConfig(max_alt_tokens=20),
    "padded": PromptConfig(max_alt_tokens=20, padding="attended_left"),
    "fixed tokens around": PromptConfig(
        max_alt_tokens=20, before_ids=(70, 71), after_ids=(72,), suffix_ids=(73, 74)
    ),
}


@pytest.fixture(params=PROMPTS)
def captioner(request: pytest.FixtureRequest) -> CaptionerModel:
    torch.manual_seed(0)
    model = CaptionerModel(config(PROMPTS[request.param]))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model.eval()


def objective(
    captioner: CaptionerModel, tmp_path: Path, *, batch_size: int = 4, accumulation: int = 2,
    alt_dropout: float = 0.0, held_out: Sequence[Example] = (),
) -> CaptioningObjective:  # fmt: skip
    path = tmp_path / "tokenizer.json"
    path.write_text(placeholder_tokenizer_json(300, EOS, PAD))
    optimization = Optimization(4, batch_size=batch_size, accumulation=accumulation)
    return CaptioningObjective(
        "finetune",
        TrainingStage(optimization, alt_dropout=alt_dropout),
        captioner,
        tokenizer=PromptTokenizer.of_captioner(path, captioner.config),
        dataset=Texts(EXAMPLES),
        embeddings=Drawn(len(EXAMPLES)),
        seed=5,
        held_out=HeldOut(Texts(held_out), Drawn(len(held_out))) if held_out else None,
    )


def token_losses(
    captioner: CaptionerModel, tokenizer: PromptTokenizer, embedding: NDArray[np.float32],
    alts: Sequence[str], caption: str,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Cross-entropy of each token of one caption and EOS, and whether it is the likeliest."""
    plain = Tokenizer.from_str(placeholder_tokenizer_json(300, EOS, PAD))
    wanted = [*plain.encode(caption).ids, EOS][:MAX_CAPTION]
    ids = torch.tensor([[*tokenizer.prompt(alts).ids, *wanted]])
    with torch.no_grad():
        tokens = captioner.visual_tokens(torch.from_numpy(embedding[None]))
        scores = captioner.logits(tokens, ids)[0, -len(wanted) - 1 : -1].log_softmax(-1)
    targets = torch.tensor(wanted)
    return -scores[range(len(wanted)), targets], scores.argmax(-1) == targets


def test_loss_is_the_mean_over_all_tokens_of_the_captions(
    captioner: CaptionerModel, tmp_path: Path
) -> None:
    found = objective(captioner, tmp_path)
    for step in (0, 3, 9):
        for micro_batch in range(2):
            batch = found.batch(step)[2 * micro_batch : 2 * micro_batch + 2]
            losses = [
                token_losses(
                    captioner, found._tokenizer, found._embeddings.take([example.image])[0],
                    EXAMPLES[example.image].alts, EXAMPLES[example.image].caption,
                )[0]
                for example in batch
            ]  # fmt: skip
            loss = found.loss(step, micro_batch)
            assert loss.item() == pytest.approx(float(torch.cat(losses).mean()), rel=1e-5)


def test_held_out_figures_are_those_of_single_captions(
    captioner: CaptionerModel, tmp_path: Path
) -> None:
    found = objective(captioner, tmp_path, alt_dropout=1.0, held_out=EXAMPLES[1:])
    assert objective(captioner, tmp_path).evaluate(last=True) == {}
    rows = Drawn(4).rows
    pairs = [
        token_losses(captioner, found._tokenizer, row, example.alts, example.caption)
        for row, example in zip(rows, EXAMPLES[1:], strict=True)
    ]
    losses, right = (torch.cat(parts) for parts in zip(*pairs, strict=True))
    with torch.no_grad():
        figures = found.evaluate(last=False)
        last = found.evaluate(last=True)
    assert figures == {
        "loss": pytest.approx(float(losses.mean()), rel=1e-5),
        "token_accuracy": pytest.approx(float(right.float().mean())),
    }
    # The generated captions are scored against those that were wanted.
    with torch.no_grad():
        written = [
            found._tokenizer.decode(found.generate(rows[i : i + 1], [EXAMPLES[i + 1].alts])[0])
            for i in range(4)
        ]
    references = [[example.caption] for example in EXAMPLES[1:]]
    frequencies = DocumentFrequencies.from_references(references)
    assert last == figures | {
        "cider_d": cider_d(written, references, frequencies).mean,
        "bleu_4": bleu(written, references),
    }


def test_greedy_captions_are_the_likeliest_tokens_one_by_one(
    captioner: CaptionerModel, tmp_path: Path
) -> None:
    """Of prompts of unequal length together, with an end that some of them come to."""
    found = objective(captioner, tmp_path)
    with torch.no_grad():
        alts = [example.alts for example in EXAMPLES]
        endless = found.generate(Drawn(5).rows, alts)
        # The head is tied: EOS now comes where this token came.
        captioner.decoder.embed.weight[EOS] = 1.01 * captioner.decoder.embed.weight[endless[0][0]]
        together = found.generate(Drawn(5).rows, alts)
        for row, example, caption in zip(Drawn(5).rows, EXAMPLES, together, strict=True):
            tokens = captioner.visual_tokens(torch.from_numpy(row[None]))
            ids = list(found._tokenizer.prompt(example.alts).ids)
            alone: list[int] = []
            while len(alone) < MAX_CAPTION:
                sequence = torch.tensor([ids + alone], dtype=torch.int64)
                token = int(captioner.logits(tokens, sequence)[0, -1].argmax())
                if token == EOS:
                    break
                alone.append(token)
            assert caption == alone
    assert len({len(caption) for caption in together}) > 1, "some end before others"


def test_steps_share_out_the_shuffled_order(captioner: CaptionerModel, tmp_path: Path) -> None:
    """Eight steps have what the order gives for eight, similar lengths together; and whoever asks
    for a step, in whatever order, gets the same."""
    found = objective(captioner, tmp_path)
    for pool in range(3):
        batches = [found.batch(8 * pool + step) for step in range(8)]
        drawn = Counter(index for _, index in example_order(5, len(EXAMPLES), 32 * pool, 32))
        assert Counter(example.image for batch in batches for example in batch) == drawn
        assert {len(batch) for batch in batches} == {4}
        spans = sorted((min(map(len, batch)), max(map(len, batch))) for batch in batches)
        assert all(first[1] <= second[0] for first, second in pairwise(spans))
    again = objective(captioner, tmp_path)
    assert [again.batch(step) for step in (17, 3, 4)] == [found.batch(s) for s in (17, 3, 4)]


def test_dropped_alt_texts_are_the_share_that_was_asked_for(
    captioner: CaptionerModel, tmp_path: Path
) -> None:
    """Of 5 · 64 conditions with an alt-text, 0.3 are empty, within four standard deviations."""
    found = objective(captioner, tmp_path, batch_size=10, accumulation=1, alt_dropout=0.3)
    empty = found._tokenizer.prompt(()).ids
    shown = [e.prompt_ids != empty for step in range(40) for e in found.batch(step) if e.image != 1]
    share = 1 - sum(shown) / len(shown)
    assert abs(share - 0.3) < 4 * math.sqrt(0.3 * 0.7 / len(shown))
