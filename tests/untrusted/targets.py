"""What strangers can send: a whole example of each kind, a change to it, and its ordinary use."""

from __future__ import annotations

import argparse
import atexit
import hashlib
import io
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pyarrow
import torch
from pyarrow import parquet
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, normalizers

from altogether_rt import Captioner
from altogether_rt.artifacts.bundle import Bundle
from altogether_rt.artifacts.checkpoint import save_checkpoint
from altogether_rt.captions import EmbeddedImage, caption_params
from altogether_rt.config import CaptionerConfig
from altogether_rt.data.alts import read_alts
from altogether_rt.data.embeddings import EncoderStamp, SavedEmbeddings, read_stamp
from altogether_rt.data.sinks.embeddings import EmbeddingSink
from altogether_rt.errors import ImageError
from altogether_rt.importing.captioner import import_captioner, read_captioner
from altogether_rt.importing.encoders import embedded_encoder
from altogether_rt.importing.tokenizer import tokenizer_json
from altogether_rt.preprocess.prompts import PromptTokenizer
from altogether_rt.speculation.store import load_drafting_state
from tests.importing import published
from tests.untrusted.mutations import (
    mutate_bytes,
    mutate_json,
    mutate_npy,
    mutate_npz,
    mutate_safetensors,
)

__all__ = ["SHARES", "Target", "make_targets"]

#: How many of 100 inputs are of each kind.
SHARES = {
    "tokenizer": 22,
    "manifest": 10,
    "guesses": 15,
    "npy": 10,
    "parquet": 10,
    "alts": 8,
    "checkpoint": 10,
    "weights": 12,
    "graph": 3,
}

_TEXTS = ("a red boat Graio at night", "", "é☃\u202e\x00 </s><pad>", "a" * 5000, "0 " * 3000)
_STAMP = EncoderStamp("0123456789ab", 8)


@dataclass(frozen=True)
class Target:
    """One kind of input: `write` makes a changed one in a folder, `use` uses it."""

    write: Callable[[Path, Random], None]
    use: Callable[[Path], object]


def make_targets(work: Path) -> dict[str, Target]:
    """A target for each kind in SHARES, their examples in the folder `work`."""
    config = Bundle.load("starter").config
    # A copy: links to the starter itself change its files' status while others open it.
    scratch = tempfile.mkdtemp(prefix="starter-")
    atexit.register(shutil.rmtree, scratch, ignore_errors=True)
    starter = Path(shutil.copytree(Bundle.load("starter").path, Path(scratch, "starter")))
    state = next(starter.glob("guesses.*.npz")).read_bytes()
    tokenizers = _tokenizers(starter)
    checkpoint = _checkpoint(work)

    def write_guesses(folder: Path, random: Random) -> None:
        (folder / "guesses.npz").write_bytes(mutate_npz(state, random))

    def use_guesses(folder: Path) -> object:
        vocab_size, embed_dim = config.decoder.vocab_size, config.encoder.embed_dim
        return load_drafting_state(folder / "guesses.npz", vocab_size, embed_dim)

    def write_tokenizer(folder: Path, random: Random) -> None:
        (folder / "tokenizer.json").write_bytes(_mutate_tokenizer(tokenizers, random))

    return {
        "tokenizer": Target(write_tokenizer, lambda folder: _use_tokenizer(folder, config)),
        "manifest": Target(_bundle_writer(starter, "bundle.json"), _caption),
        "graph": Target(_bundle_writer(starter, "decoder.onnx"), _caption),
        "guesses": Target(write_guesses, use_guesses),
        "npy": _embeddings(work / "array.npy"),
        "parquet": _embeddings(work / "table.parquet"),
        "alts": Target(_write_alts, lambda folder: read_alts(folder / "alts.parquet")),
        "checkpoint": Target(_checkpoint_writer(checkpoint), _caption),
        "weights": _weights(work),
    }


# Tokenizers.


