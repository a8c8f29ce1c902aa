"""What is compared in `finetune_miniature.py`: the decoder asked, and what training makes of it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from tokenizers import Tokenizer

from altogether_rt import Captioner
from altogether_rt.artifacts.checkpoint import Checkpoint, save_checkpoint
from altogether_rt.config import PromptConfig
from altogether_rt.scenes.draw import render
from altogether_rt.scenes.text import Sample
from benchmarks.connector import constant_visual_tokens, embed_scenes, write_captioner
from benchmarks.finetuning.stages import clock

__all__ = ["Asked", "captions", "write_start"]

ASK = "Rewrite the alt-text of this picture as one sentence that says what the picture shows"
KEEP = "Keep its names, correct what the picture contradicts."

_AT_ONCE = 25  # captions between two lines of progress


def write_start(
    starter: Path, decoder: Path, folder: Path, *, seed: int, scenes: int, steps: int
) -> None:
    """Write the captioner before training, with a mapper fitted to the words of scenes."""
    tokenizer = Tokenizer.from_file(str(decoder / "tokenizer.json"))
    first, line = tokenizer.token_to_id("<|im_start|>"), tokenizer.encode("\n").ids[0]
    # A decoder expects its first token: it is where attention goes that has nowhere to go.
    prompt = PromptConfig(
        max_alt_tokens=48, before_ids=(first,), after_ids=(line,), suffix_ids=(line,)
    )
    opened = Checkpoint.load(starter)
    embeddings = embed_scenes(opened, seed, scenes)
    share = write_captioner(
        opened, decoder, prompt, folder, embeddings=embeddings, seed=seed, steps=steps
    )
    print(f"{100 * share:.1f} % of the visual tokens are nearest to their word", flush=True)


class Asked:
    """Checkpoints of the untrained decoder with an instruction around the alt-text."""

    def __init__(self, start: Path) -> None:
        self._start = Checkpoint.load(start)
        self._tokenizer = Tokenizer.from_file(str(self._start.tokenizer_path))

    def _ids(self, text: str) -> tuple[int, ...]:
        return tuple(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def without_picture(self, folder: Path) -> None:
        """The instruction stands where the visual tokens would."""
        words = f"<|im_start|>user\n{ASK}. {KEEP}"
        constant_visual_tokens(self._start, words, folder, self._prompt(before=""))

    def with_visual_tokens(self, folder: Path) -> None:
        """The decoder reads the visual tokens of the fitted mapper."""
        prompt = self._prompt(before=f"<|im_start|>user\n{ASK}. {KEEP}\nPicture:")
        captioner = self._start.captioner(with_encoder=False)
        visual = self._start.encoder().visual.state_dict()
        state = captioner.state_dict() | {f"encoder.{k}": v for k, v in visual.items()}
        config = replace(self._start.config, prompt=prompt)
        save_checkpoint(folder, config, state, self._start.tokenizer_path, {})

    def _prompt(self, before: str) -> PromptConfig:
        return PromptConfig(
            max_alt_tokens=96,
            before_ids=self._ids(before),
            after_ids=self._ids("\nAlt-text:"),
            alt_prefix=" ",
            suffix_ids=self._ids("<|im_end|>\n<|im_start|>assistant\n"),
        )


def captions(
    captioner: Path, samples: Sequence[Sample], alts: Sequence[Sequence[str]]
) -> list[str]:
    """Captions of scenes with these alt-texts."""
    images = [render(sample.scene) for sample in samples]
    texts: list[str] = []
    start = time.monotonic()
    with Captioner.load(captioner, threads=torch.get_num_threads()) as opened:
        for first in range(0, len(images), _AT_ONCE):
            part = slice(first, first + _AT_ONCE)
            texts += [c.text for c in opened.caption(images[part], [list(a) for a in alts[part]])]
            left = (time.monotonic() - start) / len(texts) * (len(images) - len(texts))
            print(f"  {len(texts)}/{len(images)} captions  {clock(left)} left", flush=True)
    return texts
