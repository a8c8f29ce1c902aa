"""`altogether-rt init`: checkpoints to try things out with and to start training from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from altogether_rt.artifacts.checkpoint import Checkpoint
from altogether_rt.cli.main import app
from altogether_rt.config import named_config
from altogether_rt.preprocess.prompts import PromptTokenizer
from tests.importing import published

runner = CliRunner()

#: A captioner around the small published decoder of the tests.
CONFIG = """
[encoder]
name = "tiny"
embed_dim = 24
image_size = 16
[encoder.model]
embed_dim = 24
vision_cfg = { image_size = 16, layers = 1, width = 16, head_width = 8, patch_size = 8 }
text_cfg = { context_length = 8, vocab_size = 64, width = 16, heads = 2, layers = 1 }
[mapper]
prefix_length = 4
clip_length = 4
layers = 1
heads = 4
[decoder]
vocab_size = 300
layers = 1
width = 32
heads = 4
ffn_width = 48
max_positions = 64
position_offset = 2
eos_id = 2
pad_id = 1
[prompt]
max_alt_tokens = 10
[generation]
max_new_tokens = 20
"""


@pytest.fixture
def config(tmp_path: Path) -> str:
    path = tmp_path / "tiny.toml"
    path.write_text(CONFIG)
    return str(path)


def run_init(tmp_path: Path, *options: str, out: str = "ckpt") -> Any:
    return runner.invoke(app, ["init", "--out", str(tmp_path / out), *options])


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    return dict(Checkpoint.load(folder).captioner(with_encoder=True).state_dict())


def test_random_weights_caption_at_once(tmp_path: Path) -> None:
    result = run_init(tmp_path, "--config", "starter", "--random-weights", "--json")
    assert result.exit_code == 0, result.stderr
    checkpoint = Checkpoint.load(tmp_path / "ckpt")
    captioner = checkpoint.captioner()
    config = checkpoint.config
    data = json.loads(result.stdout)
    assert data["random"] == ["mapper", "decoder", "encoder"]
    assert data["parameters"] > sum(p.numel() for p in captioner.decoder.parameters())
    tokenizer = PromptTokenizer.from_file(
        checkpoint.tokenizer_path, config.prompt, config.decoder.pad_id
    )
    ids = tokenizer.prompt(["A café"]).ids
    assert tokenizer.decode(ids) == "A café"
    size = config.encoder.image_size
    with torch.no_grad():
        embeddings = captioner.encode(torch.zeros(1, size, size, 3, dtype=torch.uint8))
        visual_tokens = captioner.visual_tokens(embeddings)
        logits = captioner.logits(visual_tokens, torch.tensor([ids]))[0, -1]
    assert logits.isfinite().all()
    assert tokenizer.vocab_size == len(logits)


def test_the_same_seed_makes_the_same_weights(tmp_path: Path, config: str) -> None:
    for out, seed in (("a", "3"), ("b", "3"), ("c", "4")):
        result = run_init(tmp_path, "--config", config, "--random-weights", "--seed", seed, out=out)
        assert result.exit_code == 0, result.stderr
    a, b, c = (weights_of(tmp_path / out) for out in "abc")
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert not torch.equal(a["decoder.embed.weight"], c["decoder.embed.weight"])
    assert not torch.equal(a["encoder.visual.proj"], c["encoder.visual.proj"])


def test_a_decoder_and_an_encoder_to_start_from(tmp_path: Path, config: str) -> None:
    import open_clip

    torch.manual_seed(0)
    decoder = published.opt()
    decoder.save_pretrained(tmp_path / "opt")
    published.write_tokenizer(tmp_path / "opt", "opt")
    clip: Any = open_clip.CLIP(**published.ENCODER)
    torch.save(clip.state_dict(), tmp_path / "clip.pt")
    options = ["--decoder", str(tmp_path / "opt"), "--encoder-weights", str(tmp_path / "clip.pt")]
    result = run_init(tmp_path, "--config", config, *options)
    assert result.exit_code == 0, result.stderr
    assert "random: mapper\n" in result.stdout
    checkpoint = Checkpoint.load(tmp_path / "ckpt")
    assert checkpoint.config.decoder.layers == 2  # the folder's, not the configuration's
    captioner = checkpoint.captioner()
    assert captioner.encoder is not None
    visual: Any = captioner.encoder.visual
    assert torch.equal(visual.proj, clip.visual.proj)
    assert torch.equal(captioner.decoder.embed.weight, decoder.get_input_embeddings().weight)
    words = PromptTokenizer.from_file(checkpoint.tokenizer_path, checkpoint.config.prompt, 1)
    assert words.encode(" the") == [words._tokenizer.token_to_id("Ġthe")]


def test_the_encoder_can_stay_by_reference(tmp_path: Path) -> None:
    path = tmp_path / "small.toml"  # a published encoder with little around it
    small = CONFIG.replace('name = "tiny"', 'name = "ViT-B-32-quickgelu"').replace("24", "512", 1)
    head, _, rest = small.partition("[encoder.model]")
    path.write_text(head.replace("16", "224") + "[mapper]" + rest.partition("[mapper]")[2])
    result = run_init(tmp_path, "--config", str(path), "--random-weights", "--no-encoder")
    assert result.exit_code == 0, result.stderr
    checkpoint = Checkpoint.load(tmp_path / "ckpt")
    assert not checkpoint.has_encoder
    assert checkpoint.about["encoder_weights"] == "metaclip_fullcc"
    assert checkpoint.config.encoder == named_config("altogether-opt-125m").encoder


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        ([], 2, "--decoder and --encoder-weights"),
        (["--encoder-weights", "openai"], 1, "neither a file"),
        (["--random-weights", "--no-encoder"], 1, "leave out --no-encoder"),
        (["--random-weights", "--encoder-weights", "absent.pt"], 1, "neither a file"),
        (["--random-weights", "--tokenizer", "absent"], 1, "does not exist"),
        (
            ["--random-weights", "--no-encoder", "--encoder-weights", "FILE"],
            1,
            "cannot be combined",
        ),
        (["--random-weights", "--encoder-weights", "FILE"], 1, "FILE"),
        (["--random-weights", "--config", "nope"], 1, "no configuration"),
    ],
)
def test_mistakes_are_sentences(
    options: list[str], code: int, words: str, tmp_path: Path, config: str
) -> None:
    (tmp_path / "FILE").write_bytes(b"garbage")
    given = [str(tmp_path / "FILE") if word == "FILE" else word for word in options]
    named = [] if "--config" in options else ["--config", config]
    result = run_init(tmp_path, *named, *given)
    assert result.exit_code == code
    plain = result.stderr.replace("│", "").replace("\n", " ")
    assert words in " ".join(plain.split())
    assert code == 2 or result.stderr.count("\n") == 1
    assert not (tmp_path / "ckpt").exists()


def test_a_decoder_that_does_not_go_with_the_configuration(tmp_path: Path) -> None:
    published.opt().save_pretrained(tmp_path / "opt")
    options = ["--config", "clipcap-mlp", "--random-weights", "--decoder", str(tmp_path / "opt")]
    result = run_init(tmp_path, *options)
    assert result.exit_code == 1
    assert "stop_ids" in result.stderr


def test_an_existing_folder_is_left_alone(tmp_path: Path, config: str) -> None:
    (tmp_path / "ckpt").mkdir()
    result = run_init(tmp_path, "--config", config, "--random-weights")
    assert result.exit_code == 1
    assert "already exists" in result.stderr
