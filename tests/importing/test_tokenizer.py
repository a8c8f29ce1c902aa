"""Published tokenizers keep their ids."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from altogether_rt.errors import AltogetherError
from altogether_rt.importing.tokenizer import placeholder_tokenizer_json, tokenizer_json

pytestmark = pytest.mark.lean

TEXTS = [
    "",
    " ",
    "common iguana, 06/01/2004",
    " leading and  double spaces \t tab\nnewline\r\n",
    "it's they'll I'VE 12345 3.14 #1 ## # # ####",
    "naïve café — “quotes” … ½ straße ŒUVRE",
    "東京タワー от Москвы до العربية עברית हिन्दी",
    "👩‍👩‍👧‍👦 🇺🇳 é ﬁ \u200b\u00a0\u2028 \ufeff \x00\x7f",
    "IMG_20190704_123456.jpg & <b>bold</b> <s>struck <unk> http://a.b/c?d=e",
    "the " * 40,
]


def write(folder: Path, vocab: dict[str, int], merges: str) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps(vocab), "utf-8")
    (folder / "merges.txt").write_text(merges, "utf-8")
    return folder


def small_vocab(*tokens: str) -> dict[str, int]:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    return {token: index for index, token in enumerate((*tokens, *alphabet))}


@pytest.fixture
def opt(shared_data: Path) -> Path:
    return shared_data / "tokenizers" / "opt"


def test_real_opt_ids_are_those_of_transformers(opt: Path) -> None:
    pytest.importorskip("torch", reason="needs the extra train")
    from altogether_rt.model._torchvision import make_torchvision_importable

    make_torchvision_importable()
    from transformers import GPT2Tokenizer

    special = {"bos_token": "</s>", "eos_token": "</s>", "unk_token": "</s>", "pad_token": "<pad>"}
    theirs = GPT2Tokenizer(vocab=str(opt / "vocab.json"), merges=str(opt / "merges.txt"), **special)
    ours = Tokenizer.from_str(tokenizer_json(opt))
    for text in (*TEXTS, "<s>struck</s> <pad>"):
        ids = ours.encode(text).ids
        assert ids == theirs.encode(text, add_special_tokens=False), text
        assert ours.decode(ids, skip_special_tokens=False) == theirs.decode(
            ids, clean_up_tokenization_spaces=False
        )
    assert ours.token_to_id("<pad>") == 1
    assert ours.token_to_id("</s>") == 2
    assert ours.decode([1, 2], skip_special_tokens=True) == ""


def test_every_text_survives(tmp_path: Path) -> None:
    merges = "#version: 0.2\n# #\n\nĠ t\r\n"
    vocab = {**small_vocab("<s>", "<pad>", "</s>", "<unk>"), "##": 300, "Ġt": 301}
    tokenizer = Tokenizer.from_str(tokenizer_json(write(tmp_path / "t", vocab, merges)))
    for text in TEXTS:
        assert tokenizer.decode(tokenizer.encode(text).ids) == text
    assert tokenizer.encode("##").ids == [300]  # "# #" is a merge, not a comment
    assert tokenizer.encode(" t").ids == [301]
    assert tokenizer.encode("</s><pad>").ids == [2, 1]
    assert 0 not in tokenizer.encode("<s>").ids


def test_gpt2_has_its_end_of_text(tmp_path: Path) -> None:
    vocab = {**small_vocab(), "<|endoftext|>": 256, "</s>": 257}
    tokenizer = Tokenizer.from_str(tokenizer_json(write(tmp_path / "t", vocab, "")))
    assert tokenizer.encode("a<|endoftext|>").ids[-1] == 256
    assert tokenizer.decode([256, *tokenizer.encode("a").ids]) == "a"
    assert 257 not in tokenizer.encode("</s>").ids  # special where there is <pad> as well


def test_a_tokenizer_json_is_taken_as_it_is(tmp_path: Path) -> None:
    original = Tokenizer(models.WordLevel({"a": 0, "b": 1}, unk_token="a"))
    original.pre_tokenizer = pre_tokenizers.Whitespace()
    original.enable_truncation(1)
    original.save(str(tmp_path / "tokenizer.json"))
    for source in (tmp_path, tmp_path / "tokenizer.json"):
        assert Tokenizer.from_str(tokenizer_json(source)).encode("b a b").ids == [1, 0, 1]


@pytest.mark.parametrize(
    ("vocab", "merges", "words"),
    [
        ("nonsense", "", "not a vocabulary"),
        ("[]", "", "must map"),
        ("{}", "", "must map"),
        ('{"a": "0"}', "", "must map"),
        ('{"a": true}', "", "must map"),
        ('{"a": -1}', "", "must map"),
        ('{"a": 0, "b": 0}', "", "same id"),
        ('{"a": 0}', "one two three", "not a pair"),
        ('{"a": 0}', "x y", "do not belong together"),
        ("[" * 100_000, "", "not a vocabulary"),
    ],
)
def test_damaged_files_are_a_sentence(vocab: str, merges: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "vocab.json").write_text(vocab)
    (tmp_path / "merges.txt").write_text(merges)
    with pytest.raises(AltogetherError, match=words):
        tokenizer_json(tmp_path)


def test_absent_and_foreign_files_are_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(AltogetherError, match="has no tokenizer"):
        tokenizer_json(tmp_path)
    with pytest.raises(AltogetherError, match="does not exist"):
        tokenizer_json(tmp_path / "absent")
    (tmp_path / "vocab.json").write_text('{"a": 0}')
    (tmp_path / "merges.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(AltogetherError, match="not a list of merges"):
        tokenizer_json(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(AltogetherError, match="not a tokenizer file"):
        tokenizer_json(tmp_path)


@pytest.mark.parametrize(("size", "eos", "pad"), [(1024, 2, 1), (300, 299, 299), (50272, 2, 1)])
def test_the_placeholder_has_a_token_for_every_byte_and_a_text_for_every_id(
    size: int, eos: int, pad: int
) -> None:
    tokenizer = Tokenizer.from_str(placeholder_tokenizer_json(size, eos, pad))
    assert tokenizer.get_vocab_size() == size
    for text in TEXTS:
        ids = tokenizer.encode(text).ids
        assert len(ids) == len(text.encode())
        assert tokenizer.decode(ids) == text
    assert tokenizer.decode([eos, pad]) == ""
    assert tokenizer.decode([size - 3]) == f" <{size - 3}>"


def test_a_vocabulary_too_small_for_bytes_is_a_sentence() -> None:
    with pytest.raises(AltogetherError, match="--tokenizer"):
        placeholder_tokenizer_json(257, 2, 1)
    smallest = Tokenizer.from_str(placeholder_tokenizer_json(258, 2, 1))
    assert smallest.decode(smallest.encode("ünï").ids) == "ünï"
