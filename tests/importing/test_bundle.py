"""A checkpoint that was exported for the CPU comes back from its bundle."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor
from typer.testing import CliRunner

from altogether_rt.artifacts.bundle import Bundle
from altogether_rt.artifacts.checkpoint import Checkpoint, save_checkpoint
from altogether_rt.cli.main import app
from altogether_rt.config import CaptionerConfig
from altogether_rt.errors import BundleError
from altogether_rt.export.from_checkpoint import export_checkpoint
from altogether_rt.export.lowering.quantize import quantize_rows
from altogether_rt.export.recipes import Recipe, find_recipe
from altogether_rt.importing.bundle import recover_checkpoint
from altogether_rt.model.captioner import CaptionerModel
from altogether_rt.model.encoder import build_encoder
from altogether_rt.runtime.torch.runtime import TorchRuntime
from tests.tiny import MapperKind, tiny_config, tiny_tokenizer

#: A tower of each kind: one with folded batch norms and attention over joined biases, one with
#: joined weights and layer norms.
RESNET = {"image_size": 32, "layers": [1, 1, 1, 1], "width": 4, "head_width": 16}
VIT = {"image_size": 16, "layers": 2, "width": 32, "head_width": 16, "patch_size": 8}
TEXT = {"context_length": 8, "vocab_size": 50, "width": 32, "heads": 2, "layers": 1}


def config_with(vision: Mapping[str, Any], family: str, mapper: MapperKind) -> CaptionerConfig:
    config = tiny_config(family, mapper)
    model = {"embed_dim": 12, "vision_cfg": vision, "text_cfg": TEXT}
    encoder = replace(
        config.encoder, name="tiny-tower", model=model, image_size=vision["image_size"]
    )
    return replace(config, encoder=encoder)


def write_checkpoint(folder: Path, config: CaptionerConfig) -> Checkpoint:
    """Random weights, batch norms that do something, biases that are all zero among them."""
    torch.manual_seed(0)
    visual = build_encoder(config.encoder).visual
    for module in visual.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            assert module.running_mean is not None and module.running_var is not None
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 2)
            module.weight.uniform_(0.5, 2)
    state = CaptionerModel(config).state_dict()
    state |= {f"encoder.{name}": tensor for name, tensor in visual.state_dict().items()}
    for name in state:
        if name.startswith(("mapper.", "decoder.")):  # a bias of zeros would hide in the others
            state[name] = state[name] + 0.05 * torch.randn_like(state[name])
    folder.mkdir()
    tokenizer = tiny_tokenizer(folder / "tokenizer.json")
    save_checkpoint(folder / "ckpt", config, state, tokenizer, {"note": "for tests"})
    return Checkpoint.load(folder / "ckpt")


@pytest.fixture(scope="module")
def resnet(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    folder = tmp_path_factory.mktemp("resnet") / "made"
    return write_checkpoint(folder, config_with(RESNET, "opt", "transformer"))


@pytest.fixture(scope="module")
def vit(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    folder = tmp_path_factory.mktemp("vit") / "made"
    return write_checkpoint(folder, config_with(VIT, "llama", "mlp"))


@pytest.fixture(scope="module")
def int8_bundle(resnet: Checkpoint) -> Bundle:
    return export_checkpoint(
        resnet.folder, unsmoothed("cpu-int8"), resnet.folder.with_name("cpu-int8")
    )


def unsmoothed(target: str) -> Recipe:
    """The target's recipe, but for smoothing: what is stored is then the checkpoint, rounded."""
    recipe = find_recipe(target)
    return replace(recipe, lowering=replace(recipe.lowering, smoothing=0.0))


def export(checkpoint: Checkpoint, target: str) -> Bundle:
    out = checkpoint.folder.with_name(target)
    return export_checkpoint(checkpoint.folder, find_recipe(target), out)


def weights(checkpoint: Checkpoint) -> dict[str, Tensor]:
    return checkpoint.captioner().state_dict()


