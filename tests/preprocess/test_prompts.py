"""The prompt's rules; parity with other libraries is tested beside."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from altogether_rt.config import PromptConfig
from altogether_rt.errors import AltogetherError
from altogether_rt.preprocess.prompts import PromptTokenizer, join_alts

pytestmark = pytest.mark.lean

PAD, EOS = 1, 2


def byte_tokenizer(**prompt: Any) -> PromptTokenizer:
    """One token a byte: lengths can be counted by eye."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = ["<s>", "<pad>", "</s>", *alphabet]
    tokenizer = Tokenizer(models.BPE(vocab={t: i for i, t in enumerate(tokens)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(tokens[:3])
    # What a file brings along must not leak into prompts.
    tokenizer.enable_padding(length=50)
    tokenizer.enable_truncation(max_length=3)
    return PromptTokenizer(tokenizer, PromptConfig(**prompt), PAD)


def test_alts_keep_their_order_and_first_occurrence() -> None:
    alts = ["zebra", "ant", "zebra", "  ant\n", "", "Ant", " \t", "mid\u00a0dle  of   line"]
    assert join_alts(alts, " ") == "zebra ant Ant mid dle of line"
    assert join_alts(alts, "; ") == "zebra; ant; Ant; mid dle of line"
    assert join_alts([], " ") == join_alts(["", " "], " ") == ""


def test_a_prompt_is_the_tokens_of_the_joined_alts() -> None:
    tokenizer = byte_tokenizer(max_alt_tokens=20, alt_separator=" | ")
    prompt = tokenizer.prompt(["a cat", "b", "a cat"])
    assert list(prompt.ids) == tokenizer.encode("a cat | b")
    assert len(prompt.ids) == 9
    assert not prompt.alt_truncated
    assert tokenizer.prompt([]).ids == ()
    assert not tokenizer.prompt([]).alt_truncated


@pytest.mark.parametrize("length", [0, 1, 11, 12, 13, 500])
@pytest.mark.parametrize("padding", ["none", "attended_left"])
def test_lengths_truncation_and_padding(padding: str, length: int) -> None:
    tokenizer = byte_tokenizer(max_alt_tokens=12, padding=padding)
    text = "x" * length
    prompt = tokenizer.prompt([text])
    kept = tokenizer.encode(text)[:12]
    pads = 12 - len(kept) if padding == "attended_left" else 0
    assert list(prompt.ids) == [PAD] * pads + kept
    assert prompt.alt_truncated is (length > 12)


def test_suffix_and_unused_alts() -> None:
    tokenizer = byte_tokenizer(max_alt_tokens=4, padding="attended_left", suffix_ids=(7, 8))
    assert tokenizer.prompt(["ab"]).ids == (PAD, PAD, *tokenizer.encode("ab"), 7, 8)
    assert tokenizer.prompt(["abcdef"]).ids == (*tokenizer.encode("abcd"), 7, 8)
    for padding in ("none", "attended_left"):
        without = byte_tokenizer(max_alt_tokens=4, use_alt=False, suffix_ids=(7,), padding=padding)
        assert without.prompt(["abcdef"]).ids == (7,)
        assert not without.prompt(["abcdef"]).alt_truncated


def test_a_huge_alt_is_cut_before_it_is_tokenized(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = byte_tokenizer(max_alt_tokens=128)
    wanted = tokenizer.encode("word " * 100)[:128]
    seen: list[int] = []
    encode = PromptTokenizer.encode

    def watched(self: PromptTokenizer, text: str) -> list[int]:
        seen.append(len(text))
        return encode(self, text)

    monkeypatch.setattr(PromptTokenizer, "encode", watched)
    prompt = tokenizer.prompt(["word " * 2_000_000])
    assert list(prompt.ids) == wanted
    assert prompt.alt_truncated
    assert seen and max(seen) < 10_000


def test_text_without_a_utf8_form_is_still_tokenized() -> None:
    tokenizer = byte_tokenizer(max_alt_tokens=20)
    assert tokenizer.prompt(["a\ud800b"]).ids == tokenizer.prompt(["a?b"]).ids


def test_decoding_drops_special_tokens_and_newlines() -> None:
    tokenizer = byte_tokenizer()
    ids = [0, *tokenizer.encode(" one\ntwo\r\n  three "), EOS, PAD]
    assert tokenizer.decode(ids) == "one two three"
    assert tokenizer.decode([]) == ""
    cut = tokenizer.encode("né")[:-1]  # half of a character
    assert tokenizer.decode(cut) == "n\ufffd"


def test_a_tokenizer_file_and_what_is_none(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    Tokenizer(models.WordLevel({"a": 0, "b": 1}, unk_token="a")).save(str(path))
    tokenizer = PromptTokenizer.from_file(path, PromptConfig(), PAD)
    assert tokenizer.vocab_size == 2
    assert tokenizer.encode("b") == [1]
    path.write_text("{}")
    with pytest.raises(AltogetherError, match="is not a tokenizer file"):
        PromptTokenizer.from_file(path, PromptConfig(), PAD)
    with pytest.raises(AltogetherError, match="is not a tokenizer file"):
        PromptTokenizer.from_file(tmp_path / "none", PromptConfig(), PAD)


def test_special_tokens_written_in_an_alt_are_text() -> None:
    tokenizer = byte_tokenizer(max_alt_tokens=50)
    ids = tokenizer.prompt(["the end </s> not"]).ids
    assert EOS not in ids and PAD not in ids
    assert len(ids) == len("the end </s> not")
    assert tokenizer.encode("</s>") == tokenizer.plain_ids("</s>") != [EOS]
