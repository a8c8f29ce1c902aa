"""Decoders saved by transformers compute the same here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

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


#: Where transformers has a default; the models above have these values.
OPTIONAL = (
    *("activation_function", "attention_bias", "bos_token_id", "do_layer_norm_before"),
    *("enable_bias", "eos_token_id", "head_dim", "hidden_act", "layer_norm_elementwise_affine"),
    *("layer_norm_epsilon", "mlp_bias", "n_inner", "pad_token_id", "rms_norm_eps"),
    *("rope_parameters", "scale_attn_by_inverse_layer_idx", "scale_attn_weights"),
    *("tie_word_embeddings", "word_embed_proj_dim", "_remove_final_layer_norm"),
)


@pytest.mark.parametrize("name", ["opt", "gpt2", "llama"])
def test_what_a_configuration_leaves_out_is_the_default_of_transformers(
    name: str, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    special = {"vocab_size": 50260} if name == "gpt2" else {}  # its end of text is token 50256
    make = {"opt": published.opt, "gpt2": published.gpt2, "llama": llama}[name]
    model = make(**special)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    model.save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    about = json.loads(path.read_text())
    path.write_text(json.dumps({k: v for k, v in about.items() if k not in OPTIONAL}))
    theirs = type(model).from_pretrained(tmp_path).eval()
    config, state = decoder_from_hf(str(tmp_path))
    assert config.eos_id == theirs.config.eos_token_id
    if theirs.config.pad_token_id is not None:
        assert config.pad_id == theirs.config.pad_token_id
    decoder = Decoder(config).eval()
    decoder.load_state_dict(state)
    token_ids = torch.randint(0, published.VOCAB_SIZE, (2, 9))
    with torch.no_grad():
        ours = decoder.logits(decoder(decoder.embed(token_ids)))
        torch.testing.assert_close(ours, theirs(token_ids).logits, atol=2e-5, rtol=1e-4)


def test_a_stored_head_counts_whatever_the_configuration_says(tmp_path: Path) -> None:
    """transformers does not tie a head that is stored and is not the embedding; a head that should
    be there is not guessed."""
    llama(tie_word_embeddings=True).save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    weights = load_file(path)
    embedding = weights["model.embed_tokens.weight"]
    for head, tied in ((torch.randn_like(embedding), False), (embedding.clone(), True)):
        save_file({**weights, "lm_head.weight": head}, path, {"format": "pt"})
        theirs = LlamaForCausalLM.from_pretrained(tmp_path)
        config, state = decoder_from_hf(str(tmp_path))
        assert config.tied_head == tied == ("head.weight" not in state)
        assert torch.equal(theirs.lm_head.weight, state["embed.weight" if tied else "head.weight"])
    about = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**about, "tie_word_embeddings": False}))
    assert decoder_from_hf(str(tmp_path))[0].tied_head  # stored, and equal to the embedding
    save_file(weights, path, {"format": "pt"})
    with pytest.raises(AltogetherError, match=r"has no lm_head\.weight"):
        decoder_from_hf(str(tmp_path))


def test_of_several_ends_the_first_is_the_tokenizers(tmp_path: Path) -> None:
    llama(eos_token_id=[7, 9]).save_pretrained(tmp_path)
    config, _ = decoder_from_hf(str(tmp_path))
    assert (config.eos_id, config.pad_id) == (7, 7)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"scale_attn_weights": False}, "scale_attn_weights = False"),
        ({"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx = True"),
        ({"add_cross_attention": True}, "add_cross_attention = True"),
    ],
)
def test_other_attention_of_gpt2_is_refused(
    change: dict[str, Any], words: str, tmp_path: Path
) -> None:
    published.gpt2().save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    about = json.loads(path.read_text())
    path.write_text(json.dumps(about | dict.fromkeys(change)))
    decoder_from_hf(str(tmp_path))  # null is the default
    path.write_text(json.dumps(about | change))
    with pytest.raises(AltogetherError, match=words):
        decoder_from_hf(str(tmp_path))


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
