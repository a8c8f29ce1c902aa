"""Sessions run where they were asked to, and their integer products are exact."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from altogether_rt.errors import AltogetherError, BundleError
from altogether_rt.runtime import ort_session
from altogether_rt.runtime.ort_session import open_session, products_saturate
from altogether_rt.runtime.tiny_onnx import matmul_model

pytestmark = pytest.mark.lean


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    """A product of the largest uint8 and int8 there are: the worst case for 16-bit sums."""
    path = tmp_path / "matmul.onnx"
    path.write_bytes(matmul_model(np.full((256, 24), 127, np.int8)))
    return path


@pytest.mark.parametrize("rows", [1, 2, 7, 64])
def test_largest_products_are_exact(graph: Path, rows: int) -> None:
    session = open_session(graph, threads=1)
    (product,) = session.run(None, {"x": np.full((rows, 256), 255, np.uint8)})
    assert (product == 255 * 127 * 256).all()


@pytest.mark.parametrize("saturates", [False, True])
def test_exact_kernel_is_asked_for_only_where_it_is_needed(
    graph: Path, saturates: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ort_session, "products_saturate", lambda: saturates)
    options = open_session(graph, threads=1).get_session_options()
    if saturates:
        assert options.get_session_config_entry("session.x64quantprecision") == "1"
    else:
        with pytest.raises(RuntimeError):
            options.get_session_config_entry("session.x64quantprecision")


def test_saturation_is_recognised(monkeypatch: pytest.MonkeyPatch) -> None:
    class Saturating:
        def __init__(self, *_: Any, **__: Any) -> None: ...

        def run(self, _: None, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
            return [np.full((len(feeds["x"]), 32), 32767 * 32, np.int32)]

    monkeypatch.setattr(ort_session.import_onnxruntime(), "InferenceSession", Saturating)
    products_saturate.cache_clear()
    try:
        assert products_saturate()
    finally:
        products_saturate.cache_clear()


def test_another_provider_than_asked_for_is_an_error(graph: Path) -> None:
    with pytest.raises(BundleError, match="CUDAExecutionProvider"):
        open_session(graph, threads=1, provider="CUDAExecutionProvider")


def test_a_graph_without_memory_for_it(
    graph: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The message is the one seen under `ulimit -v`."""

    def create(*_: object) -> None:
        raise RuntimeError("PosixThread pthread_create failed: Cannot allocate memory")

    session = ort_session.import_onnxruntime().InferenceSession
    monkeypatch.setattr(session, "_create_inference_session", create)
    with pytest.raises(AltogetherError, match="needs more memory than this process may use"):
        open_session(graph, threads=1)
    assert capsys.readouterr().out == ""  # rows may go there


def test_broken_graph_is_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "broken.onnx"
    path.write_bytes(b"no graph")
    with pytest.raises(BundleError, match=r"onnxruntime cannot load .*: export it again"):
        open_session(path, threads=1)
