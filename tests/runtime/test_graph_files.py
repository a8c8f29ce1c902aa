"""A graph may map only files that were hashed with it."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from altogether_rt.artifacts.bundle import Bundle, hash_file
from altogether_rt.artifacts.manifest import FileSpec
from altogether_rt.errors import BundleError
from altogether_rt.runtime.graph_files import check_graph_files

onnx: Any = pytest.importorskip("onnx", reason="needs the extra export")


@pytest.fixture
def changed(tmp_path: Path) -> Callable[[Callable[[Any], None]], Bundle]:
    """Makes a copy of the starter whose mapper was changed and the manifest with it."""

    def change(edit: Callable[[Any], None]) -> Bundle:
        folder = tmp_path / "bundle"
        shutil.copytree(Bundle.load("starter").path, folder)
        path = folder / "mapper.onnx"
        model = onnx.load(path, load_external_data=False)
        edit(model)
        path.write_bytes(model.SerializeToString())
        manifest = Bundle.load("starter").manifest
        spec = FileSpec(path.stat().st_size, hash_file(path))
        graph = dataclasses.replace(manifest.graphs["mapper"], sha256=spec.sha256)
        manifest = dataclasses.replace(
            manifest,
            files={**manifest.files, "mapper.onnx": spec},
            graphs={**manifest.graphs, "mapper": graph},
        )
        return Bundle(folder, manifest)

    return change


def external(tensor: Any) -> Any:
    return next(entry for entry in tensor.external_data if entry.key == "location")


def first_external(model: Any) -> Any:
    return next(t for t in model.graph.initializer if t.external_data)


def move(location: str) -> Callable[[Any], None]:
    def edit(model: Any) -> None:
        external(first_external(model)).value = location

    return edit


def test_whole_bundles_pass(changed: Callable[..., Bundle]) -> None:
    check_graph_files(changed(lambda model: None))


@pytest.mark.parametrize(
    "location", ["/etc/passwd", "../weights.bin", "other.bin", "*/_ORT_MEM_ADDR_/*", "encoder.onnx"]
)
def test_other_files_are_refused(changed: Callable[..., Bundle], location: str) -> None:
    with pytest.raises(BundleError, match=r"maps '.*', which its manifest does not list"):
        check_graph_files(changed(move(location)))


def test_files_of_constants_and_subgraphs_are_seen(changed: Callable[..., Bundle]) -> None:
    def hide(model: Any) -> None:
        tensor = onnx.helper.make_tensor("x", onnx.TensorProto.FLOAT, [1], [1.0])
        tensor.CopyFrom(first_external(model))
        external(tensor).value = "secret.bin"
        inner = onnx.helper.make_node("Constant", [], ["c"], value=tensor)
        graph = onnx.helper.make_graph([inner], "g", [], [])
        node = onnx.helper.make_node("If", ["x"], ["y"], then_branch=graph, else_branch=graph)
        model.graph.node.append(node)

    with pytest.raises(BundleError, match=r"maps 'secret.bin'"):
        check_graph_files(changed(hide))


def test_compiled_code_from_elsewhere_is_refused(changed: Callable[..., Bundle]) -> None:
    def add(model: Any) -> None:
        node = onnx.helper.make_node("EPContext", [], ["y"], domain="com.microsoft")
        model.graph.node.append(node)

    with pytest.raises(BundleError, match="operator EPContext"):
        check_graph_files(changed(add))


def test_what_is_no_graph_is_a_sentence(changed: Callable[..., Bundle]) -> None:
    bundle = changed(lambda model: None)
    rng = np.random.default_rng(0)
    for data in (b"\xff" * 40, b"\x3a\xff\xff\x03", b"\x0b", rng.bytes(999)):
        bundle.graph_path("mapper").write_bytes(data)
        with pytest.raises(BundleError, match="is not an ONNX graph"):
            check_graph_files(bundle)
