"""Images in tiles, against transformers' processor and model at a small size."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from altogether_rt.artifacts.checkpoint import Checkpoint, save_checkpoint
from altogether_rt.captioner import Captioner
from altogether_rt.captions import CaptionRequest, caption_params
from altogether_rt.cli.main import app
from altogether_rt.config import CaptionerConfig
from altogether_rt.errors import AltogetherError, ConfigError
from altogether_rt.export.from_checkpoint import export_checkpoint
from altogether_rt.export.recipes import find_recipe
from altogether_rt.importing.vision_language import import_vision_language
from altogether_rt.preprocess.pixels import Preprocessor
from altogether_rt.preprocess.prompts import PromptTokenizer
from altogether_rt.runtime.base import StepBatch, StepRow
from altogether_rt.runtime.torch.runtime import TorchRuntime
from tests.importing.small_vlm import SPECIAL, VISION, write_smolvlm

SIDE, LENGTH = 34, 16  # pixels and visual tokens of a tile
TILE_NAMES = tuple(f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7))
#: Size of an image, longest edge, rows and columns of tiles, tiles with the whole image.
CASES = (
    ((50, 40), SIDE, (1, 1), 1),
    ((70, 31), 2 * SIDE, (1, 2), 3),
    ((30, 40), 2 * SIDE, (2, 2), 5),
    ((80, 60), 4 * SIDE, (3, 4), 13),
    ((133, 201), 4 * SIDE, (4, 3), 13),
    ((50, 50), 4 * SIDE, (4, 4), 17),
)


@pytest.fixture(scope="module", params=["named", "spelled"])
def published(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Folder and model; its names of tiles are tokens, or text as in the largest SmolVLM."""
    folder = tmp_path_factory.mktemp("tiles") / "published"
    special = (*SPECIAL, *TILE_NAMES) if request.param == "named" else SPECIAL
    return folder, write_smolvlm(folder, special=special)


def picture(size: tuple[int, int], seed: int = 0) -> Image.Image:
    """Coarse noise, so that resizing leaves something to see."""
    noise = np.random.default_rng(seed).integers(0, 256, (6, 7, 3), np.uint8)
    return Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC)


def processed(folder: Path, image: Image.Image, longest_edge: int, text: str) -> Any:
    """What transformers' own processor makes of an image and the rest of the prompt."""
    import transformers
    from transformers.models.idefics3.image_processing_pil_idefics3 import (
        Idefics3ImageProcessorPil,
    )

    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"))
    pixels = Idefics3ImageProcessorPil(
        size={"longest_edge": longest_edge},
        max_image_size={"longest_edge": SIDE},
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
    )
    processor = transformers.Idefics3Processor(pixels, tokenizer, image_seq_len=LENGTH)
    prompt = f"<|im_start|>User:<image>{text}<end_of_utterance>\nAssistant:"
    return processor(images=[[image]], text=[prompt], return_tensors="pt")


def asked(config: CaptionerConfig, rules: PromptTokenizer) -> str:
    """The instruction of a captioner for an image without alt-text."""
    rules._tokenizer.encode_special_tokens = False
    text: str = rules._tokenizer.decode(list(rules.prompt(()).ids), skip_special_tokens=False)
    rules._tokenizer.encode_special_tokens = True
    return text.removeprefix("<fake_token_around_image>").partition("<end_of")[0]


@pytest.mark.parametrize(("size", "longest_edge", "grid", "count"), CASES)
def test_pixels_ids_and_logits_are_those_of_transformers(
    published: Any,
    size: tuple[int, int],
    longest_edge: int,
    grid: tuple[int, int],
    count: int,
    tmp_path: Path,
) -> None:
    folder, model = published
    config, state, tokenizer = import_vision_language(folder, "tiny", longest_edge)
    rules = PromptTokenizer(tokenizer, config.prompt, config.decoder.pad_id)
    image = picture(size)
    wanted = processed(folder, image, longest_edge, asked(config, rules))
    preprocessor = Preprocessor(config.encoder, config.tiles)
    pixels = preprocessor.pixels(image)
    assert pixels.shape == (grid[0] * SIDE, grid[1] * SIDE, 3)
    tiles = preprocessor.tiles(pixels)
    assert tiles.shape == (count, SIDE, SIDE, 3)
    restored = (wanted.pixel_values[0].permute(0, 2, 3, 1) * 0.5 + 0.5) * 255
    assert np.array_equal(tiles, restored.round().numpy().astype(np.uint8))

    before, *between = config.pieces(*grid)
    prompt = rules.prompt(()).ids
    visual = [tokenizer.token_to_id("<image>")] * LENGTH
    ids = [*before, *visual]
    for piece in between:
        ids += [*piece, *visual]
    assert [*ids, *prompt] == wanted.input_ids[0].tolist()
    assert len(ids) + len(prompt) <= config.max_prompt_tokens

    save_checkpoint(tmp_path / "ckpt", config, state, tokenizer, {})
    with torch.no_grad():
        logits = model(input_ids=wanted.input_ids, pixel_values=wanted.pixel_values).logits[0]
    with TorchRuntime(Checkpoint.load(tmp_path / "ckpt").captioner(), num_slots=1) as runtime:
        tokens = runtime.map(runtime.encode(tiles)).reshape(-1, config.decoder.width)
        row = StepRow(prompt, 0, tokens, len(prompt) + 1, before, between)
        batch = StepBatch.from_rows([row], runtime.token_width)
        found = runtime.step(batch, want_logits=True).logits
    assert found is not None
    last = logits[-len(prompt) - 1 :].numpy()
    assert np.abs(found - last).max() < 1e-4 * np.abs(last).max()


