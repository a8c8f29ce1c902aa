"""Tokenizer files of strangers: what would explode, backtrack or end the process is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from altogether_rt.artifacts.tokenizer import read_tokenizer
from altogether_rt.config import PromptConfig
from altogether_rt.errors import AltogetherError
from altogether_rt.preprocess.prompts import PromptTokenizer

pytestmark = pytest.mark.lean


def plain() -> dict[str, Any]:
    tokenizer = Tokenizer(models.WordLevel({"a": 0, "b": 1, "[UNK]": 2}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    data: dict[str, Any] = json.loads(tokenizer.to_str())
    return data


def write(path: Path, **parts: Any) -> Path:
    path.write_text(json.dumps({**plain(), **parts}), "utf-8")
    return path


def replace(pattern: dict[str, str], content: str) -> dict[str, Any]:
    return {"type": "Replace", "pattern": pattern, "content": content}


def split(regex: str) -> dict[str, Any]:
    pattern = {"Regex": regex}
    return {"type": "Split", "pattern": pattern, "behavior": "Isolated", "invert": False}


def sequence(kind: str, part: dict[str, Any], times: int) -> dict[str, Any]:
    return {"type": "Sequence", kind: [part] * times}


BOMBS: dict[str, tuple[dict[str, Any], str]] = {
    "a letter becomes many": (
        {"normalizer": replace({"String": "a"}, "a" * 1000)},
        "hundreds of times longer",
    ),
    "doubled ten times": (
        {"normalizer": sequence("normalizers", replace({"String": "a"}, "aa"), 10)},
        "hundreds of times longer",
    ),
    "an empty pattern": (
        {"normalizer": replace({"String": ""}, "a" * 300)},
        "hundreds of times longer",
    ),
    "prepended": ({"normalizer": {"type": "Prepend", "prepend": "a" * 9999}}, "prepends"),
    "tokens that grow": (
        {"decoder": replace({"String": "a"}, "a" * 100)},
        "makes tokens many times longer",
    ),
    "fifty parts": (
        {"normalizer": sequence("normalizers", {"type": "NFC"}, 50)},
        "too many parts",
    ),
    "nested repetition": ({"pre_tokenizer": split("(x+x+)+y")}, "repetition of repetitions"),
    "nested counts": ({"pre_tokenizer": split("(?:a{1,999}){1,99}b")}, "repeats too often"),
    "a pattern of groups": ({"pre_tokenizer": split("(" * 99 + ")" * 99)}, "too many groups"),
    "no charsmap": (
        {"normalizer": {"type": "Precompiled", "precompiled_charsmap": ""}},
        "precompiled_charsmap",
    ),
    "length 0": ({"pre_tokenizer": {"type": "FixedLength", "length": 0}}, "out of range"),
    "a long token": (
        {"model": {"type": "WordLevel", "vocab": {"a" * 9999: 0}, "unk_token": "a" * 9999}},
        "a token of 9999 characters",
    ),
    "no unknown token": (
        {"model": {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "none"}},
        "is not a tokenizer file",
    ),
}


@pytest.mark.parametrize("case", BOMBS)
def test_what_explodes_is_refused_before_it_is_loaded(case: str, tmp_path: Path) -> None:
    parts, says = BOMBS[case]
    with pytest.raises(AltogetherError, match=says) as caught:
        read_tokenizer(write(tmp_path / "t.json", **parts))
    assert str(caught.value).endswith(".")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "regex",
    [  # GPT-2, Llama 3 (cl100k), GPT-4o (o200k)
        r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
        r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t)?"
        r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    ],
)
def test_the_patterns_of_published_tokenizers_are_taken(regex: str, tmp_path: Path) -> None:
    read_tokenizer(write(tmp_path / "t.json", pre_tokenizer=split(regex))).encode("a b's 12")


def test_ids_beyond_the_embeddings_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "t.json")
    read_tokenizer(path, vocab_size=3)
    with pytest.raises(AltogetherError, match=r"'.UNK.' with id 2, and the decoder has embeddings"):
        read_tokenizer(path, vocab_size=2)


def test_a_key_twice_and_huge_files_are_refused(tmp_path: Path) -> None:
    text = json.dumps(plain())
    (tmp_path / "t.json").write_text(text.replace('"version"', '"decoder": null, "version"', 1))
    with pytest.raises(AltogetherError, match="a key twice"):
        read_tokenizer(tmp_path / "t.json")
    with (tmp_path / "t.json").open("r+b") as file:
        file.truncate(1 << 30)
    with pytest.raises(AltogetherError, match="too many for a tokenizer"):
        read_tokenizer(tmp_path / "t.json")


def test_a_failure_of_the_library_is_a_sentence() -> None:
    class Panic(BaseException):
        """What the library's panics are: no Exception."""

    class Broken:
        def no_padding(self) -> None: ...
        def no_truncation(self) -> None: ...

        def encode(self, *_: object, **__: object) -> None:
            raise Panic("index out of bounds")

        def decode(self, *_: object, **__: object) -> None:
            raise KeyboardInterrupt

    tokenizer = PromptTokenizer(Broken(), PromptConfig(), 0)  # type: ignore[arg-type]
    with pytest.raises(AltogetherError, match=r"failed .* \(index out of bounds\)"):
        tokenizer.encode("a")
    with pytest.raises(KeyboardInterrupt):
        tokenizer.decode([1])
