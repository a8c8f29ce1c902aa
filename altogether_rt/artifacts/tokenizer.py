"""Reads tokenizer files of strangers, whose parts can be made to take any time and memory.

What a file asks of the library is checked before the library sees it: how much a text can grow,
which patterns are matched, how long the tokens are. The library's panics become sentences.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from tokenizers import Tokenizer

from altogether_rt.artifacts.json_file import parse_json
from altogether_rt.errors import AltogetherError, reason

__all__ = ["check_token_ids", "parse_tokenizer", "read_tokenizer", "tokenizer_failure"]

#: The largest published tokenizers (a vocabulary of 256,000) have 35 MB.
_MAX_BYTES: Final = 64 << 20
_MAX_TOKEN_CHARS: Final = 2048
_MAX_PARTS: Final = 32
_MAX_NESTING: Final = 4
_MAX_PATTERN_CHARS: Final = 2048

#: How many times longer than itself a text may become before it is divided into tokens (U+FDFA
#: becomes 18 characters in NFKC), and a token before it is part of a caption.
_MAX_TEXT_GROWTH: Final = 256
_MAX_TOKEN_GROWTH: Final = 16

#: Maximum product of nested counts in a pattern; `\p{N}{1,3}` counts to 3.
_MAX_REPEATS: Final = 1000
_SLOTS: Final = ("normalizer", "pre_tokenizer", "decoder")
_SEQUENCES: Final = ("normalizers", "pretokenizers", "decoders")
_COUNTED: Final = re.compile(r"\{(\d*)(,?)(\d*)\}")

#: Text that no vocabulary has as a whole: a tokenizer that must know all words fails on it.
_PROBE: Final = "\U0010fffd é \x00 q"


def read_tokenizer(path: Path, vocab_size: int | None = None) -> Tokenizer:
    """The tokenizer in a `tokenizers` JSON file.

    vocab_size: rows of the decoder's embedding table. Raises AltogetherError if the file is absent,
    not a tokenizer, has an id beyond the table, or asks for more than any published one does.
    """
    try:
        size = path.stat().st_size
        if size > _MAX_BYTES:
            raise AltogetherError(
                f"{path} has {size} bytes, too many for a tokenizer: give the decoder's own."
            )
        data = path.read_bytes()
    except OSError as error:
        raise AltogetherError(f"{path} is not a tokenizer file: {reason(error)}.") from error
    return parse_tokenizer(data, path, vocab_size)


def parse_tokenizer(data: bytes, path: Path, vocab_size: int | None = None) -> Tokenizer:
    """`read_tokenizer` of the content of `path`."""
    try:
        _check(parse_json(data))
        tokenizer = Tokenizer.from_buffer(data)
        tokenizer.encode(_PROBE, add_special_tokens=False)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # a bare Exception, or a panic, which is none
        raise AltogetherError(f"{path} is not a tokenizer file: {reason(error)}.") from error
    if vocab_size is not None:
        check_token_ids(tokenizer, vocab_size, path)
    return tokenizer


def check_token_ids(tokenizer: Tokenizer, vocab_size: int, path: Path | str) -> None:
    """Raises AltogetherError if a token's id is not a row of the decoder's embedding table."""
    vocab = tokenizer.get_vocab(with_added_tokens=True)
    token = max(vocab, key=vocab.__getitem__, default=None)
    if token is not None and vocab[token] >= vocab_size:
        raise AltogetherError(
            f"{path} has the token {token!r:.60} with id {vocab[token]}, and the decoder has "
            f"embeddings for the ids below {vocab_size}: give the tokenizer of this decoder."
        )


def tokenizer_failure(error: BaseException) -> AltogetherError:
    """What to raise when the library fails on a text. Reraises what has nothing to do with it."""
    if isinstance(error, KeyboardInterrupt | SystemExit | GeneratorExit):
        raise error
    return AltogetherError(
        f"the tokenizer failed on an alt-text or caption ({reason(error)}): use a bundle or "
        "checkpoint with the decoder's own tokenizer."
    )


def _check(data: Any) -> None:
    """Raises ValueError for a file that asks for too much; leaves the rest to the library."""
    _require(isinstance(data, Mapping), "it must be a JSON object")
    growth: dict[str, float] = dict.fromkeys(_SLOTS, 1.0)
    num_parts = 0
    for slot in _SLOTS:
        for part in _parts(data.get(slot)):
            num_parts += 1
            _require(num_parts <= _MAX_PARTS, "it has too many parts")
            growth[slot] *= _growth(part)
    most = growth["normalizer"] * growth["pre_tokenizer"]
    _require(most <= _MAX_TEXT_GROWTH, "it makes texts hundreds of times longer")
    _require(growth["decoder"] <= _MAX_TOKEN_GROWTH, "it makes tokens many times longer")
    _check_tokens(data)


def _parts(part: Any, depth: int = 0) -> Iterator[Mapping[str, Any]]:
    _require(depth <= _MAX_NESTING, "its parts are nested too deeply")
    if isinstance(part, Mapping):
        for key in _SEQUENCES:
            inner = part.get(key)
            for child in inner if isinstance(inner, list) else ():
                yield from _parts(child, depth + 1)
        yield part


def _growth(part: Mapping[str, Any]) -> float:
    """How many times longer a part can make a text; also checks its values."""
    kind = part.get("type")
    for key in ("start", "stop", "length"):
        value = part.get(key, 1)
        limit_low = 1 if key == "length" else 0
        whole = isinstance(value, int) and limit_low <= value < 1 << 16
        _require(whole or kind not in ("Strip", "FixedLength"), f"its {key} is out of range")
    _require(len(str(part.get("prepend") or "")) <= _MAX_TEXT_GROWTH, "it prepends a long text")
    pattern, matched = part.get("pattern"), 1
    if isinstance(pattern, Mapping):
        _check_pattern(str(pattern.get("Regex", "")))
        matched = len(str(pattern.get("String", "")))
    if kind == "Replace":
        content = len(str(part.get("content", "")))
        return max(1.0, content / matched) if matched else content + 1.0
    if kind == "Precompiled":
        return _charsmap_growth(part.get("precompiled_charsmap"))
    return 2.0 if kind == "ByteLevel" else 1.0


def _charsmap_growth(charsmap: Any) -> float:
    """SentencePiece's map: bytes of a trie, the trie, and what characters become, ended by NULs."""
    if not charsmap:
        raise ValueError("its precompiled_charsmap is empty")
    blob = base64.b64decode(str(charsmap), validate=True)
    trie_bytes = int.from_bytes(blob[:4], "little")
    _require(len(blob) > 4 and trie_bytes % 4 == 0, "its precompiled_charsmap is damaged")
    _require(0 < trie_bytes <= len(blob) - 4, "its precompiled_charsmap is damaged")
    return float(max(map(len, blob[4 + trie_bytes :].split(b"\0"))) or 1)