def _tokenizers(starter: Path) -> list[dict[str, Any]]:
    plain = json.loads((starter / "tokenizer.json").read_text("utf-8"))
    small = dict(plain, added_tokens=plain["added_tokens"][:4])
    word = Tokenizer(models.WordLevel({"a": 0, "b": 1, "[UNK]": 2}, unk_token="[UNK]"))
    word.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace("a", "b")])
    pieces = Tokenizer(models.Unigram([("<unk>", 0.0), ("a", -1.0), ("b", -2.0)], 0, True))
    wordpiece = Tokenizer(models.WordPiece({"a": 0, "##a": 1, "[UNK]": 2}))
    return [small, *(json.loads(t.to_str()) for t in (word, pieces, wordpiece))]


def _part(random: Random) -> Any:
    """A part of a tokenizer that the library understands, hostile or not."""
    pattern = random.choice(
        (
            {"String": ""},
            {"String": "a"},
            {"Regex": "(a+)+$"},
            {"Regex": "(?=(a*)*b)"},
            {"Regex": ""},
            {"Regex": "("},
            {"Regex": "(" * 500},
            {"Regex": "a{1000}{1000}{1000}"},
            {"Regex": r"(\w|\s)*?$"},
        )
    )
    long = random.choice((2, 100, 100_000)) * "a"
    replace = {"type": "Replace", "pattern": pattern, "content": long}
    behavior = random.choice(("Removed", "Isolated", "MergedWithNext", "Contiguous"))
    split = {"type": "Split", "pattern": pattern, "behavior": behavior, "invert": False}
    simple = random.choice(
        (
            "NFC",
            "NFKD",
            "Lowercase",
            "StripAccents",
            "Nmt",
            "Fuse",
            "ByteFallback",
            "Whitespace",
            "WhitespaceSplit",
            "BertPreTokenizer",
            "UnicodeScripts",
            "ByteLevel",
            "BertNormalizer",
        )
    )
    flat = random.choice(
        (
            replace,
            {"type": "Prepend", "prepend": long},
            split,
            {"type": simple},
            {
                "type": "ByteLevel",
                "add_prefix_space": True,
                "trim_offsets": True,
                "use_regex": True,
            },
            {
                "type": "Precompiled",
                "precompiled_charsmap": random.choice(("", "AAAA", "/////w==")),
            },
            {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True},
            {"type": "Strip", "content": "a", "start": 2**60, "stop": 2**60},
            {"type": "FixedLength", "length": random.choice((0, 1, 2**63))},
            {"type": "WordPiece", "prefix": "##", "cleanup": True},
            {"type": "CTC", "pad_token": "a", "word_delimiter_token": "", "cleanup": True},
            {"type": "BPEDecoder", "suffix": "</w>"},
            {"type": "BPE", "vocab": {"a": 2**32 - 1, "b": 0, "ab": 1}, "merges": ["a b"]},
            {"type": "Unigram", "unk_id": 9, "vocab": [["a", float("nan")]], "byte_fallback": True},
            {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "none"},
        )
    )
    if random.random() < 0.4:
        key = random.choice(("normalizers", "pretokenizers", "decoders"))
        return {"type": "Sequence", key: [flat] * random.choice((1, 3, 30))}
    return flat


def _mutate_tokenizer(examples: list[dict[str, Any]], random: Random) -> bytes:
    example = dict(random.choice(examples))
    kind = random.randrange(4)
    if kind == 0:
        return mutate_bytes(json.dumps(example).encode(), random)
    if kind == 1:
        for _ in range(random.choice((1, 2))):
            example[random.choice(("normalizer", "pre_tokenizer", "decoder"))] = _part(random)
        return json.dumps(example).encode()
    return mutate_json(example, random, _part)


def _use_tokenizer(folder: Path, config: CaptionerConfig) -> object:
    tokenizer = PromptTokenizer.of_captioner(folder / "tokenizer.json", config)
    for text in _TEXTS:
        tokenizer.prompt([text])
    return [tokenizer.decode([i, 0, 1, 2] * 20) for i in range(0, config.decoder.vocab_size, 37)]


# Bundles.


