"""Graphs compiled ahead of time by TensorRT itself, which needs no GPU for that."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from altogether_rt.artifacts.bundle import Bundle
from altogether_rt.artifacts.engines import EngineProfile
from altogether_rt.artifacts.manifest import GRAPH_NAMES
from altogether_rt.config import (
    CaptionerConfig,
    DecoderConfig,
    EncoderConfig,
    MapperConfig,
    PromptConfig,
    VitConfig,
    named_config,
)
from altogether_rt.errors import BundleError
from altogether_rt.export.bundling import write_bundle
from altogether_rt.export.recipes import find_recipe
from altogether_rt.runtime.tensorrt.build import build_engines
from altogether_rt.runtime.tensorrt.compiler import Builder, EngineError, open_builder
from altogether_rt.runtime.tensorrt.engine_files import find_engines
from altogether_rt.runtime.tensorrt.profiles import profiles_for
from tests.runtime.tensorrt.graphs import write_random_graphs
from tests.tiny import FAMILIES, tiny_config, tiny_encoder_traced_once, tiny_samples, tiny_source

pytest.importorskip("tensorrt_rtx", reason="needs the extra tensorrt (Linux on x86-64)")

SMS = (80, 86, 89, 120)
CONFIGS = (
    *("starter", "llama-like", "patch-tokens"),
    pytest.param("altogether-opt-125m", marks=pytest.mark.slow),
    pytest.param("smolvlm-256m-2-layers", marks=pytest.mark.slow),
)


def config_of(name: str) -> CaptionerConfig:
    """A named configuration; `llama-like`: the starter with rotary positions and grouped heads."""
    if name == "patch-tokens":
        return patch_config(vit_width=64, image_size=64, width=384, ffn_width=96, vocab_size=97)
    if name == "smolvlm-256m-2-layers":
        return patch_config(
            vit_width=768, image_size=512, width=576, ffn_width=1536, vocab_size=49280
        )
    if name != "llama-like":
        return named_config(name)
    config = named_config("starter")
    family: dict[str, Any] = {**FAMILIES["llama"], "position_offset": 0}
    return replace(config, decoder=replace(config.decoder, **family))


def patch_config(
    *, vit_width: int, image_size: int, width: int, ffn_width: int, vocab_size: int
) -> CaptionerConfig:
    """SmolVLM's structure with two layers in the encoder and in the decoder."""
    vit = VitConfig(vit_width, 2, vit_width // 64, 4 * vit_width, patch_size=16)
    encoder = EncoderConfig("vit", vit_width, image_size, "squash", normalize=False, vit=vit)
    family: dict[str, Any] = {**FAMILIES["llama"], "kv_heads": width // 192}
    decoder = DecoderConfig(
        vocab_size, 2, width, width // 64, ffn_width, 2048, eos_id=2, pad_id=1, **family
    )
    mapper = MapperConfig("patches", (image_size // 64) ** 2, shuffle=4, bias=False)
    prompt = PromptConfig(before_ids=(5, 6, 7), after_ids=(8,), suffix_ids=(9, 10))
    return CaptionerConfig("patches", encoder, mapper, decoder, prompt)


@pytest.fixture(scope="module")
def builder() -> Builder:
    return open_builder(("tensorrt_rtx",))


@pytest.mark.parametrize("name", CONFIGS)
def test_all_graphs_compile(name: str, builder: Builder) -> None:
    config = config_of(name)
    with TemporaryDirectory() as path:  # a gigabyte that nobody needs afterwards
        folder = Path(path)
        write_random_graphs(config, "tensorrt-fp16", folder)
        for graph in GRAPH_NAMES:
            file, plan = folder / f"{graph}.onnx", folder / f"{graph}.plan"
            builder.compile(file, profiles_for(graph, config), SMS, plan)
            tensors = onnx.load(file, load_external_data=False).graph.initializer
            halves = sum(np.prod(t.dims) for t in tensors if t.data_type == TensorProto.FLOAT16)
            assert plan.stat().st_size > 0.9 * 2 * halves  # its weights are in it


def test_a_bundle_with_engines(builder: Builder, tmp_path: Path) -> None:
    told: list[str] = []
    with tiny_encoder_traced_once():
        written = write_bundle(
            tiny_source(tiny_config(), tmp_path),
            find_recipe("tensorrt-fp16"),
            tmp_path / "b",
            tiny_samples(),
            compile_engines=lambda bundle: build_engines(
                bundle, (120, 89), bundle.path, builder, report=told.append
            ),
        )
    bundle = Bundle.load(tmp_path / "b")
    assert bundle.manifest == written.manifest
    assert told == [f"compiling the {name} for SM 89, 120" for name in GRAPH_NAMES]
    assert (bundle.manifest.target.runtime, bundle.manifest.target.device) == ("tensorrt", "cuda")
    for sm in (89, 120):
        engines = find_engines(bundle, sm, builder.name, builder.version)
        assert set(engines) == set(GRAPH_NAMES)
        assert engines["decoder"].path == tmp_path / "b" / "decoder.sm89-120.plan"
    assert find_engines(bundle, 86, builder.name, builder.version) == {}
    plan = bytearray((tmp_path / "b" / "mapper.sm89-120.plan").read_bytes())
    plan[len(plan) // 2] ^= 1
    (tmp_path / "b" / "mapper.sm89-120.plan").write_bytes(plan)
    with pytest.raises(BundleError, match=r"mapper.sm89-120.plan is not the file"):
        Bundle.load(tmp_path / "b")


@pytest.mark.parametrize("target", ["tensorrt-int8", "tensorrt-fp8"])
def test_narrow_linear_layers(builder: Builder, target: str, tmp_path: Path) -> None:
    with tiny_encoder_traced_once():
        bundle = write_bundle(
            tiny_source(tiny_config(), tmp_path),
            find_recipe(target),
            tmp_path / "b",
            tiny_samples(),
            compile_engines=lambda bundle: build_engines(bundle, (89, 120), bundle.path, builder),
        )
    assert set(find_engines(bundle, 89, builder.name, builder.version)) == set(GRAPH_NAMES)
    if target == "tensorrt-fp8":
        for name in ("encoder", "mapper"):
            graph = onnx.load(bundle.graph_path(name), load_external_data=False).graph
            kinds = {tensor.data_type for tensor in graph.initializer}
            assert TensorProto.FLOAT8E4M3FN in kinds
            profiles = profiles_for(name, bundle.config)
            assert "fp8" in refusal(builder, bundle.graph_path(name), profiles, 86)
    else:
        builder.compile(
            bundle.graph_path("decoder"),
            profiles_for("decoder", bundle.config),
            [75, 80],
            tmp_path / "plan",
        )


def refusal(
    builder: Builder, graph: Path, profiles: tuple[EngineProfile, ...] = (), sm: int = 89
) -> str:
    with pytest.raises(EngineError) as caught:
        builder.compile(graph, profiles, [sm], graph.with_suffix(".plan"))
    assert not graph.with_suffix(".plan").exists()
    message = str(caught.value)
    assert message.endswith("export for another target, such as cpu-int8.")
    assert "\n" not in message
    return message


def test_the_cpu_targets_operators_are_refused(builder: Builder, tmp_path: Path) -> None:
    from altogether_rt.export.decoder import build_decoder
    from altogether_rt.export.graph import GraphBuilder
    from altogether_rt.export.lowering.choice import build_lowering
    from altogether_rt.export.mapper import build_mapper
    from altogether_rt.export.weights import WeightsFile
    from tests.runtime.tensorrt.graphs import RandomWeights

    config, weights = tiny_config(), RandomWeights(tiny_config())
    with WeightsFile(tmp_path / "weights.bin") as file:
        g = GraphBuilder("decoder", file)
        build_decoder(
            g, config.decoder, weights, build_lowering(find_recipe("cpu-fp32").lowering), 48
        )
        g.save(tmp_path / "decoder.onnx")
        g = GraphBuilder("mapper", file)
        build_mapper(g, config, weights, build_lowering(find_recipe("cpu-int8").lowering))
        g.save(tmp_path / "mapper.onnx")
    assert "GroupQueryAttention" in refusal(builder, tmp_path / "decoder.onnx")
    assert "cannot compile mapper.onnx" in refusal(builder, tmp_path / "mapper.onnx")


def attention(path: Path, kind: int) -> Path:
    """Attention of several queries to a cache, in one type."""
    shapes = {"q": [1, 2, 4, 64], "keys": [1, 2, 32, 64], "values": [1, 2, 32, 64]}
    inputs = [helper.make_tensor_value_info(name, kind, shape) for name, shape in shapes.items()]
    inputs.append(helper.make_tensor_value_info("lengths", TensorProto.INT64, [1]))
    node = helper.make_node("Attention", ["q", "keys", "values", "", "", "", "lengths"], ["y"])
    outputs = [helper.make_tensor_value_info("y", kind, shapes["q"])]
    graph = helper.make_graph([node], "attention", inputs, outputs)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 24)], ir_version=12)
    onnx.save(model, path)
    return path


def test_attention_must_be_float16(builder: Builder, tmp_path: Path) -> None:
    half = attention(tmp_path / "half.onnx", TensorProto.FLOAT16)
    builder.compile(half, (), [89], tmp_path / "half.plan")
    refusal(builder, attention(tmp_path / "single.onnx", TensorProto.FLOAT))


def test_what_is_no_graph(builder: Builder, tmp_path: Path) -> None:
    path = tmp_path / "graph.onnx"
    path.write_bytes(b"not a graph")
    assert "cannot compile graph.onnx" in refusal(builder, path)


def test_a_profile_that_the_graph_does_not_take(builder: Builder, tmp_path: Path) -> None:
    half = attention(tmp_path / "half.onnx", TensorProto.FLOAT16)
    shapes = {"q": (2, 2, 4, 64), "keys": (1, 2, 32, 64), "values": (1, 2, 32, 64), "lengths": (1,)}
    profile = EngineProfile("all", {name: (shape,) * 3 for name, shape in shapes.items()})
    refusal(builder, half, (profile,))
