"""The loss of the starter's encoder against its definition, and which scenes it is of."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from altogether_rt.config import EncoderConfig
from altogether_rt.importing.tokenizer import placeholder_tokenizer_json
from altogether_rt.model.encoder import Encoder, build_clip
from altogether_rt.preprocess.prompts import PromptTokenizer
from altogether_rt.scenes.scene import FACT_CLASSES, fact_labels
from altogether_rt.scenes.text import make_sample, make_scene
from altogether_rt.train.contrastive import ContrastiveObjective
from altogether_rt.train.data import ScenesDataset, example_order
from altogether_rt.train.prepared import PreparedImages, prepare_images
from altogether_rt.train.recipe import EncoderStage, Optimization
from tests.train.test_captioning import EOS, PAD, PROMPTS, config

SEED, NUM_SCENES, LENGTH = 3, 20, 64
ENCODER = EncoderConfig(
    "tiny",
    embed_dim=16,
    image_size=32,
    mean=(0.4, 0.5, 0.6),
    std=(0.2, 0.25, 0.3),
    model={
        "embed_dim": 16,
        "vision_cfg": {
            "image_size": 32, "layers": 1, "width": 16, "patch_size": 16, "head_width": 8,
        },
        "text_cfg": {
            "context_length": LENGTH, "vocab_size": 300, "width": 16, "heads": 2, "layers": 1,
            "pool_type": "last",
        },
    },
)  # fmt: skip


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> PreparedImages:
    folder = tmp_path_factory.mktemp("images")
    return prepare_images(ScenesDataset(NUM_SCENES, SEED), ENCODER, folder, lambda _: None)


@pytest.fixture
def clip() -> Any:
    torch.manual_seed(0)
    return build_clip(ENCODER, allow_download=True).eval()


@pytest.fixture
def tokenizer(tmp_path: Path) -> PromptTokenizer:
    path = tmp_path / "tokenizer.json"
    path.write_text(placeholder_tokenizer_json(300, EOS, PAD))
    return PromptTokenizer.of_captioner(path, config(PROMPTS["plain"]))


def objective(
    clip: Any, tokenizer: PromptTokenizer, images: PreparedImages, *, fact_weight: float = 0.5,
    held_out: list[int] | None = None,
) -> ContrastiveObjective:  # fmt: skip
    return ContrastiveObjective(
        EncoderStage(Optimization(4, batch_size=6, accumulation=2), fact_weight),
        ENCODER,
        clip,
        tokenizer=tokenizer,
        dataset=ScenesDataset(NUM_SCENES, SEED),
        pixels=images,
        train=list(range(8, NUM_SCENES)),
        held_out=list(range(8)) if held_out is None else held_out,
        seed=SEED,
        eos_id=EOS,
    )


def expected_loss(
    found: ContrastiveObjective, clip: Any, tokenizer: PromptTokenizer, images: PreparedImages,
    scenes: list[int], fact_weight: float,
) -> float:  # fmt: skip
    """Each scene by itself, and both directions of the matrix written out."""
    encoder = Encoder(ENCODER, clip.visual).eval()
    seen = torch.cat([encoder(torch.from_numpy(images.take([index]))) for index in scenes])
    said = []
    for index in scenes:
        ids = tokenizer.encode(make_sample(SEED, index).visual_caption)[: LENGTH - 1]
        padded = torch.tensor([[*ids, *[EOS] * (LENGTH - len(ids))]])
        said.append(F.normalize(clip.encode_text(padded), dim=-1))
    logits = clip.logit_scale.exp() * seen @ torch.cat(said).T
    rows, columns = logits.log_softmax(1).diagonal(), logits.log_softmax(0).diagonal()
    loss = -(rows.mean() + columns.mean()) / 2
    facts = 0.0
    classifier = found.module.get_submodule("facts")
    for index, embedding in zip(scenes, seen, strict=True):
        parts = classifier(16 * embedding).split(FACT_CLASSES)
        labels = fact_labels(make_scene(SEED, index))
        chosen = [part.log_softmax(0)[k] for part, k in zip(parts, labels, strict=True)]
        facts -= float(torch.stack(chosen).sum()) / len(scenes)
    return float(loss) + fact_weight * facts


@torch.no_grad()
@pytest.mark.parametrize("fact_weight", [0.0, 0.5])
def test_loss_is_that_of_clip_and_of_the_facts(
    clip: Any, tokenizer: PromptTokenizer, images: PreparedImages, fact_weight: float
) -> None:
    """Of the training scenes alone, in the shuffled order, three in each of two micro-batches."""
    found = objective(clip, tokenizer, images, fact_weight=fact_weight)
    order = [8 + index for _, index in example_order(SEED, NUM_SCENES - 8, 0, 18)]
    for step, micro_batch in ((0, 0), (0, 1), (2, 1)):
        scenes = order[6 * step + 3 * micro_batch :][:3]
        wanted = expected_loss(found, clip, tokenizer, images, scenes, fact_weight)
        assert found.loss(step, micro_batch).item() == pytest.approx(wanted, rel=1e-4)


@torch.no_grad()
def test_held_out_loss_is_that_of_whole_batches(
    clip: Any, tokenizer: PromptTokenizer, images: PreparedImages
) -> None:
    """Eight scenes are two batches of three: a smaller batch would have a smaller loss."""
    found = objective(clip, tokenizer, images)
    losses = [
        expected_loss(found, clip, tokenizer, images, scenes, 0.5)
        for scenes in ([0, 1, 2], [3, 4, 5])
    ]
    assert found.evaluate(last=False) == {"loss": pytest.approx(sum(losses) / 2, rel=1e-4)}
    few = objective(clip, tokenizer, images, held_out=[5, 1])
    wanted = expected_loss(few, clip, tokenizer, images, [5, 1], 0.5)
    assert few.evaluate(last=True) == {"loss": pytest.approx(wanted, rel=1e-4)}
    assert objective(clip, tokenizer, images, held_out=[]).evaluate(last=True) == {}