@pytest.mark.parametrize("published", ["named"], indirect=True)
def test_captions_are_those_of_transformers(published: Any, tmp_path: Path) -> None:
    """Images of different numbers of tiles in one batch, from the checkpoint and from a bundle."""
    folder, model = published
    config, state, tokenizer = import_vision_language(folder, "tiny", 4 * SIDE)
    save_checkpoint(tmp_path / "ckpt", config, state, tokenizer, {})
    rules = PromptTokenizer(tokenizer, config.prompt, config.decoder.pad_id)
    images = [picture(size, seed) for seed, size in enumerate([(80, 60), (20, 9), (50, 50)])]
    images.append(images[0])
    wanted = []
    for image in images:
        inputs = processed(folder, image, 4 * SIDE, asked(config, rules))
        ids = model.generate(
            **{name: inputs[name] for name in ("input_ids", "attention_mask", "pixel_values")},
            max_new_tokens=12,
            do_sample=False,
            eos_token_id=config.decoder.eos_id,
        )
        text = tokenizer.decode(ids[0, inputs.input_ids.shape[1] :].tolist())
        wanted.append(" ".join(text.split()))
    assert len(set(wanted)) > 1
    bundle = export_checkpoint(tmp_path / "ckpt", find_recipe("cpu-fp32"), tmp_path / "bundle")
    for path in (tmp_path / "ckpt", bundle.path):
        with Captioner.load(path, num_slots=2) as captioner:
            params = caption_params(captioner.config, max_new_tokens=12, temperature=0.0)
            captions = captioner.caption(images, params=params)
        assert [caption.text for caption in captions] == wanted


def test_a_single_tile_is_the_captioner_without_tiles(published: Any, tmp_path: Path) -> None:
    folder, _ = published
    plain, state, tokenizer = import_vision_language(folder, "tiny")
    tiled, _, _ = import_vision_language(folder, "tiny", 2 * SIDE)
    assert plain.tiles is None and "tiles" not in plain.to_dict()
    assert CaptionerConfig.from_dict(tiled.to_dict()) == tiled
    assert tiled.pieces() == [plain.prompt.before_ids]
    pixels = np.random.default_rng(3).integers(0, 256, (SIDE, SIDE, 3), np.uint8)
    texts: list[str] = []
    for config in (plain, tiled):
        save_checkpoint(tmp_path / str(len(texts)), config, state, tokenizer, {})
        with Captioner.load(tmp_path / str(len(texts)), num_slots=1) as captioner:
            params = caption_params(config, max_new_tokens=12, temperature=0.0)
            texts += [c.text for c in captioner.stream([CaptionRequest(pixels, ("A",))], params)]
    assert texts[0] == texts[1]


@pytest.mark.parametrize("published", ["named"], indirect=True)
def test_the_command_takes_the_longest_edge(published: Any, tmp_path: Path) -> None:
    run, (folder, _) = CliRunner().invoke, published
    out = tmp_path / "ckpt"
    done = run(app, ["import", str(folder), "--out", str(out), "--longest-edge", str(2 * SIDE)])
    assert done.exit_code == 0, done.stderr
    config = Checkpoint.load(out).config
    assert (config.max_tiles_per_side, config.max_visual_tokens) == (2, 5 * LENGTH)
    export_checkpoint(out, find_recipe("cpu-int8"), tmp_path / "bundle")
    with Captioner.load(tmp_path / "bundle") as captioner:
        (caption,) = captioner.caption([picture((60, 50))], ["A boat"])
    assert caption.tokens
    done = run(app, ["inspect", str(tmp_path / "bundle")])
    assert f"5 at most, of images with a longest edge of {2 * SIDE} px" in done.stdout


@pytest.mark.parametrize("longest_edge", [SIDE + 1, 7 * SIDE])
def test_a_length_that_makes_no_tiles_is_refused(published: Any, longest_edge: int) -> None:
    with pytest.raises(AltogetherError, match=f"give a multiple of {SIDE}, {6 * SIDE} at most"):
        import_vision_language(published[0], "tiny", longest_edge)


@pytest.mark.parametrize("published", ["named"], indirect=True)
def test_a_configuration_of_tiles_is_checked(published: Any) -> None:
    config, _, _ = import_vision_language(published[0], "tiny", 2 * SIDE)
    assert config.tiles is not None and VISION["image_size"] == SIDE
    for changed, match in (
        (replace(config.tiles, longest_edge=70), "multiple of encoder.image_size"),
        (replace(config.tiles, longest_edge=3 * SIDE), "3 rows and columns"),
        (replace(config.tiles, overview_ids=(config.decoder.vocab_size,)), "outside the vocab"),
    ):
        with pytest.raises(ConfigError, match=match):
            replace(config, tiles=changed)
