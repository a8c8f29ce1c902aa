"""Published captioners, imported, compute what they computed."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer

from altogether_rt.errors import AltogetherError, ConfigError
from altogether_rt.importing.captioner import (
    default_encoder_tag,
    import_captioner,
    read_captioner,
)
from altogether_rt.importing.tokenizer import tokenizer_json
from altogether_rt.model.captioner import CaptionerModel
from tests.importing import published


@pytest.fixture
def encoder_json(tmp_path: Path) -> str:
    path = tmp_path / "tiny-encoder.json"
    path.write_text(json.dumps(published.ENCODER))
    return str(path)


def tokenizer(tmp_path: Path, family: str) -> Tokenizer:
    folder = published.write_tokenizer(tmp_path / f"tokenizer-{family}", family)
    return Tokenizer.from_str(tokenizer_json(folder))


CASES = {
    "altogether": lambda: published.altogether(),
    "altogether-post-norm": lambda: published.altogether(
        do_layer_norm_before=False, word_embed_proj_dim=16, width=16
    ),
    "altogether-own-head": lambda: published.altogether(tie_word_embeddings=False),
    "clipcap-mlp": lambda: published.clipcap("mlp"),
    "clipcap-transformer": lambda: published.clipcap("transformer"),
}


@pytest.mark.parametrize("case", CASES)
def test_logits_are_those_of_the_published_code(
    case: str, tmp_path: Path, encoder_json: str
) -> None:
    model = CASES[case]()
    family = "opt" if case.startswith("altogether") else "gpt2"
    state = model.state_dict()
    saved = published.training_checkpoint(state) if family == "opt" else state
    if case == "clipcap-mlp":
        saved = published.with_buffers(saved)
    torch.save(saved, tmp_path / "weights.pt")

    config, imported = import_captioner(
        read_captioner(tmp_path / "weights.pt"),
        tokenizer(tmp_path, family),
        name="tiny",
        mapper_heads=published.MAPPER_HEADS,
        decoder_heads=published.HEADS,
        encoder_name=encoder_json,
    )
    captioner = CaptionerModel(config).eval()
    captioner.load_state_dict(imported)
    embeddings = torch.randn(3, published.EMBED_DIM)
    token_ids = torch.randint(0, published.VOCAB_SIZE, (3, 7))
    with torch.no_grad():
        ours = captioner.logits(captioner.visual_tokens(embeddings), token_ids)
    theirs = model.logits(embeddings, token_ids)
    assert theirs.std() > 0.1  # the comparison could fail
    torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=1e-4)
    assert config.decoder.tied_head == ("own-head" not in case)
    assert config.decoder.norm_placement == ("post" if "post-norm" in case else "pre")


def test_usage_is_that_of_the_published_code(tmp_path: Path, encoder_json: str) -> None:
    torch.save(published.altogether().state_dict(), tmp_path / "altogether.pt")
    torch.save(published.clipcap("mlp").state_dict(), tmp_path / "clipcap.pt")
    altogether, _ = import_captioner(
        read_captioner(tmp_path / "altogether.pt"),
        tokenizer(tmp_path, "opt"),
        name="a",
        mapper_heads=2,
        decoder_heads=4,
        encoder_name=encoder_json,
    )
    assert (altogether.prompt.padding, altogether.prompt.max_alt_tokens) == ("attended_left", 128)
    assert (altogether.decoder.eos_id, altogether.decoder.pad_id) == (2, 1)
    assert altogether.encoder.normalize

    words = tokenizer(tmp_path, "gpt2")
    clipcap, _ = import_captioner(
        read_captioner(tmp_path / "clipcap.pt"),
        words,
        name="c",
        decoder_heads=4,
        encoder_name=encoder_json,
    )
    assert not clipcap.prompt.use_alt
    assert not clipcap.encoder.normalize
    assert clipcap.generation.stop_ids == (words.token_to_id("."),)
    assert (clipcap.generation.max_new_tokens, clipcap.generation.temperature) == (67, 0)
    assert clipcap.decoder.eos_id == clipcap.decoder.pad_id == 299
    assert default_encoder_tag(clipcap) is None
    encoder = replace(clipcap.encoder, name="RN50x4-quickgelu")
    assert default_encoder_tag(replace(clipcap, encoder=encoder)) == "openai"


def test_what_shapes_cannot_tell_is_asked_for(tmp_path: Path, encoder_json: str) -> None:
    torch.save(published.clipcap("transformer").state_dict(), tmp_path / "w.pt")
    weights = read_captioner(tmp_path / "w.pt")
    words = tokenizer(tmp_path, "gpt2")
    with pytest.raises(AltogetherError, match="--decoder-heads"):
        import_captioner(weights, words, name="x", encoder_name=encoder_json)
    with pytest.raises(AltogetherError, match="--encoder-name"):
        import_captioner(weights, words, name="x", decoder_heads=4)
    with pytest.raises(ConfigError, match="takes 24"):
        import_captioner(weights, words, name="x", decoder_heads=4, encoder_name="ViT-B-32")
    with pytest.raises(AltogetherError, match=r"has no <\|endoftext\|>"):
        import_captioner(weights, tokenizer(tmp_path, "opt"), name="x", decoder_heads=4)


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("gpt.transformer.wte.weight", None, "neither OPT nor GPT-2"),
        ("gpt.transformer.wpe.weight", None, "no matrix positions.weight"),
        ("gpt.transformer.h.1.ln_1.bias", None, "layers.1.norm1.bias"),
        ("gpt.transformer.h.0.mlp.c_fc.weight", torch.zeros(5, 7), "are not those of"),
        (
            "gpt.transformer.h.0.attn.c_attn.weight",
            torch.zeros(32, 95),
            "impossible|does not fit GPT-2",
        ),
        ("gpt.transformer.h.0.extra.weight", torch.zeros(3), "which GPT-2 does not have"),
        ("clip_project.model.2.weight", torch.zeros(130, 64), "not a multiple"),
        ("clip_project.model.0.weight", torch.zeros(3, dtype=torch.int64), "int64"),
        ("visual.proj", torch.zeros(3), "visual.proj"),
        ("gpt.transformer.ln_f.bias", torch.full((32,), math.nan), "ln_f.bias has 32 NaN"),
    ],
)
def test_weights_of_another_kind_are_refused(
    name: str, change: torch.Tensor | None, words: str, tmp_path: Path, encoder_json: str
) -> None:
    state = dict(published.clipcap("mlp").state_dict())
    state.pop("gpt.lm_head.weight")
    if change is None:
        del state[name]
    else:
        state[name] = change
    torch.save(state, tmp_path / "w.pt")
    with pytest.raises(AltogetherError, match=words) as caught:
        import_captioner(
            read_captioner(tmp_path / "w.pt"),
            tokenizer(tmp_path, "gpt2"),
            name="x",
            decoder_heads=4,
            encoder_name=encoder_json,
        )
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("part", ["clip_project.", "gpt."])
def test_a_part_alone_is_no_captioner(part: str, tmp_path: Path) -> None:
    state = published.clipcap("mlp").state_dict()
    torch.save({k: v for k, v in state.items() if k.startswith(part)}, tmp_path / "w.pt")
    with pytest.raises(AltogetherError, match="it lacks some of them"):
        read_captioner(tmp_path / "w.pt")