def _bundle_writer(starter: Path, changed: str) -> Callable[[Path, Random], None]:
    """Writes the starter with one file changed, and the manifest brought into line with it."""
    original = (starter / changed).read_bytes()

    def write(folder: Path, random: Random) -> None:
        for path in starter.iterdir():
            if path.name not in (changed, "bundle.json"):
                os.link(path, folder / path.name)
        manifest = json.loads((starter / "bundle.json").read_text("utf-8"))
        if changed == "bundle.json":
            as_bytes = random.random() < 0.2
            data = mutate_bytes(original, random) if as_bytes else mutate_json(manifest, random)
            (folder / changed).write_bytes(data)
            return
        data = mutate_bytes(original, random)
        (folder / changed).write_bytes(data)
        digest = hashlib.sha256(data).hexdigest()
        manifest["files"][changed] = {"bytes": len(data), "sha256": digest}
        manifest["graphs"][changed.removesuffix(".onnx")]["sha256"] = digest
        (folder / "bundle.json").write_text(json.dumps(manifest), "utf-8")

    return write


def _caption(folder: Path) -> object:
    with Captioner.load(folder, threads=1, num_slots=2) as captioner:
        size = captioner.config.encoder.image_size
        image = np.full((min(size, 512), min(size, 512), 3), 128, np.uint8)
        params = caption_params(captioner.config, max_new_tokens=3)
        return captioner.caption([image, image], alts=[["a boat"], []], params=params)


# Embeddings and alt-texts.


def _embeddings(example: Path) -> Target:
    rng = np.random.default_rng(0)
    with EmbeddingSink(example, _STAMP) as sink:
        for index in range(6):
            image = EmbeddedImage(rng.bytes(16), rng.standard_normal(8).astype(np.float32))
            sink.write(f"{index}.png", image)
        sink.finish()
    data = example.read_bytes()
    names = example.with_suffix(".names.jsonl")
    lines = names.read_bytes() if names.exists() else b""

    def write(folder: Path, random: Random) -> None:
        changed, changed_lines = data, lines
        if lines and random.random() < 0.4:
            rows = lines.splitlines()
            at = random.randrange(len(rows))
            rows[at] = mutate_json(json.loads(rows[at]), random)
            changed_lines = b"\n".join(rows)
        elif lines:
            changed = mutate_npy(data, random)
        elif random.random() < 0.4:
            changed = _odd_parquet(random, ("file_name", "content", "embedding"))
        else:
            changed = mutate_bytes(data, random)
        (folder / example.name).write_bytes(changed)
        if lines:
            (folder / names.name).write_bytes(changed_lines)

    def use(folder: Path) -> None:
        path = folder / example.name
        saved = SavedEmbeddings(path, read_stamp(path))
        for name in list(saved.names()):
            try:
                saved.get(name)
            except ImageError as error:  # one bad row
                if not str(error).endswith("."):
                    raise ValueError("not a sentence") from error

    return Target(write, use)


def _odd_parquet(random: Random, names: tuple[str, ...]) -> bytes:
    """A valid file that is larger, deeper or of other types than what is expected."""
    num_rows = random.choice((0, 1, 5, 1_000_000))
    columns: dict[str, Any] = {}
    floats = pyarrow.list_(pyarrow.float32())
    for name in names:
        kind = random.randrange(7)
        if kind == 0:
            texts = ["a" * random.choice((0, 10, 100_000))] * 2000
            columns[name] = pyarrow.array(texts * (1 if num_rows < 10**6 else 5))
        elif kind == 1:
            columns[name] = pyarrow.array([[[1.5, None]] * 8] * min(num_rows, 1000))
        elif kind == 2:
            columns[name] = pyarrow.nulls(num_rows)
        elif kind == 3:
            columns[name] = pyarrow.array([{"path": "a", "bytes": b""}] * min(num_rows, 1000))
        elif kind == 4:
            columns[name] = pyarrow.array([None, "a.png", "x"])
        elif kind == 5:
            columns[name] = pyarrow.array([[1.0] * 8, None, [float("nan")]], floats)
        else:
            columns[name] = pyarrow.array(np.zeros(num_rows, np.int8))
    rows = min(map(len, columns.values()))
    table = pyarrow.table({name: column[:rows] for name, column in columns.items()})
    header = {"format": "altogether-rt embeddings 1", "encoder": "0123456789ab", "embed_dim": 8}
    metadata = json.dumps({**header, "decoding": "exact"})
    for index, name in enumerate(table.schema.names):  # often with the types that are expected
        if table[name].type == pyarrow.null():
            wanted = floats if name == "embedding" else pyarrow.string()
            table = table.set_column(index, name, table[name].cast(wanted))
    table = table.replace_schema_metadata({"altogether-rt": metadata})
    out = io.BytesIO()
    parquet.write_table(table, out, compression="zstd")
    return out.getvalue()


