"""Every check of a manifest, each with a manifest that only this check refuses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from altogether_rt.artifacts.engines import EngineProfile, EngineSpec
from altogether_rt.artifacts.manifest import (
    BundleManifest,
    FileSpec,
    TargetSpec,
)
from altogether_rt.errors import ConfigError
from tests.artifacts.test_bundle import manifest_of

pytestmark = pytest.mark.lean

NAMES = ("encoder.onnx", "mapper.onnx", "decoder.onnx", "weights.bin", "tokenizer.json")
FILES = {name: FileSpec(1, character * 64) for name, character in zip(NAMES, "12345", strict=True)}
PLAN = FileSpec(6, "6" * 64)
ENGINE = EngineSpec("decoder", "decoder.sm89.plan", "6" * 64, 89, "tensorrt", "10.9", ())


def complete() -> BundleManifest:
    """A valid manifest that uses every kind of file."""
    files = {**FILES, "decoder.sm89.plan": PLAN, "guesses.npz": FileSpec(7, "7" * 64)}
    return replace(manifest_of(FILES), files=files, engines=(ENGINE,), drafting_state="guesses.npz")


def graph(manifest: BundleManifest, name: str, **changes: Any) -> dict[str, Any]:
    return {**manifest.graphs, name: replace(manifest.graphs[name], **changes)}


def without(mapping: Any, key: str) -> dict[str, Any]:
    return {name: value for name, value in mapping.items() if name != key}


REFUSED: list[tuple[Callable[[BundleManifest], dict[str, Any]], str]] = [
    *(
        (lambda m, name=name: {"files": {**m.files, name: PLAN}}, f"files names {name!r}")
        for name in ("../a", "a/b", ".a", "-a", "", "a b", "é")
    ),
    *(
        (lambda m, name=name: {"graphs": without(m.graphs, name)}, f"its graphs include no {name}.")
        for name in ("encoder", "mapper", "decoder")
    ),
    *(
        (
            lambda m, name=name: {"drafting_state": name},
            "guesses names a file that has another purpose",
        )
        for name in ("encoder.onnx", "weights.bin", "tokenizer.json", "decoder.sm89.plan")
    ),
    *(
        (lambda m, name=name: {"files": without(m.files, name)}, f"'{name}' is used but not")
        for name in (*NAMES, "decoder.sm89.plan", "guesses.npz")
    ),
    *(
        (
            lambda m, name=name: {"graphs": graph(m, name, sha256="0" * 64)},
            f"graphs.{name} and files give different hashes for {name}.onnx",
        )
        for name in ("encoder", "mapper", "decoder")
    ),
    (
        lambda m: {"engines": (ENGINE, replace(ENGINE, sm=90, sha256="0" * 64))},
        "engines and files give different hashes for decoder.sm89.plan",
    ),
]


def test_the_complete_manifest_is_valid() -> None:
    manifest = complete()
    assert BundleManifest.from_dict(manifest.to_dict()) == manifest


@pytest.mark.parametrize(("change", "says"), REFUSED, ids=[says for _, says in REFUSED])
def test_what_is_refused(change: Callable[[BundleManifest], dict[str, Any]], says: str) -> None:
    manifest = complete()
    with pytest.raises(ConfigError) as caught:
        replace(manifest, **change(manifest))
    assert says in str(caught.value)


@pytest.mark.parametrize("name", ["graphs", "files"])
@pytest.mark.parametrize("value", [None, [], "x", 1])
def test_tables_that_are_something_else(name: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=f"^{name} must be a table of keys"):
        BundleManifest.from_dict({**complete().to_dict(), name: value})


@pytest.mark.parametrize("name", ["x.onnx", "A-b_9.bin", "0", "Z.z"])
def test_plain_names(name: str) -> None:
    manifest = complete()
    assert name in replace(manifest, files={**manifest.files, name: PLAN}).files


@pytest.mark.parametrize(
    "value",
    [
        None,
        "123",
        {0: [1], 1: [1], 2: [1]},
        [[1], [2]],
        [[1], [2], [3], [4]],
        [[1], [2], 3],
        [1, 2, 3],
        [[1], [2], ["3"]],
        [[1], [2], [3.0]],
        [[True], [2], [3]],
        [[-1], [2], [3]],
        [[1], [2], [3, 3]],
        [[1], [2, 2], [3]],
        [[1, 1], [2], [3]],
        [[2], [1], [3]],
        [[1], [3], [2]],
        [[1, 5], [2, 4], [3, 6]],
    ],
)
def test_shapes_that_are_no_range(value: Any) -> None:
    with pytest.raises(
        ConfigError, match="shapes of ids in profile decode must be a min, an opt and a max shape"
    ):
        EngineProfile("decode", {"ids": value})


@pytest.mark.parametrize("value", [[[0], [0], [0]], [[], [], []], ([1, 2], (1, 2), [1, 3])])
def test_shapes_that_are_a_range(value: Any) -> None:
    shapes = EngineProfile("decode", {"ids": value}).shapes["ids"]
    assert shapes == tuple(map(tuple, value))


def test_the_type_of_weights_is_the_first_word() -> None:
    assert TargetSpec("t", "onnxruntime", "cpu", "int8, one scale a row").weights == "int8"
    assert TargetSpec("t", "onnxruntime", "cpu", "float16; fp32 sums").weights == "float16"
    assert TargetSpec("t", "onnxruntime", "cpu", "int4: packed").weights == "int4"


def test_the_id_changes_with_each_of_its_parts() -> None:
    manifest = complete()
    target = manifest.target
    others = [
        replace(manifest, config=replace(manifest.config, name="other")),
        *(
            replace(manifest, target=changed)
            for changed in (
                replace(target, name="other"),
                replace(target, runtime="other"),
                replace(target, device="other"),
            )
        ),
        replace(manifest, cache=replace(manifest.cache, min_chunk=4)),
        replace(manifest, files={**manifest.files, "weights.bin": FileSpec(1, "9" * 64)}),
        replace(manifest, files={**manifest.files, "more.bin": FileSpec(1, "9" * 64)}),
    ]
    assert len({manifest.bundle_id, *(other.bundle_id for other in others)}) == 1 + len(others)


def test_the_id_does_not_change_with_anything_else() -> None:
    manifest = complete()
    others = [
        replace(manifest, parity={"images": 3}),
        replace(manifest, provenance={"created": "another day"}),
        replace(manifest, target=replace(manifest.target, description="x", precision="y")),
        replace(manifest, files={**manifest.files, "guesses.npz": FileSpec(8, "8" * 64)}),
        replace(manifest, files=without(manifest.files, "guesses.npz"), drafting_state=None),
        replace(manifest, files={**manifest.files, "weights.bin": FileSpec(2, "4" * 64)}),
    ]
    assert {other.bundle_id for other in others} == {manifest.bundle_id}


def test_the_encoder_id_is_of_what_makes_an_embedding() -> None:
    manifest = complete()
    config = manifest.config
    same = [
        replace(manifest, target=replace(manifest.target, name="other")),
        replace(manifest, config=replace(config, mapper=replace(config.mapper, layers=3))),
        replace(manifest, files={**manifest.files, "tokenizer.json": FileSpec(1, "9" * 64)}),
    ]
    assert {other.encoder_id for other in same} == {manifest.encoder_id}
    encoder_file = {**manifest.files, "encoder.onnx": FileSpec(1, "9" * 64)}
    others = [
        replace(manifest, target=replace(manifest.target, device="cuda")),
        replace(manifest, target=replace(manifest.target, runtime="tensorrt")),
        replace(manifest, config=replace(config, encoder=replace(config.encoder, image_size=32))),
        replace(manifest, files={**manifest.files, "weights.bin": FileSpec(1, "9" * 64)}),
        replace(manifest, files=encoder_file, graphs=graph(manifest, "encoder", sha256="9" * 64)),
    ]
    assert len({manifest.encoder_id, *(other.encoder_id for other in others)}) == 1 + len(others)
