"""Float16 graphs as such: types that fit everywhere, norms in float32, decoders they cannot do."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto

from altogether_rt.config import EncoderConfig
from altogether_rt.errors import ConfigError
from altogether_rt.export.bundling import write_bundle, write_graphs
from altogether_rt.export.lowering.choice import build_lowering
from altogether_rt.export.recipes import LoweringNames, Recipe, find_recipe
from altogether_rt.export.typed_values import wants_narrow
from altogether_rt.export.weights import MappedWeights
from altogether_rt.model.encoder import build_encoder
from altogether_rt.runtime.ort_session import open_session
from tests.export.test_encoder import TEXT, TOWERS
from tests.tiny import tiny_config, tiny_model, tiny_samples, tiny_source

RECIPE = find_recipe("tensorrt-fp16")


@pytest.fixture(scope="module", params=TOWERS)
def graphs(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """All three graphs in a folder, and the encoder they were made of."""
    return written(request.param, RECIPE, tmp_path_factory.mktemp("graphs"))


@pytest.fixture(scope="module")
def half_norms(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The same for ONNX Runtime on CUDA, whose norms take and give float16."""
    return written("vit", find_recipe("cuda-fp16"), tmp_path_factory.mktemp("half_norms"))


def written(tower: str, recipe: Recipe, folder: Path) -> tuple[Path, torch.nn.Module]:
    config = tiny_config()
    model = {
        "embed_dim": 12,
        "vision_cfg": TOWERS[tower],
        "text_cfg": TEXT,
        "quick_gelu": True,
    }
    config = replace(config, encoder=EncoderConfig(tower, 12, 64, model=model))
    torch.manual_seed(0)
    encoder = build_encoder(config.encoder)
    state = tiny_model(config).state_dict()
    weights = MappedWeights({name: tensor.numpy() for name, tensor in state.items()})
    write_graphs(config, weights, encoder, build_lowering(recipe.lowering), folder)
    return folder, encoder


def typed(path: Path) -> tuple[onnx.GraphProto, dict[str, int]]:
    """A graph and the type of each of its values."""
    graph = onnx.shape_inference.infer_shapes(onnx.load(path), strict_mode=True).graph
    values = [*graph.input, *graph.output, *graph.value_info]
    types = {value.name: value.type.tensor_type.elem_type for value in values}
    return graph, types | {tensor.name: tensor.data_type for tensor in graph.initializer}


@pytest.mark.parametrize("name", ["encoder", "mapper", "decoder"])
def test_products_are_float16_and_norms_float32(graphs: Any, name: str) -> None:
    path = graphs[0] / f"{name}.onnx"
    onnx.checker.check_model(str(path), full_check=True)
    graph, types = typed(path)
    seen: Counter[str] = Counter()
    for node in graph.node:
        kinds = {types[value] for value in node.input if value} & {
            TensorProto.FLOAT,
            TensorProto.FLOAT16,
        }
        seen[node.op_type] += 1
        if node.op_type in ("MatMul", "Gemm", "Conv", "Attention", "TensorScatter", "Relu"):
            assert kinds == {TensorProto.FLOAT16}, node
        if node.op_type in ("LayerNormalization", "ReduceL2", "ReduceMean", "Div"):
            assert kinds == {TensorProto.FLOAT}, node
    assert seen["MatMul"] + seen["Gemm"] > 2
    large = [t for t in graph.initializer if len(t.dims) > 1 and np.prod(t.dims) > 1000]
    assert {t.data_type for t in large} == {TensorProto.FLOAT16}


@pytest.mark.parametrize(
    ("name", "norms", "casts"),
    [
        # Casts at the ends: pixels, which are computed in float32, the class token, the result.
        ("encoder", 6, 5),
        ("mapper", 4, 2),  # embeddings, visual tokens
        ("decoder", 5, 4),  # visual tokens, lengths twice, logits
        ("decode", 5, 2),  # lengths, logits
    ],
)
def test_norms_on_cuda_add_no_cast(half_norms: Any, name: str, norms: int, casts: int) -> None:
    graph, types = typed(half_norms[0] / f"{name}.onnx")
    seen = Counter(node.op_type for node in graph.node)
    assert (seen["LayerNormalization"], seen["Cast"]) == (norms, casts)
    for node in graph.node:
        if node.op_type == "LayerNormalization":
            assert {types[value] for value in node.input} == {TensorProto.FLOAT16}
            stash = [each.i for each in node.attribute if each.name == "stash_type"]
            assert stash in ([], [TensorProto.FLOAT])  # float32 is what the standard says


def test_encoders_agree_with_torch(graphs: Any) -> None:
    assert_agrees(graphs)


def test_an_encoder_with_narrow_norms_agrees_with_torch(half_norms: Any) -> None:
    assert_agrees(half_norms)


def assert_agrees(graphs: Any) -> None:
    folder, encoder = graphs
    pixels = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), dtype=np.uint8)
    pixels[1] //= 4
    with torch.no_grad():
        wanted = encoder(torch.from_numpy(pixels)).numpy()
    session = open_session(folder / "encoder.onnx", threads=1, half=True)
    (found,) = session.run(None, {"pixels": pixels})
    assert found.dtype == np.float32
    assert ((found * wanted).sum(-1) > 0.9999).all()
    assert np.abs(found - wanted).max() > 1e-7  # it is float16 indeed


def test_decoders_it_cannot_compute(tmp_path: Path) -> None:
    odd = tiny_config()
    odd = replace(odd, decoder=replace(odd.decoder, heads=16))
    with pytest.raises(ConfigError, match="multiple of 8"):
        write_bundle(tiny_source(odd, tmp_path), RECIPE, tmp_path / "b", tiny_samples())
    assert not (tmp_path / "b").exists()


def test_a_recipe_does_not_mix_precisions() -> None:
    with pytest.raises(ConfigError, match="mixes precisions"):
        LoweringNames("fp16", "fp16", "group-query", "fp16")
    with pytest.raises(ConfigError, match="mixes precisions"):
        LoweringNames("fp16", "fp16", "scatter")
    with pytest.raises(ConfigError, match="norms = fp16 needs"):
        LoweringNames("fp32", "fp32", "group-query", norms="fp16")


def test_what_is_computed_narrow() -> None:
    assert wants_narrow("MatMul", [False, False])
    assert wants_narrow("Add", [False, True])
    assert not wants_narrow("Add", [False, False])
    assert not wants_narrow("LayerNormalization", [True])
    assert not wants_narrow("Div", [True, True])
