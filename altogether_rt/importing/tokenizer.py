"""Converts tokenizers of published decoders to a `tokenizer.json`, which captioners contain.

GPT-2 and OPT are published with `vocab.json` and `merges.txt` (byte-level BPE, Radford et al.
2019), most others with a `tokenizer.json`. The ids are those of transformers' classes, without the
tokens that these add around a text: a prompt has no beginning-of-sequence token.
"""

from __future__ import annotations

import json
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from altogether_rt.artifacts.tokenizer import read_tokenizer
from altogether_rt.errors import AltogetherError, reason

__all__ = ["placeholder_tokenizer_json", "tokenizer_json"]

#: The special tokens that each family's published tokenizer recognises in a text; the first family
#: whose tokens are all in the vocabulary is used. OPT's `<s>` and `<unk>` are in its vocabulary but
#: not declared as special, so `<s>` in an alt-text is three characters.
_SPECIAL_TOKENS = (("<pad>", "</s>"), ("<|endoftext|>",))

_NUM_BYTES = 256


def tokenizer_json(source: Path) -> str:
    """The content of a `tokenizer.json` for a published tokenizer.

    source: a folder with `tokenizer.json` or with `vocab.json` and `merges.txt`, or a
    `tokenizer.json` itself. Raises AltogetherError if there is none or it is damaged.
    """
    if source.is_dir() and not (source / "tokenizer.json").is_file():
        names = ("vocab.json", "merges.txt")
        if not all((source / name).is_file() for name in names):
            raise AltogetherError(
                f"{source} has no tokenizer: it must have tokenizer.json, or vocab.json and "
                "merges.txt."
            )
        return _byte_level_bpe(source / names[0], source / names[1])
    path = source / "tokenizer.json" if source.is_dir() else source
    if not path.is_file():
        raise AltogetherError(f"{path} does not exist: give a tokenizer's folder.")
    return _rewritten(path)


def _rewritten(path: Path) -> str:
    tokenizer = read_tokenizer(path)
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer.to_str()


def _byte_level_bpe(vocab_path: Path, merges_path: Path) -> str:
    vocab = _read_vocab(vocab_path)
    try:
        model = models.BPE(vocab=vocab, merges=_read_merges(merges_path), fuse_unk=False)
    except Exception as error:  # a merge of tokens that are not in the vocabulary
        raise AltogetherError(
            f"{vocab_path} and {merges_path.name} do not belong together: {reason(error)}."
        ) from error
    special = next((s for s in _SPECIAL_TOKENS if all(token in vocab for token in s)), ())
    return _byte_level(model, special)


def _byte_level(model: models.BPE, special_tokens: tuple[str, ...]) -> str:
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(
        [AddedToken(token, special=True, normalized=False) for token in special_tokens]
    )
    return tokenizer.to_str()


def _read_vocab(path: Path) -> dict[str, int]:
    try:
        vocab = json.loads(path.read_text("utf-8"))
    except (ValueError, RecursionError) as error:
        raise AltogetherError(f"{path} is not a vocabulary: {reason(error)}.") from error
    ids = list(vocab.values()) if isinstance(vocab, dict) else []
    # A 32-bit id is what the library holds; bool is an int to Python.
    if not ids or not all(type(i) is int and 0 <= i < 1 << 32 for i in ids):
        raise AltogetherError(f"{path} is not a vocabulary: it must map tokens to ids.")
    if len(set(ids)) != len(ids):
        raise AltogetherError(f"{path} is not a vocabulary: two tokens have the same id.")
    return dict(vocab)


def _read_merges(path: Path) -> list[tuple[str, str]]:
    """The pairs in order of priority. Only the first line can be a comment: `# #` is a merge."""
    try:
        lines = path.read_text("utf-8").split("\n")
    except ValueError as error:
        raise AltogetherError(f"{path} is not a list of merges: {reason(error)}.") from error
    if lines[0].startswith("#version"):
        del lines[0]
    merges = []
    for line in lines:
        pair = line.removesuffix("\r").split(" ")
        if pair == [""]:
            continue
        if len(pair) != 2:
            raise AltogetherError(f"{path} is not a list of merges: {line[:40]!r} is not a pair.")
        merges.append((pair[0], pair[1]))
    return merges


def placeholder_tokenizer_json(vocab_size: int, eos_id: int, pad_id: int) -> str:
    """A tokenizer for random weights: it encodes any text as its bytes and decodes any id.

    `</s>` and, if its id differs, `<pad>` have the decoder's ids, the 256 bytes have the lowest
    free ids, and every id above them decodes to ` <id>`. Raises AltogetherError if the vocabulary
    is too small for the bytes.
    """
    by_id = {pad_id: "<pad>", eos_id: "</s>"}
    free = [i for i in range(vocab_size) if i not in by_id]
    if len(free) < _NUM_BYTES:
        raise AltogetherError(
            f"a vocabulary of {vocab_size} is too small for all bytes: give a tokenizer "
            "(--tokenizer)."
        )
    special = tuple(by_id.values())
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    by_id.update(zip(free, alphabet, strict=False))
    # "Ġ" is how the byte-level alphabet writes a space.
    by_id.update((i, f"Ġ<{i}>") for i in free[_NUM_BYTES:])
    vocab = {token: i for i, token in sorted(by_id.items())}
    return _byte_level(models.BPE(vocab=vocab, merges=[]), special)
