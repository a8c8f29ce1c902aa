"""Photographs and alt-texts as a captioner reads them, and its own answers."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from altogether_rt.artifacts.checkpoint import Checkpoint
from altogether_rt.captioner import Captioner
from altogether_rt.captions import CaptionRequest, caption_params
from altogether_rt.data.images import load_image
from altogether_rt.preprocess.pixels import Preprocessor
from altogether_rt.preprocess.prompts import PromptTokenizer
from vlm.reference import Answer

__all__ = ["Photograph", "Question", "answer", "ask", "read_photographs", "write_captions"]


@dataclass(frozen=True)
class Photograph:
    path: Path
    alt: str


@dataclass(frozen=True)
class Question:
    """What an image's prompt comes to."""

    pixels: NDArray[np.uint8]  # (H, W, 3)
    alts: tuple[str, ...]
    before_ids: tuple[int, ...]
    prompt_ids: tuple[int, ...]  # after the visual tokens
    num_visual: int


def read_photographs(alts: Path, number: int) -> list[Photograph]:
    """Photographs with alt-texts, spread over the lines of `alts`, beside which they are."""
    rows: list[dict[str, Any]] = [json.loads(line) for line in alts.read_text("utf-8").splitlines()]
    rows = [row for row in rows if row["alt"] and row.get("photo", True)]
    rows = rows[:: max(1, len(rows) // number)][:number]
    return [Photograph(alts.parent / row["file_name"], row["alt"]) for row in rows]


def ask(checkpoint: Checkpoint, photographs: list[Photograph]) -> list[Question]:
    """Each photograph with its alt-text; the last one without, too."""
    config = checkpoint.config
    preprocessor = Preprocessor(config.encoder)
    rules = PromptTokenizer.from_file(
        checkpoint.tokenizer_path, config.prompt, config.decoder.pad_id
    )
    asked = [(photograph, (photograph.alt,)) for photograph in photographs]
    asked.append((photographs[-1], ()))
    return [
        Question(
            preprocessor.pixels(load_image(photograph.path)),
            alts,
            config.prompt.before_ids,
            rules.prompt(alts).ids,
            config.mapper.prefix_length,
        )
        for photograph, alts in asked
    ]


def write_captions(
    folder: Path, questions: list[Question], max_tokens: int, **options: Any
) -> list[str]:
    """Greedy captions of a checkpoint or a bundle."""
    with Captioner.load(folder, num_slots=2, **options) as captioner:
        params = caption_params(captioner.config, max_new_tokens=max_tokens, temperature=0.0)
        requests = [CaptionRequest(one.pixels, one.alts) for one in questions]
        return [caption.text for caption in captioner.stream(requests, params)]


@torch.no_grad()
def answer(checkpoint: Checkpoint, questions: list[Question]) -> list[Answer]:
    """Every stage in PyTorch, without the tokens that would be written."""
    captioner = checkpoint.captioner()
    answers = []
    for question in questions:
        embedding = captioner.encode(torch.from_numpy(question.pixels[None].copy()))
        tokens = captioner.visual_tokens(embedding)
        prompt = torch.tensor([question.prompt_ids], dtype=torch.int64)
        logits = captioner.logits(tokens, prompt)[0]
        answers.append(Answer(embedding.numpy(), tokens.numpy(), logits.numpy(), ()))
    return answers