def _check_pattern(pattern: str) -> None:
    """Refuse patterns whose matching or compiling can take exponential time or memory.

    That is: a repeated group that itself contains a repetition, as in `(a+)+`, and nested counts.
    """
    _require(len(pattern) <= _MAX_PATTERN_CHARS, "it has a pattern that is too long")
    repeats = 1
    for low, _, high in _COUNTED.findall(pattern):
        repeats *= max(1, int((high or low or "1")[:9]))
    _require(repeats <= _MAX_REPEATS, "it has a pattern that repeats too often")
    open_groups: list[bool] = [False]  # whether each has an unbounded repetition inside
    just_closed = in_class = False
    position = 0
    while position < len(pattern):
        char = pattern[position]
        closed, just_closed = just_closed, False
        position += 2 if char == "\\" else 1
        if in_class:
            in_class = char != "]"
        elif char == "[":
            in_class = True
        elif char == "(":
            open_groups.append(False)
            _require(len(open_groups) <= _MAX_PARTS, "it has a pattern with too many groups")
        elif char == ")" and len(open_groups) > 1:
            just_closed = open_groups.pop()
            open_groups[-1] |= just_closed
        elif char in "*+" or (char == "{" and _COUNTED.match(pattern, position - 1)):
            _require(not closed, "it has a pattern with a repetition of repetitions")
            open_groups[-1] = True


def _check_tokens(data: Mapping[str, Any]) -> None:
    model = data.get("model")
    vocab = model.get("vocab") if isinstance(model, Mapping) else None
    tokens: list[Any] = []
    if isinstance(vocab, Mapping):
        tokens += vocab
    elif isinstance(vocab, list):
        tokens += (entry[0] for entry in vocab if isinstance(entry, list) and entry)
    added = data.get("added_tokens")
    for entry in added if isinstance(added, list) else ():
        tokens.append(entry.get("content") if isinstance(entry, Mapping) else None)
    longest = max((len(token) for token in tokens if isinstance(token, str)), default=0)
    _require(longest <= _MAX_TOKEN_CHARS, f"it has a token of {longest} characters")


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)
