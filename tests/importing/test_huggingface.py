"""Decoders saved by transformers compute the same here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from altogether_rt.errors import AltogetherError
from altogether_rt.importing import huggingface
from altogether_rt.importing.huggingface import decoder_from_hf, hub_folder
from altogether_rt.model._torchvision import make_torchvision_importable
from altogether_rt.model.decoder import Decoder
from tests.importing import published

make_torchvision_importable()
from transformers import LlamaConfig, LlamaForCausalLM  # noqa: E402


def llama(**options: Any) -> LlamaForCausalLM:
    values: dict[str, Any] = {
        "vocab_size": published.VOCAB_SIZE,
        "hidden_size": 32,
        "intermediate_size": 40,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 64,
        "rope_theta": 5000.0,
    }
    return LlamaForCausalLM(LlamaConfig(**{**values, **options}))


MODELS = {
    "opt": lambda: published.opt(),
    "opt-350m": lambda: published.opt(do_layer_norm_before=False, word_embed_proj_dim=16),
    "opt-gelu": lambda: published.opt(activation_function="gelu", tie_word_embeddings=False),
    "gpt2": lambda: published.gpt2(),
    "gpt2-inner": lambda: published.gpt2(n_inner=24, layer_norm_epsilon=1e-3),
    "llama": lambda: llama(),
    "llama-tied-biased": lambda: llama(
        tie_word_embeddings=True, attention_bias=True, mlp_bias=True
    ),
}


FORMS = [(name, "safetensors") for name in MODELS] + [
    (name, form) for name in ("opt", "gpt2") for form in ("bin", "half")
]


@pytest.mark.parametrize(("name", "form"), FORMS)
def test_logits_are_those_of_transformers(name: str, form: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = MODELS[name]().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    if form == "half":
        model = model.half()
    model.save_pretrained(tmp_path)
    if form == "bin":  # as the hub has OPT: one pickle, the tied head repeated
        (tmp_path / "model.safetensors").unlink()
        torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    config, state = decoder_from_hf(str(tmp_path))
    decoder = Decoder(config).eval()
    decoder.load_state_dict(state)
    assert all(tensor.dtype == torch.float32 for tensor in state.values())
    token_ids = torch.randint(0, published.VOCAB_SIZE, (2, 9))
    with torch.no_grad():
        ours = decoder.logits(decoder(decoder.embed(token_ids)))
        theirs = model.float()(token_ids).logits
    assert theirs.std() > 0.1
    torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"model_type": "bert"}, "type 'bert'"),
        ({"hidden_act": "mish"}, "'mish'"),
        ({"rope_parameters": {"rope_type": "llama3", "rope_theta": 1.0}}, "rope_type"),
        ({"mlp_bias": True}, "mlp_bias"),
        ({"sliding_window": 16}, "sliding_window"),
        ({"head_dim": 16}, "head_dim"),
        ({"num_attention_heads": None}, "lacks a value"),
        ({"num_attention_heads": 0}, "lacks a value"),
        ({"num_attention_heads": 5}, "invalid value"),
    ],
)
def test_other_architectures_are_refused(
    change: dict[str, Any], words: str, tmp_path: Path
) -> None:
    llama().save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    about = json.loads(path.read_text())
    del about["head_dim"]
    path.write_text(json.dumps({**about, **change}))
    with pytest.raises(AltogetherError, match=words):
        decoder_from_hf(str(tmp_path))


@pytest.mark.parametrize("text", ["", "[]", "\xff", None])
def test_a_damaged_configuration_is_a_sentence(text: str | None, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / "config.json").write_text(text, "latin-1")
    with pytest.raises(AltogetherError, match=r"config\.json"):
        decoder_from_hf(str(tmp_path))


def test_a_hub_that_cannot_be_reached_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*args: Any, **kwargs: Any) -> str:
        raise OSError("no route\nto host")

    monkeypatch.setattr("huggingface_hub.snapshot_download", unreachable)
    with pytest.raises(AltogetherError, match=r"facebook/opt-125m .*no route\)") as caught:
        decoder_from_hf("facebook/opt-125m")
    assert "\n" not in str(caught.value)


def test_pickles_are_fetched_only_without_safetensors(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    fetched: list[str] = []

    def download(source: str, allow_patterns: list[str]) -> str:
        fetched.extend(allow_patterns)
        return str(tmp_path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    assert hub_folder("some/model", weights=False) == tmp_path
    assert "vocab.json" in fetched
    assert not any("model" in pattern for pattern in fetched)
    hub_folder("some/model", weights=True)
    assert fetched[-2:] == huggingface._PICKLE_FILES
    (tmp_path / "model.safetensors").touch()
    fetched.clear()
    hub_folder("some/model", weights=True)
    assert not any("bin" in pattern for pattern in fetched)
