"""A captioner of scenes around a real decoder, before any training of the decoder.

Its encoder is the starter's. Its mapper is fitted, without the decoder, so that the visual tokens
of a scene are near the token embeddings of eight words for what it shows: `large red boat left
three green tree sea`. A language model can read those; with random visual tokens, an hour of two
cores would go by before the decoder finds out that they mean something.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer

from altogether_rt.artifacts.checkpoint import Checkpoint, save_checkpoint
from altogether_rt.config import CaptionerConfig, GenerationConfig, MapperConfig, PromptConfig
from altogether_rt.importing.huggingface import decoder_from_hf
from altogether_rt.model.captioner import CaptionerModel
from altogether_rt.preprocess.pixels import Preprocessor
from altogether_rt.scenes.draw import render
from altogether_rt.scenes.scene import Scene
from altogether_rt.scenes.text import make_scene
from altogether_rt.scenes.world import COUNT_WORDS

__all__ = ["NUM_WORDS", "constant_visual_tokens", "embed_scenes", "fact_words", "write_captioner"]

NUM_WORDS = 8
_NOTHING = "."  # for the words of a second group that is not there
_RELATIONS = {
    "": _NOTHING,
    "to the left of": "left",
    "to the right of": "right",
    "above": "above",
    "below": "below",
}
_BATCH = 256


def fact_words(scene: Scene) -> list[str]:
    """What a scene shows, in `NUM_WORDS` words."""
    words: list[str] = []
    for group in scene.groups:
        number = group.size if group.count == 1 else COUNT_WORDS[group.count]
        words += [number, group.colour, group.kind]
        if len(words) == 3:
            words.append(_RELATIONS[scene.relation])
    words += [_NOTHING] * (NUM_WORDS - 1 - len(words))
    return [*words, scene.background]


def embed_scenes(checkpoint: Checkpoint, seed: int, num: int) -> NDArray[np.float32]:
    """Embeddings (num, E) of the first training scenes of a seed."""
    encoder, read = checkpoint.encoder(), Preprocessor(checkpoint.config.encoder).pixels
    found = []
    with torch.no_grad():
        for first in range(0, num, _BATCH):
            scenes = [make_scene(seed, index) for index in range(first, min(first + _BATCH, num))]
            pixels = np.stack([read(render(scene)) for scene in scenes])
            found.append(encoder(torch.from_numpy(pixels)).numpy())
    return np.concatenate(found)


def write_captioner(
    starter: Checkpoint,
    decoder_folder: Path,
    prompt: PromptConfig,
    folder: Path,
    *,
    embeddings: NDArray[np.float32],
    seed: int,
    steps: int,
) -> float:
    """Write the checkpoint `folder`; returns the share of words nearest to their visual token.

    embeddings: of the training scenes of `seed`, the last 500 of which the share is of.
    """
    structure, weights = decoder_from_hf(str(decoder_folder))
    tokenizer = Tokenizer.from_file(str(decoder_folder / "tokenizer.json"))
    config = CaptionerConfig(
        name="finetune-miniature",
        encoder=starter.config.encoder,
        mapper=MapperConfig(kind="mlp", prefix_length=NUM_WORDS),
        decoder=structure,
        prompt=prompt,
        generation=GenerationConfig(max_new_tokens=48, temperature=0.0),
    )
    torch.manual_seed(seed)
    captioner = CaptionerModel(config)
    captioner.decoder.load_state_dict(weights)
    rows = [fact_words(make_scene(seed, index)) for index in range(len(embeddings))]
    share = _fit(captioner, tokenizer, torch.from_numpy(embeddings), rows, steps)
    visual = starter.encoder().visual.state_dict()
    state = captioner.state_dict() | {f"encoder.{k}": v for k, v in visual.items()}
    about = {"connector_steps": steps, "connector_scenes": len(rows)}
    save_checkpoint(folder, config, state, tokenizer, about)
    return share


def _fit(
    captioner: CaptionerModel,
    tokenizer: Tokenizer,
    embeddings: torch.Tensor,
    rows: Sequence[Sequence[str]],
    steps: int,
) -> float:
    """Mean squared error against the words' token embeddings, by Adam."""
    vocabulary = sorted({word for row in rows for word in row})
    ids = [tokenizer.encode(f" {word}", add_special_tokens=False).ids[0] for word in vocabulary]
    table = captioner.decoder.embed.weight.detach()[ids]  # (words, W)
    index = {word: number for number, word in enumerate(vocabulary)}
    targets = torch.tensor([[index[word] for word in row] for row in rows])  # (N, NUM_WORDS)
    train = len(rows) - 500
    # The embedding has length 1: without this, the hidden layer would hardly see it at first.
    with torch.no_grad():
        captioner.mapper.fc1.weight.mul_(50)
    optimizer = torch.optim.Adam(captioner.mapper.parameters(), lr=1e-3)
    scale = float(table.var())
    rng = random.Random(0)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = 1e-3 * (1 - step / steps)
        batch = rng.sample(range(train), _BATCH)
        wanted = table[targets[batch]]  # (B, NUM_WORDS, W)
        loss = (captioner.mapper(embeddings[batch]) - wanted).square().mean() / scale
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        found = captioner.mapper(embeddings[train:])
        nearest = torch.cdist(found.flatten(0, 1), table).argmin(1)
    return float((nearest == targets[train:].flatten()).float().mean())


def constant_visual_tokens(
    checkpoint: Checkpoint, words: str, folder: Path, prompt: PromptConfig
) -> None:
    """Write the checkpoint whose visual tokens are those of `words`, whatever the image shows."""
    tokenizer = Tokenizer.from_file(str(checkpoint.tokenizer_path))
    ids = tokenizer.encode(words, add_special_tokens=False).ids
    mapper = MapperConfig(kind="mlp", prefix_length=len(ids))
    config = replace(checkpoint.config, mapper=mapper, prompt=prompt)
    captioner = CaptionerModel(config)
    captioner.decoder.load_state_dict(checkpoint.captioner(with_encoder=False).decoder.state_dict())
    with torch.no_grad():
        captioner.mapper.fc2.weight.zero_()
        captioner.mapper.fc2.bias.copy_(captioner.decoder.embed.weight[ids].flatten())
    visual = checkpoint.encoder().visual.state_dict()
    state = captioner.state_dict() | {f"encoder.{k}": v for k, v in visual.items()}
    save_checkpoint(folder, config, state, checkpoint.tokenizer_path, {})
