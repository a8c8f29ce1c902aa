"""Identities that earlier outputs, bundles and caches depend on, pinned by value.

A change of any of these literals means that files written before no longer match: bundles get
another id, a resumed run another seed, a cache is filled again. Where that is intended, it is a
change of a file format, to be named in the changelog.
"""

from __future__ import annotations

import hashlib
import json
import platform
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import altogether_rt.runtime.cpu.prepared as prepared
from altogether_rt.artifacts.bundle import Bundle, is_checkpoint
from altogether_rt.captions import CaptionRequest, content_hash
from altogether_rt.errors import BundleError
from altogether_rt.generation.sampling import row_seed, row_uniforms
from altogether_rt.preprocess.prompts import PromptTokenizer
from altogether_rt.runtime.tensorrt.engine_files import engine_key
from altogether_rt.speculation.store import new_planner

pytestmark = pytest.mark.lean

#: 4 × 4 pixels of the numbers 0 to 47.
PIXELS = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)


@pytest.fixture(scope="module")
def starter() -> Bundle:
    return Bundle.load("starter")


# Bundles


def test_ids_of_the_starter(starter: Bundle) -> None:
    assert starter.bundle_id == "f7b1f0ca6675"
    assert starter.manifest.encoder_id == "d559937e6153"


def test_ids_are_of_their_documented_content(starter: Bundle) -> None:
    """The same hashes, computed from `bundle.json` without the package."""
    data = json.loads((starter.path / "bundle.json").read_bytes())
    target, files = data["target"], data["files"]
    files = {n: spec["sha256"] for n, spec in files.items() if n != data["guesses"]}
    encoder = data["graphs"]["encoder"]
    assert _short_hash(
        {
            "config": data["config"],
            "target": [target["name"], target["runtime"], target["device"]],
            "cache": data["cache"],
            "files": files,
        }
    ) == (starter.bundle_id)
    assert (
        _short_hash(
            {
                "encoder": data["config"]["encoder"],
                "target": [target["runtime"], target["device"]],
                "files": [files[name] for name in (encoder["file"], *encoder["weights"])],
            }
        )
        == starter.manifest.encoder_id
    )


def _short_hash(content: Any) -> str:
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def test_names_of_files_with_a_drafting_state(starter: Bundle, tmp_path: Path) -> None:
    """The file that `altogether-rt learn` adds is named after the first 8 digits of its hash.

    That of the starter was named by an older version.
    """
    assert starter.manifest.drafting_state == "guesses.eec1ca3b.npz"
    assert starter.manifest.files["guesses.eec1ca3b.npz"].sha256.startswith("eec1ca3b")
    shutil.copytree(starter.path, tmp_path / "bundle")
    copy = Bundle.load(tmp_path / "bundle")

    def write(path: Path) -> None:
        path.write_bytes(b"abc")

    # SHA-256 of "abc" begins with ba7816bf (FIPS 180-2).
    assert copy.with_drafting_state(write).manifest.drafting_state == "drafting.ba7816bf.npz"
    assert copy.bundle_id == starter.bundle_id


def test_the_drafting_state_of_earlier_bundles_is_read(starter: Bundle) -> None:
    path = starter.drafting_state_path
    assert path is not None
    with np.load(path) as file:
        assert int(file["version"]) == 1
        assert {"phrases.ngrams", "pictures.tokens", "acceptance.rates"} <= set(file.files)
    new_planner(path, starter.config)


def test_whatever_has_a_manifest_is_not_a_checkpoint(starter: Bundle, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    assert is_checkpoint(tmp_path)
    (tmp_path / "bundle.json").write_text("{}")
    assert not is_checkpoint(tmp_path)


def test_files_that_nobody_reads_are_not_hashed(starter: Bundle, tmp_path: Path) -> None:
    shutil.copytree(starter.path, tmp_path / "bundle")
    weights = tmp_path / "bundle" / "weights.bin"
    content = bytearray(weights.read_bytes())
    content[100] ^= 1
    weights.write_bytes(content)
    copy = Bundle.load(tmp_path / "bundle", verify_hashes=False)
    copy.verify_hashes(unread=["weights.bin"])
    with pytest.raises(BundleError, match="its hash differs"):
        copy.verify_hashes(unread=["tokenizer.json"])


# Rows


def test_content_hash_of_pixels() -> None:
    assert content_hash(PIXELS).hex() == "20bf1909a7cd034ce5059a16f6ad57e1"
    assert content_hash(PIXELS.reshape(2, 8, 3)).hex() != content_hash(PIXELS).hex()
    assert CaptionRequest(PIXELS).content_hash() == content_hash(PIXELS)


def test_seeds_of_rows() -> None:
    content = content_hash(PIXELS)
    assert row_seed(content, ("our boat Graio",), 0) == 2879618701334168927
    assert row_seed(content, ("a", "b"), 7) == 8558696795185646280


def test_random_numbers_of_a_row() -> None:
    numbers = row_uniforms(5, 4).tolist()
    assert numbers == [
        *(0.7337459554446363, 0.5905206445727093, 0.20780894066207112, 0.4433630921543533)
    ]
    assert row_uniforms(5, 2).tolist() == numbers[:2]


def test_tokens_of_the_starter(starter: Bundle) -> None:
    config = starter.config
    tokenizer = PromptTokenizer.from_file(
        starter.tokenizer_path, config.prompt, config.decoder.pad_id
    )
    sentence = "A picture of Graio, a large green boat, to the left of a small lamp."
    ids = [273, 277, 266, 534, 924, 15, 261, 305, 367, 460, 15, 313, 279, 348, 266, 261, 304, 443]
    assert tokenizer.encode(sentence) == [*ids, 17]
    prompt = tokenizer.prompt(["our green boat Graio at night", "a bell"])
    assert prompt.ids == (483, 367, 460, 534, 924, 284, 388, 261, 449)


# Caches


@pytest.mark.parametrize(
    ("arguments", "key"),
    [
        (("encoder", 89, "tensorrt_rtx", "1.2.3"), "encoder-sm89-9760bc8a794acb1820ff3033"),
        (("mapper", 89, "tensorrt_rtx", "1.2.3"), "mapper-sm89-491d8e870faf9afcad6b1bec"),
        (("decoder", 89, "tensorrt_rtx", "1.2.3"), "decoder-sm89-ed63c81df80c39e5c7c81128"),
        (
            ("decoder", 120, "tensorrt", "10.9", "NVIDIA X"),
            "decoder-sm120-e1c9080c40308d3937e7c3da",
        ),
    ],
)
def test_keys_of_compiled_engines(starter: Bundle, arguments: Any, key: str) -> None:
    assert engine_key(starter, *arguments) == key


def test_key_of_a_prepared_bundle(
    starter: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Onnxruntime:
        __version__ = "1.32.0"

    monkeypatch.setattr(prepared, "import_onnxruntime", Onnxruntime)
    monkeypatch.setattr(prepared, "products_saturate", lambda: False)
    monkeypatch.setattr(platform, "system", lambda: "Linux")
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(platform, "processor", lambda: "")
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("processor : 0\nmodel name : A CPU\nflags : b a\n\n")
    parts = [2, "1.32.0", "Linux", "x86_64", "", False, ["A", "CPU"], ["a", "b"], [], []]
    digest = hashlib.sha256(json.dumps(parts).encode()).hexdigest()
    assert prepared.machine_key(cpuinfo) == digest[:12] == "4e8bb2f97868"
    monkeypatch.setattr(prepared, "machine_key", lambda: digest[:12])
    assert prepared._folder(starter).name == f"f7b1f0ca6675-{digest[:12]}"
