"""Bundles from strangers: whatever is wrong is said in one sentence before anything is loaded."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import altogether_rt.artifacts.bundle as bundle_module
from altogether_rt.artifacts.bundle import Bundle, BundleWriter, find_bundle, hash_file
from altogether_rt.artifacts.engines import EngineProfile, EngineSpec
from altogether_rt.artifacts.manifest import (
    BundleManifest,
    CacheSpec,
    FileSpec,
    GraphSpec,
    TargetSpec,
    TensorSpec,
)
from altogether_rt.config import CaptionerConfig, DecoderConfig, EncoderConfig, MapperConfig
from altogether_rt.errors import BundleError

pytestmark = pytest.mark.lean

FILES = {
    "encoder.onnx": b"an encoder",
    "mapper.onnx": b"a mapper",
    "decoder.onnx": b"a decoder",
    "weights.bin": b"weights" * 100,
    "tokenizer.json": b"{}",
}


def manifest_of(
    files: Mapping[str, FileSpec], parity: dict[str, Any] | None = None
) -> BundleManifest:
    tensor = TensorSpec("x", "float32", ("N", "4"))
    return BundleManifest(
        config=CaptionerConfig(
            "test",
            EncoderConfig("none", 4),
            MapperConfig(prefix_length=2),
            DecoderConfig(
                vocab_size=10,
                layers=1,
                width=8,
                heads=8,
                ffn_width=8,
                max_positions=400,
                eos_id=2,
                pad_id=1,
            ),
        ),
        target=TargetSpec("cpu-int8", "onnxruntime", "cpu", "int8"),
        graphs={
            name: GraphSpec(
                f"{name}.onnx", files[f"{name}.onnx"].sha256, (tensor,), (tensor,), ("weights.bin",)
            )
            for name in ("encoder", "mapper", "decoder")
        },
        files=files,
        cache=CacheSpec(1, 8, 1, "float32", 2),
        parity=parity or {},
        provenance={"created": "today"},
    )


def write(out: Path, overwrite: bool = False, **manifest: Any) -> Bundle:
    with BundleWriter(out, overwrite=overwrite) as writer:
        for name, content in FILES.items():
            (writer.folder / name).write_bytes(content)
        return writer.commit(manifest_of(writer.describe_files(), **manifest))


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return write(tmp_path / "bundle").path


def edit(bundle: Path, change: Callable[[dict[str, Any]], None]) -> None:
    data = json.loads((bundle / "bundle.json").read_text())
    change(data)
    (bundle / "bundle.json").write_text(json.dumps(data))


def complaint(path: Path) -> str:
    with pytest.raises(BundleError) as caught:
        Bundle.load(path)
    message = str(caught.value)
    assert message.endswith(".")
    assert "\n" not in message
    return message


def test_what_is_written_is_what_is_read(bundle: Path) -> None:
    loaded = Bundle.load(bundle)
    assert loaded.manifest == manifest_of(loaded.manifest.files)
    assert loaded.config.name == "test"
    assert loaded.graph_path("mapper") == bundle / "mapper.onnx"
    assert loaded.tokenizer_path.read_bytes() == b"{}"
    assert sorted(path.name for path in bundle.iterdir()) == sorted([*FILES, "bundle.json"])
    assert json.loads((bundle / "bundle.json").read_text())["schema"] == 1


def test_the_id_changes_with_what_changes_captions(tmp_path: Path) -> None:
    first = write(tmp_path / "a")
    assert len(first.bundle_id) == 12
    measured_anew = write(tmp_path / "b", parity={"images": 3})
    assert measured_anew.bundle_id == first.bundle_id
    content = dict(FILES)
    try:
        FILES["weights.bin"] = b"other weights"
        assert write(tmp_path / "c").bundle_id != first.bundle_id
    finally:
        FILES.update(content)


PROFILES = (
    EngineProfile(
        "decode", {"token_ids": ((1,), (8,), (16,)), "pad_index": ((1, 1), (8, 1), (16, 1))}
    ),
    EngineProfile("prefill", {"token_ids": ((1,), (64,), (2688,))}),
)


def write_with_engine(out: Path) -> Bundle:
    with BundleWriter(out) as writer:
        for name, content in FILES.items():
            (writer.folder / name).write_bytes(content)
        (writer.folder / "decoder.sm89.plan").write_bytes(b"a plan")
        files = writer.describe_files()
        engine = EngineSpec(
            "decoder",
            "decoder.sm89.plan",
            files["decoder.sm89.plan"].sha256,
            89,
            "tensorrt_rtx",
            "1.7.1.116",
            PROFILES,
            ("weight streaming",),
        )
        return writer.commit(replace(manifest_of(files), engines=(engine,)))


def test_engines_are_written_and_read(tmp_path: Path, bundle: Path) -> None:
    written = write_with_engine(tmp_path / "b")
    loaded = Bundle.load(tmp_path / "b")
    assert loaded.manifest == written.manifest
    assert loaded.manifest.engines[0].profiles == PROFILES
    assert loaded.manifest.engines[0].profiles[1].shapes["token_ids"] == ((1,), (64,), (2688,))
    edit(bundle, lambda data: data.pop("engines"))  # as versions without engines wrote it
    assert Bundle.load(bundle).manifest.engines == ()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"file": "other.plan"}, "'other.plan' is used but not in files"),
        ({"file": "mapper.onnx"}, "engines and files give different hashes for mapper.onnx"),
        ({"graph": "engine"}, "engines.graph is 'engine'; it must be one of 'encoder'"),
        ({"builder": "gcc"}, "engines.builder is 'gcc'"),
        ({"sm": "89"}, "engines.sm is '89'; it must be of type int"),
        ({"builder_version": None}, "engines.builder_version"),
        ({"profiles": [{"name": "all", "shapes": 1}]}, "shapes must be a table"),
        *(
            ({"profiles": [{"name": "all", "shapes": {"x": value}}]}, "shapes of x in profile all")
            for value in (None, [[1], [2]], [[1], [2], 3], [[1], [2], [1]], [[1], [2], [3, 3]])
        ),
    ],
)
def test_engines_that_cannot_be(tmp_path: Path, change: dict[str, Any], says: str) -> None:
    path = write_with_engine(tmp_path / "b").path
    edit(path, lambda data: data["engines"][0].update(change))
    assert says in complaint(path)


def test_an_interrupted_export_leaves_nothing(tmp_path: Path) -> None:
    def interrupted() -> None:
        with BundleWriter(tmp_path / "b") as writer:
            (writer.folder / "encoder.onnx").write_bytes(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_overwritten_unasked(tmp_path: Path, bundle: Path) -> None:
    with pytest.raises(BundleError, match="exists already: choose another --out"):
        BundleWriter(bundle)
    write(bundle, overwrite=True)
    Bundle.load(bundle)
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]
    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "only-copy.jpg").write_bytes(b"x")
    with pytest.raises(BundleError, match="is not a bundle, so it is not replaced"):
        BundleWriter(photos, overwrite=True)
    assert (photos / "only-copy.jpg").exists()


def test_absent(tmp_path: Path) -> None:
    assert "there is no bundle at" in complaint(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    assert "is not a bundle (no bundle.json)" in complaint(tmp_path / "empty")
    (tmp_path / "empty" / "config.json").write_text("{}")
    assert "export this checkpoint first" in complaint(tmp_path / "empty")


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "null", '{"schema": "1"}', "\x00\xff", "[" * 100_000, '{"schema": true}'],
)
def test_no_manifest(bundle: Path, text: str) -> None:
    (bundle / "bundle.json").write_text(text, encoding="latin-1")
    assert str(bundle / "bundle.json") in complaint(bundle)


def test_a_manifest_of_a_gigabyte_is_not_read(bundle: Path) -> None:
    with open(bundle / "bundle.json", "r+b") as stream:
        stream.truncate(1 << 30)
    assert "too many for a manifest" in complaint(bundle)


def test_schemas_of_other_versions(bundle: Path) -> None:
    edit(bundle, lambda data: data.update(schema=2))
    assert "has schema 2 and this version reads 1: update altogether-rt" in complaint(bundle)
    edit(bundle, lambda data: data.update(schema=0))
    assert "export it again" in complaint(bundle)


@pytest.mark.parametrize(
    "name",
    [
        "../outside.bin",
        "/etc/passwd",
        "sub/weights.bin",
        "..",
        ".hidden",
        "",
        "-rf",
        "a\\b",
        "weights\n.bin",
        "nul\x00.bin",
        "ünïcode.bin",
    ],
)
def test_only_plain_names_beside_the_manifest(bundle: Path, name: str) -> None:
    (bundle.parent / "outside.bin").write_bytes(b"secret")
    edit(bundle, lambda data: data["files"].update({name: data["files"]["weights.bin"]}))
    assert "which is not a plain file name" in complaint(bundle)


def test_files_missing_altered_or_not_files(bundle: Path) -> None:
    weights = bundle / "weights.bin"
    content = bytearray(weights.read_bytes())
    content[7] ^= 1
    weights.write_bytes(content)
    assert "its hash differs" in complaint(bundle)
    assert Bundle.load(bundle, verify_hashes=False).path == bundle
    weights.write_bytes(content[:-1])
    with pytest.raises(BundleError, match="is not the file that was exported"):
        Bundle.load(bundle, verify_hashes=False)
    weights.unlink()
    assert "has no weights.bin" in complaint(bundle)
    weights.mkdir()
    assert "is not a regular file" in complaint(bundle)
    weights.rmdir()
    os.mkfifo(weights)
    assert "is not a regular file" in complaint(bundle)  # and does not wait for a writer


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda d: d.pop("config"), "missing key config"),
        (lambda d: d.pop("files"), "files must be a table"),
        (lambda d: d.update(graphs=[]), "graphs must be a table"),
        (lambda d: d["graphs"].pop("mapper"), "its graphs include no mapper"),
        (lambda d: d["graphs"]["mapper"].update(file="other.onnx"), "'other.onnx' is used but not"),
        (lambda d: d["graphs"]["mapper"].update(file="encoder.onnx"), "different hashes"),
        (lambda d: d["files"].pop("tokenizer.json"), "'tokenizer.json' is used but not in files"),
        (lambda d: d["files"]["weights.bin"].pop("sha256"), "missing key files.weights.bin.sha256"),
        (lambda d: d["files"].update({"weights.bin": None}), "files.weights.bin must be a table"),
        (lambda d: d["config"]["decoder"].update(width=7), "multiple of decoder.heads"),
        (lambda d: d["config"]["decoder"].update(widht=8), "unknown key config.decoder.widht"),
        (lambda d: d.update(extra=1), "unknown key extra"),
        (lambda d: d["cache"].update(layers="many"), "cache.layers is 'many'"),
    ],
)
def test_manifests_that_cannot_be(
    bundle: Path, change: Callable[[dict[str, Any]], Any], says: str
) -> None:
    edit(bundle, change)
    assert says in complaint(bundle)


def test_the_starter_is_a_name_and_the_rest_are_paths(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert find_bundle(str(bundle)) == bundle
    package = tmp_path / "package"
    monkeypatch.setattr("altogether_rt.artifacts.bundle.resources.files", lambda name: package)
    with pytest.raises(BundleError, match="the starter bundle is missing"):
        find_bundle("starter")
    package.mkdir()
    bundle.rename(package / "starter")
    assert find_bundle("starter") == package / "starter"


def test_hash_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"abc")
    known = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # FIPS 180-2
    assert hash_file(tmp_path / "f") == known


def _writer_of(content: bytes) -> Callable[[Path], None]:
    def write_file(path: Path) -> None:
        path.write_bytes(content)

    return write_file


def test_drafting_state_joins_a_bundle_and_changes_no_caption(bundle: Path) -> None:
    before = Bundle.load(bundle)
    assert before.drafting_state_path is None
    first = before.with_drafting_state(_writer_of(b"first"))
    assert Bundle.load(bundle) == first
    assert first.bundle_id == before.bundle_id
    assert first.manifest.encoder_id == before.manifest.encoder_id
    assert first.drafting_state_path is not None
    assert first.drafting_state_path.read_bytes() == b"first"
    second = first.with_drafting_state(_writer_of(b"second"))
    assert second.bundle_id == before.bundle_id
    names = sorted(path.name for path in bundle.iterdir())
    assert second.drafting_state_path is not None
    former = first.drafting_state_path
    assert former is not None, "what is replaced stays, and is no part of the bundle"
    assert names == sorted([*FILES, "bundle.json", former.name, second.drafting_state_path.name])
    assert former.name not in second.manifest.files
    again = second.with_drafting_state(_writer_of(b"second"))
    assert Bundle.load(bundle) == again == second


@pytest.mark.parametrize("dies_in", ["write", "manifest"])
def test_a_bundle_stays_whole_if_drafting_state_cannot_be_written(
    bundle: Path, dies_in: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = Bundle.load(bundle).with_drafting_state(_writer_of(b"first"))

    def die(*_: Any) -> None:
        raise OSError("no space left")

    if dies_in == "manifest":
        monkeypatch.setattr(bundle_module, "manifest_json", die)
    with pytest.raises(OSError, match="no space"):
        before.with_drafting_state(die if dies_in == "write" else _writer_of(b"second"))
    assert Bundle.load(bundle) == before
    assert before.drafting_state_path is not None
    names = sorted(path.name for path in bundle.iterdir())
    assert names == sorted([*FILES, "bundle.json", before.drafting_state_path.name])


def test_altered_drafting_state_is_refused(bundle: Path) -> None:
    changed = Bundle.load(bundle).with_drafting_state(_writer_of(b"first"))
    assert changed.drafting_state_path is not None
    changed.drafting_state_path.write_bytes(b"other")
    assert "its hash differs" in complaint(bundle)


@pytest.mark.parametrize("name", ["absent.npz", "weights.bin"])
def test_drafting_state_of_an_impossible_name(bundle: Path, name: str) -> None:
    edit(bundle, lambda data: data.update(guesses=name))
    complaint(bundle)
