"""`altogether-rt import` on small weights in exactly the published formats."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

from altogether_rt.artifacts.checkpoint import Checkpoint
from altogether_rt.cli.main import app
from altogether_rt.preprocess.prompts import PromptTokenizer
from tests.importing import published

runner = CliRunner()


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """Published weights, tokenizers, and an encoder with its description."""
    import open_clip

    altogether, clipcap = published.altogether(), published.clipcap("mlp")
    torch.save(published.training_checkpoint(altogether.state_dict()), tmp_path / "altogether.pt")
    torch.save(published.with_buffers(clipcap.state_dict()), tmp_path / "clipcap.pt")
    published.write_tokenizer(tmp_path / "opt", "opt")
    published.write_tokenizer(tmp_path / "gpt2", "gpt2")
    (tmp_path / "encoder.json").write_text(json.dumps(published.ENCODER))
    torch.manual_seed(5)
    torch.save(open_clip.CLIP(**published.ENCODER).state_dict(), tmp_path / "encoder.pt")
    return tmp_path


def run_import(files: Path, source: str, *options: str) -> Any:
    arguments = [str(files / source), "--out", str(files / "ckpt"), *options]
    return runner.invoke(app, ["import", *arguments])


def tiny(files: Path, family: str) -> list[str]:
    """Options for what sizes as small as these do not tell."""
    options = {
        "--tokenizer": files / family,
        "--encoder-name": files / "encoder.json",
        "--encoder-weights": files / "encoder.pt",
        "--mapper-heads": 2,
        "--decoder-heads": 4,
    }
    return [str(word) for pair in options.items() for word in pair]


@pytest.mark.parametrize(("source", "family"), [("altogether", "opt"), ("clipcap", "gpt2")])
def test_imported_weights_caption_as_published(files: Path, source: str, family: str) -> None:
    result = run_import(files, f"{source}.pt", *tiny(files, family))
    assert result.exit_code == 0, result.stderr
    assert "encoder embedded" in result.stdout.replace("\n", " ")
    checkpoint = Checkpoint.load(files / "ckpt")
    assert checkpoint.config.name == source
    assert checkpoint.about["imported_from"] == f"{source}.pt"
    assert checkpoint.about["encoder_file"] == "encoder.pt"
    captioner = checkpoint.captioner()

    model = published.altogether() if source == "altogether" else published.clipcap("mlp")
    prompt_config, decoder = checkpoint.config.prompt, checkpoint.config.decoder
    tokenizer = PromptTokenizer.from_file(checkpoint.tokenizer_path, prompt_config, decoder.pad_id)
    prompt = tokenizer.prompt(["the iguana"])
    if source == "altogether":  # padded to 128 on the left, and the padding is attended
        assert len(prompt.ids) == 128
        assert prompt.ids[0] == decoder.pad_id == 1
    else:
        assert prompt.ids == ()
    ids = torch.tensor([[*prompt.ids, 40, 50, 60]])
    with torch.no_grad():
        pixels = torch.randint(0, 256, (1, 16, 16, 3), dtype=torch.uint8)
        embeddings = captioner.encode(pixels)
        ours = captioner.logits(captioner.visual_tokens(embeddings), ids)
    assert (abs(embeddings.norm() - 1) < 1e-5) == (source == "altogether")
    torch.testing.assert_close(ours, model.logits(embeddings, ids), atol=2e-5, rtol=1e-4)


def test_the_encoder_stays_by_reference(files: Path) -> None:
    """Weights of the published width: the encoder is known, and is not loaded."""
    mapper = torch.nn.Sequential(
        torch.nn.Linear(512, 64), torch.nn.Tanh(), torch.nn.Linear(64, 128)
    )
    state = published.clipcap("mlp").state_dict()
    state |= {f"clip_project.model.{name}": t for name, t in mapper.state_dict().items()}
    save_file(
        {k: v.clone() for k, v in state.items() if k != "gpt.lm_head.weight"},
        files / "gpt2" / "w.safetensors",
    )
    # the tokenizer lies beside the weights
    result = run_import(files, "gpt2/w.safetensors", "--decoder-heads", "4", "--json")
    assert result.exit_code == 0, result.stderr
    data = json.loads(result.stdout)
    assert not data["encoder_embedded"]
    encoder = data["config"]["encoder"]
    assert (encoder["name"], encoder["normalize"]) == ("ViT-B-32-quickgelu", False)
    checkpoint = Checkpoint.load(files / "ckpt")
    assert not checkpoint.has_encoder
    assert checkpoint.about["encoder_weights"] == "openai"
    assert checkpoint.config.mapper.prefix_length == 4
    checkpoint.captioner(with_encoder=False)


class Hostile:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.mark}",)


def test_a_hostile_file_does_not_run(files: Path) -> None:
    state = {**published.clipcap("mlp").state_dict(), "x": Hostile(files / "mark")}
    torch.save(state, files / "hostile.pt")
    result = run_import(files, "hostile.pt", *tiny(files, "gpt2"))
    assert result.exit_code == 1
    assert "could run code" in result.stderr
    assert not (files / "mark").exists()
    assert not (files / "ckpt").exists()


def test_a_truncated_file_is_one_sentence(files: Path) -> None:
    whole = (files / "clipcap.pt").read_bytes()
    (files / "short.pt").write_bytes(whole[: len(whole) // 2])
    result = run_import(files, "short.pt", *tiny(files, "gpt2"))
    assert result.exit_code == 1
    assert result.stderr.count("\n") == 1
    assert "short.pt" in result.stderr


@pytest.mark.parametrize(
    ("source", "drop", "words"),
    [
        ("absent.pt", None, "does not exist"),
        ("encoder.pt", None, "not a captioner of ClipCap or Altogether"),
        ("clipcap.pt", "--encoder-name", "--encoder-name"),
        ("clipcap.pt", "--encoder-weights", "give --encoder-weights"),
        ("clipcap.pt", "--decoder-heads", "--decoder-heads"),
        ("clipcap.pt", "--tokenizer", "give --tokenizer"),
    ],
)
def test_what_is_missing_is_asked_for(
    files: Path, source: str, drop: str | None, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreachable(*args: Any, **kwargs: Any) -> str:
        raise OSError("no route to host")

    monkeypatch.setattr("huggingface_hub.snapshot_download", unreachable)
    options = tiny(files, "gpt2")
    if drop is not None:
        at = options.index(drop)
        del options[at : at + 2]
    result = run_import(files, source, *options)
    assert result.exit_code == 1, result.stdout
    assert words in result.stderr
    assert result.stderr.count("\n") == 1
    assert not (files / "ckpt").exists()


def test_an_existing_folder_is_left_alone(files: Path) -> None:
    (files / "ckpt").mkdir()
    result = run_import(files, "clipcap.pt", *tiny(files, "gpt2"))
    assert result.exit_code == 1
    assert "already exists" in result.stderr
    assert list((files / "ckpt").iterdir()) == []