def embeddings(checkpoint: Checkpoint) -> np.ndarray[Any, Any]:
    size = checkpoint.config.encoder.image_size
    pixels = np.random.default_rng(3).integers(0, 256, (4, size, size, 3), dtype=np.uint8)
    with TorchRuntime(checkpoint.captioner()) as runtime:
        return runtime.encode(pixels)


def test_a_vit_comes_back_bit_for_bit_from_float32(vit: Checkpoint, tmp_path: Path) -> None:
    bundle = export(vit, "cpu-fp32")
    recovered = recover_checkpoint(bundle.path, tmp_path / "back")
    wanted, found = weights(vit), weights(recovered)
    assert wanted.keys() == found.keys()
    assert [name for name in wanted if not torch.equal(wanted[name], found[name])] == []
    assert recovered.config == bundle.config
    assert recovered.tokenizer_path.read_bytes() == vit.tokenizer_path.read_bytes()


def test_a_resnet_comes_back_with_its_batch_norms_folded(
    resnet: Checkpoint, tmp_path: Path
) -> None:
    bundle = export(resnet, "cpu-fp32")
    recovered = recover_checkpoint(bundle.path, tmp_path / "back")
    wanted, found = weights(resnet), weights(recovered)
    assert wanted.keys() == found.keys()
    offset = resnet.config.decoder.position_offset
    padding = found["decoder.positions.weight"][:offset]
    assert not padding.any()  # no bundle has them
    wanted["decoder.positions.weight"][:offset] = 0
    folded = ("conv1", "conv2", "conv3", "bn1", "bn2", "bn3", "downsample")
    kept = [name for name in wanted if not any(f".{part}." in name for part in folded)]
    assert "encoder.visual.attnpool.q_proj.weight" in kept
    assert [name for name in kept if not torch.equal(wanted[name], found[name])] == []

    stem = "encoder.visual.{}1.{}".format
    scale = wanted[stem("bn", "weight")] / (wanted[stem("bn", "running_var")] + 1e-5).sqrt()
    torch.testing.assert_close(
        found[stem("conv", "weight")], wanted[stem("conv", "weight")] * scale[:, None, None, None]
    )
    torch.testing.assert_close(
        found[stem("bn", "bias")],
        wanted[stem("bn", "bias")] - wanted[stem("bn", "running_mean")] * scale,
    )
    np.testing.assert_allclose(embeddings(recovered), embeddings(resnet), atol=1e-5)
    # Exported again, it is the same bundle to the bit.
    again = export_checkpoint(recovered.folder, find_recipe("cpu-fp32"), tmp_path / "again")
    assert again.bundle_id == bundle.bundle_id


def test_int8_weights_come_back_as_their_values_times_their_scales(
    resnet: Checkpoint, int8_bundle: Bundle, tmp_path: Path
) -> None:
    recovered = recover_checkpoint(int8_bundle.path, tmp_path / "back")
    wanted, found = weights(resnet), weights(recovered)
    rounded = [
        "decoder.embed.weight",
        "decoder.layers.1.q.weight",
        "decoder.layers.1.k.weight",
        "decoder.layers.0.v.weight",
        "decoder.layers.0.fc2.weight",
        "mapper.linear.weight",
        "mapper.layers.0.q.weight",
        "mapper.layers.1.kv.weight",
        "encoder.visual.attnpool.k_proj.weight",
        "encoder.visual.attnpool.c_proj.weight",
    ]
    for name in rounded:
        values, scales = quantize_rows(wanted[name].numpy())
        np.testing.assert_array_equal(found[name].numpy(), values * scales[:, None])
        assert not torch.equal(found[name], wanted[name])
    for name in ("decoder.layers.1.k.bias", "mapper.prefix", "decoder.norm.weight"):
        assert torch.equal(found[name], wanted[name])
    assert recovered.about["recovered_from_bundle"] == int8_bundle.bundle_id
    assert recovered.about["recovered_from_target"] == "cpu-int8"
    assert recovered.about["original_checkpoint"]["sha256"] == resnet.sha256()
    # Rounding what was rounded changes nothing.
    again = export_checkpoint(recovered.folder, unsmoothed("cpu-int8"), tmp_path / "again")
    assert weights_agree(weights(recover_checkpoint(again.path, tmp_path / "twice")), found)