def _write_alts(folder: Path, random: Random) -> None:
    table = pyarrow.table({"file_name": [f"{i}.png" for i in range(50)], "alt": ["a boat"] * 50})
    out = io.BytesIO()
    parquet.write_table(table, out)
    if random.random() < 0.4:
        data = _odd_parquet(random, ("file_name", "alt"))
    else:
        data = mutate_bytes(out.getvalue(), random)
    (folder / "alts.parquet").write_bytes(data)


# Checkpoints and weights.


def _checkpoint(work: Path) -> Path:
    folder = work / "checkpoint"
    model = published.altogether()
    torch.save(model.state_dict(), work / "alt.pt")
    (work / "enc.json").write_text(json.dumps(published.ENCODER))
    text = tokenizer_json(published.write_tokenizer(work / "tok", "opt"))
    config, state = import_captioner(
        read_captioner(work / "alt.pt"),
        Tokenizer.from_str(text),
        name="tiny",
        mapper_heads=published.MAPPER_HEADS,
        decoder_heads=published.HEADS,
        encoder_name=str(work / "enc.json"),
    )
    state |= embedded_encoder(config.encoder, None)
    save_checkpoint(folder, config, state, Tokenizer.from_str(text), {"encoder_file": "x"})
    return folder


def _checkpoint_writer(example: Path) -> Callable[[Path, Random], None]:
    files = {path.name: path.read_bytes() for path in example.iterdir()}

    def write(folder: Path, random: Random) -> None:
        changed = random.choice(("config.json", "config.json", *sorted(files)))
        for name, data in files.items():
            if name != changed:
                (folder / name).write_bytes(data)
        data = files[changed]
        if changed.endswith(".safetensors"):
            data = mutate_safetensors(data, random)
        elif random.random() < 0.2:
            data = mutate_bytes(data, random)
        else:
            data = mutate_json(json.loads(data), random)
        (folder / changed).write_bytes(data)

    return write


def _weights(work: Path) -> Target:
    state = published.altogether().state_dict()
    examples: dict[str, bytes] = {}
    for name, value, options in (
        ("state.pt", state, {}),
        ("nested.pt", {"model": state, "args": argparse.Namespace(lr=1)}, {}),
        ("old.pt", state, {"_use_new_zipfile_serialization": False}),
    ):
        out = io.BytesIO()
        torch.save(value, out, **options)
        examples[name] = out.getvalue()
    save_file({k: v.clone().contiguous() for k, v in state.items()}, work / "w.safetensors")
    examples["w.safetensors"] = (work / "w.safetensors").read_bytes()
    tokenizer = Tokenizer.from_str(tokenizer_json(work / "tok"))

    def write(folder: Path, random: Random) -> None:
        name = random.choice(sorted(examples))
        safe = name.endswith(".safetensors")
        data = (mutate_safetensors if safe else mutate_bytes)(examples[name], random)
        (folder / ("w.safetensors" if safe else "w.pt")).write_bytes(data)

    def use(folder: Path) -> object:
        (path,) = folder.iterdir()
        return import_captioner(
            read_captioner(path),
            tokenizer,
            name="tiny",
            mapper_heads=published.MAPPER_HEADS,
            decoder_heads=published.HEADS,
            encoder_name=str(work / "enc.json"),
        )

    return Target(write, use)
