"""An engine runs on exactly the GPU, package and version it was compiled for, or not at all."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from altogether_rt.artifacts.bundle import Bundle, hash_file
from altogether_rt.artifacts.manifest import FileSpec
from altogether_rt.errors import BundleError
from altogether_rt.runtime.tensorrt.build import ensure_engines
from altogether_rt.runtime.tensorrt.compiler import Builder, EngineError
from altogether_rt.runtime.tensorrt.engine_files import (
    cache_folder,
    engine_key,
    find_engine,
    find_engines,
)
from altogether_rt.runtime.tensorrt.profiles import MAX_ROWS, profiles_for
from tests.artifacts.test_bundle import write, write_with_engine

pytestmark = pytest.mark.lean

BUILDER, VERSION = "tensorrt_rtx", "1.7.1.116"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "altogether-rt" / "engines"


class FakeBuilder(Builder):
    """Compiles anything into a few bytes, and counts."""

    def __init__(self, version: str = VERSION, fails: bool = False) -> None:
        super().__init__("tensorrt_rtx", version, _Module)
        self.__dict__.update(compiled=[], fails=fails)

    def compile(self, graph: Path, profiles: Any, sms: Any, out: Path, **options: Any) -> None:
        if self.__dict__["fails"]:
            raise EngineError("no.")
        self.__dict__["compiled"].append(graph.name)
        out.write_bytes(f"{graph.name} {sms}".encode())


class _Module:
    class ComputeCapability:
        SM89 = 1
        SM120 = 2


def test_only_the_gpu_package_and_version_it_was_compiled_for(tmp_path: Path) -> None:
    bundle = write_with_engine(tmp_path / "b")
    found = find_engine(bundle, "decoder", 89, BUILDER, VERSION)
    assert found is not None
    assert found.path == tmp_path / "b" / "decoder.sm89.plan"
    assert found.path.read_bytes() == b"a plan"
    assert set(find_engines(bundle, 89, BUILDER, VERSION)) == {"decoder"}
    for other in (
        ("encoder", 89, BUILDER, VERSION),
        ("decoder", 86, BUILDER, VERSION),
        ("decoder", 120, BUILDER, VERSION),
        ("decoder", 89, "tensorrt", VERSION),
        ("decoder", 89, BUILDER, "1.7.1.117"),
        ("decoder", 89, BUILDER, "1.7.1"),
    ):
        assert find_engine(bundle, *other) is None


def test_a_damaged_plan_is_refused_with_its_bundle(tmp_path: Path) -> None:
    path = write_with_engine(tmp_path / "b").path / "decoder.sm89.plan"
    path.write_bytes(b"b plan")
    with pytest.raises(BundleError, match=r"decoder.sm89.plan is not the file that was exported"):
        Bundle.load(tmp_path / "b")


def test_the_key_changes_with_all_that_makes_another_engine(tmp_path: Path) -> None:
    bundle = write(tmp_path / "b")
    place = ("decoder", 89, BUILDER, VERSION)
    manifest = bundle.manifest
    files = {**manifest.files, "weights.bin": FileSpec(700, "1" * 64)}
    graphs = {**manifest.graphs, "decoder": replace(manifest.graphs["decoder"], sha256="2" * 64)}
    other_graph = {**manifest.files, "decoder.onnx": FileSpec(9, "2" * 64)}
    prompt = replace(manifest.config.prompt, max_alt_tokens=64)
    others = [
        engine_key(bundle, *place),
        engine_key(bundle, "mapper", 89, BUILDER, VERSION),
        engine_key(bundle, "decoder", 86, BUILDER, VERSION),
        engine_key(bundle, "decoder", 89, "tensorrt", VERSION),
        engine_key(bundle, "decoder", 89, BUILDER, "1.8"),
        engine_key(bundle, *place, gpu="NVIDIA L4"),
        engine_key(replace(bundle, manifest=replace(manifest, files=files)), *place),
        engine_key(
            replace(bundle, manifest=replace(manifest, files=other_graph, graphs=graphs)), *place
        ),
        engine_key(
            replace(
                bundle,
                manifest=replace(manifest, config=replace(manifest.config, prompt=prompt)),
            ),
            *place,
        ),
    ]
    assert len(set(others)) == len(others)
    assert engine_key(bundle, *place) == others[0]
    assert others[0].startswith("decoder-sm89-")


def test_what_the_bundle_lacks_is_compiled_once(tmp_path: Path, cache: Path) -> None:
    bundle, builder = write_with_engine(tmp_path / "b"), FakeBuilder()
    told: list[str] = []
    first = ensure_engines(bundle, 89, builder, report=told.append)
    assert builder.__dict__["compiled"] == ["encoder.onnx", "mapper.onnx"]
    assert told == ["compiling the encoder for SM 89", "compiling the mapper for SM 89"]
    assert first["decoder"].path.parent == bundle.path
    assert first["encoder"].path.parent.parent == cache == cache_folder()
    assert ensure_engines(bundle, 89, builder) == first
    assert len(builder.__dict__["compiled"]) == 2
    # Another GPU, another version: compiled anew, and the first ones stay.
    ensure_engines(bundle, 120, builder)
    ensure_engines(bundle, 89, FakeBuilder("1.8"))
    assert ensure_engines(bundle, 89, builder) == first
    assert len(list(cache.iterdir())) == 2 + 3 + 3


def test_a_damaged_cache_is_compiled_again(tmp_path: Path) -> None:
    bundle, builder = write_with_engine(tmp_path / "b"), FakeBuilder()
    first = ensure_engines(bundle, 89, builder)
    whole = first["encoder"].path.read_bytes()
    first["encoder"].path.write_bytes(whole[:-1])
    assert find_engine(bundle, "encoder", 89, BUILDER, VERSION) is None
    assert ensure_engines(bundle, 89, builder)["encoder"].path.read_bytes() == whole
    spec = first["mapper"].path.with_name("engine.json")
    for text in ("", "[]", "{}", json.dumps({**json.loads(spec.read_text()), "file": "../x"})):
        spec.write_text(text)
        assert find_engine(bundle, "mapper", 89, BUILDER, VERSION) is None
    ensure_engines(bundle, 89, builder)
    assert builder.__dict__["compiled"][2:] == ["encoder.onnx", "mapper.onnx"]


def test_a_failed_compilation_leaves_nothing(tmp_path: Path, cache: Path) -> None:
    with pytest.raises(EngineError, match="no"):
        ensure_engines(write(tmp_path / "b"), 89, FakeBuilder(fails=True))
    assert list(cache.iterdir()) == []
    cache.rmdir()
    cache.write_text("a file is in the way")
    with pytest.raises(EngineError, match="set XDG_CACHE_HOME"):
        ensure_engines(write(tmp_path / "c"), 89, FakeBuilder())


def test_what_is_found_is_what_was_compiled(tmp_path: Path) -> None:
    bundle, builder = write(tmp_path / "b"), FakeBuilder()
    for name, engine in ensure_engines(bundle, 89, builder).items():
        assert engine.spec.graph == name
        assert engine.spec.sha256 == hash_file(engine.path)
        assert engine.spec.profiles == profiles_for(name, bundle.config)


def test_decoder_profiles_fit_captioning(tmp_path: Path) -> None:
    config = write(tmp_path / "b").config
    decode, verify, prefill = profiles_for("decoder", config)
    assert [p.name for p in (decode, verify, prefill)] == ["decode", "verify", "prefill"]
    largest = [
        {key: value[2] for key, value in p.shapes.items()} for p in (decode, verify, prefill)
    ]
    assert [sizes["pad_index"] for sizes in largest] == [
        (MAX_ROWS, 1),
        (MAX_ROWS, 16),
        (MAX_ROWS, config.max_chunk_tokens),
    ]
    assert largest[0]["token_ids"][0] > MAX_ROWS  # room for the token that is none
    assert largest[2]["token_ids"][0] >= 16 * config.max_chunk_tokens
    positions = {sizes["past"][2] for sizes in largest}
    assert positions == {config.slot_positions}
    assert all(min(shape[0]) == 1 for shape in decode.shapes.values() if len(shape[0]) == 1)
    as_plain = json.loads(json.dumps(asdict(decode)))
    assert as_plain["shapes"]["past"][0][0] == 1