def test_smoothed_weights_come_back_as_the_same_captioner(
    resnet: Checkpoint, tmp_path: Path
) -> None:
    """Other weights, but what they compute is compared before a checkpoint is made."""
    bundle = export_checkpoint(resnet.folder, find_recipe("cpu-int8"), tmp_path / "smooth")
    found, wanted = weights(recover_checkpoint(bundle.path, tmp_path / "back")), weights(resnet)
    name = "decoder.layers.0.norm1.weight"
    assert found.keys() == wanted.keys()
    assert not torch.allclose(found[name], wanted[name], rtol=0.05)


def weights_agree(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_large_columns_come_back_from_their_parts(tmp_path: Path) -> None:
    """Those that smoothing makes of outliers; here the checkpoint has some itself."""
    checkpoint = write_checkpoint(tmp_path / "made", config_with(VIT, "opt", "transformer"))
    state = weights(checkpoint)
    state = {name.replace(".visual.", ".", 1): tensor for name, tensor in state.items()}
    name = "decoder.layers.0.fc2.weight"
    state[name][:, 3] *= 12
    large = tmp_path / "large"
    save_checkpoint(large, checkpoint.config, state, checkpoint.tokenizer_path, {})
    bundle = export_checkpoint(large, unsmoothed("cpu-int8"), tmp_path / "bundle")
    found = weights(recover_checkpoint(bundle.path, tmp_path / "back"))[name]
    step = (state[name].abs() / 127).amax(1, keepdim=True)
    assert (found[:, 3] - state[name][:, 3]).abs().max() < 0.51 * step.max()
    others = torch.arange(found.shape[1]) != 3
    values, scales = quantize_rows(state[name].numpy())
    plain = torch.from_numpy(values * scales[:, None])
    lost = [(w - state[name])[:, others].abs().mean() for w in (found, plain)]
    assert lost[0] < 0.6 * lost[1]


def test_import_and_export_take_a_bundle(int8_bundle: Bundle, tmp_path: Path) -> None:
    runner, out = CliRunner(), tmp_path / "back"
    result = runner.invoke(app, ["import", str(int8_bundle.path), "--out", str(out), "--json"])
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["recovered_from_bundle"] == int8_bundle.bundle_id
    assert Checkpoint.load(out).has_encoder

    again = ["export", "--ckpt", str(int8_bundle.path), "--out", str(tmp_path / "b"), "--json"]
    result = runner.invoke(app, [*again, "--target", "cpu-fp32"])
    assert result.exit_code == 0, result.stderr
    told = Bundle.load(tmp_path / "b").manifest.provenance["checkpoint"]
    assert told["about"]["recovered_from_bundle"] == int8_bundle.bundle_id
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b", "back"]


def altered(bundle: Bundle, folder: Path, alter: Any, graph: str = "encoder") -> Path:
    """A copy of a bundle, one graph changed and the manifest's hashes as they should be."""
    from altogether_rt.artifacts.bundle import BundleWriter

    with BundleWriter(folder) as writer:
        for path in bundle.path.iterdir():
            (writer.folder / path.name).write_bytes(path.read_bytes())
        (writer.folder / "bundle.json").unlink()
        path = writer.folder / f"{graph}.onnx"
        model = onnx.load(path, load_external_data=False)
        alter(model.graph)
        onnx.save(model, path)
        files = writer.describe_files()
        spec = replace(bundle.manifest.graphs[graph], sha256=files[path.name].sha256)
        graphs = {**bundle.manifest.graphs, graph: spec}
        writer.commit(replace(bundle.manifest, graphs=graphs, files=files))
    return folder


def drop_the_last_weight(graph: Any) -> None:
    names = [tensor.name for tensor in graph.initializer if tensor.name.endswith(".bias")]
    add = next(node for node in graph.node if names[-1] in node.input)
    add.op_type = "Identity"
    del add.input[1:]


def swap_two_layers(graph: Any) -> None:
    first, second = (f"mapper.layers.{index}.out.weight_int8" for index in range(2))
    users = {node.input[1]: node for node in graph.node if node.op_type == "MatMulIntegerToFloat"}
    users[first].input[1], users[second].input[1] = second, first


def subtract_the_positions(graph: Any) -> None:
    next(node for node in graph.node if "encoder.unsqueeze" in node.input).op_type = "Sub"


def use_a_weight_more(graph: Any) -> None:
    graph.node.append(onnx.helper.make_node("Neg", ["encoder.visual.conv1.weight"], ["unused"]))


def spoil_a_scale(graph: Any) -> None:
    name = "mapper.layers.0.out.weight_scale"
    scale = next(tensor for tensor in graph.initializer if tensor.name == name)
    scale.dims[:] = [1, *scale.dims]


def reshape_a_weight(graph: Any) -> None:
    weight = next(t for t in graph.initializer if t.name == "encoder.visual.conv1.weight")
    weight.dims[:] = weight.dims[::-1]


def negate_the_result(graph: Any) -> None:
    graph.node[-1].op_type = "Neg"


def rename_a_norm(graph: Any) -> None:
    for node in graph.node:
        for index, name in enumerate(node.input):
            node.input[index] = name.replace("layers.1.norm1", "layers.7.norm1")
    for tensor in graph.initializer:
        tensor.name = tensor.name.replace("layers.1.norm1", "layers.7.norm1")


@pytest.mark.parametrize(
    ("graph", "alter", "says"),
    [
        ("encoder", subtract_the_positions, "unsqueeze in Sub instead of"),
        ("encoder", use_a_weight_more, "it also has .*conv1.weight in Neg"),
        ("encoder", reshape_a_weight, "conv1.weight in Conv instead of"),
        (
            "encoder",
            negate_the_result,
            "the encoder of .* does not compute what its weights compute",
        ),
        ("mapper", swap_two_layers, "the mapper of .* does not compute what its weights compute"),
        ("mapper", spoil_a_scale, "scales that do not match"),
        ("mapper", rename_a_norm, "has mapper.layers.7.norm1.weight"),
        ("decoder", drop_the_last_weight, "no decoder.norm.weight of shape"),
    ],
)
def test_graphs_that_cannot_be_taken_apart(
    int8_bundle: Bundle, tmp_path: Path, graph: str, alter: Any, says: str
) -> None:
    path = altered(int8_bundle, tmp_path / "other", alter, graph)
    with pytest.raises(BundleError, match=says):
        recover_checkpoint(path, tmp_path / "back")
    assert not (tmp_path / "back").exists()


def test_a_bundle_for_another_runtime(int8_bundle: Bundle, tmp_path: Path) -> None:
    path = altered(int8_bundle, tmp_path / "other", lambda graph: None)
    manifest = json.loads((path / "bundle.json").read_text())
    manifest["target"] |= {"runtime": "tensorrt", "device": "cuda"}
    (path / "bundle.json").write_text(json.dumps(manifest))
    result = CliRunner().invoke(app, ["import", str(path), "--out", str(tmp_path / "back")])
    assert result.exit_code == 1
    assert "is a bundle for tensorrt on cuda" in result.stderr
    assert result.stderr.count("\n") == 1


def test_a_graph_that_is_none(int8_bundle: Bundle, tmp_path: Path) -> None:
    from altogether_rt.importing.bundle_weights import GraphWeights

    broken = tmp_path / "encoder.onnx"
    broken.write_bytes(b"no graph at all")
    with pytest.raises(BundleError, match="is not an ONNX graph"):
        GraphWeights(broken)


def test_the_starter_comes_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its shipped bundle is recovered, and agrees with torch: recovery measures that itself."""
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, ["import", "starter", "--out", "mine"])
    assert result.exit_code == 0, result.stderr
    assert "recovered from the cpu-int8 bundle" in result.stdout.replace("\n", " ")
    starter = Bundle.load("starter")
    checkpoint = Checkpoint.load(Path("mine"))
    assert checkpoint.config == starter.config
    assert checkpoint.about["recovered_from_bundle"] == starter.bundle_id
