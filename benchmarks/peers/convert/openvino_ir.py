"""Encoder, mapper and decoder as OpenVINO models with int8 weights.

    python convert/openvino_ir.py CHECKPOINT HF_FOLDER OUT [--int4]

The decoder is exported by optimum-intel: stateful (the cache lives in the model) and with weights
compressed to int8 by NNCF. Then, as in OpenVINO's own pipelines for vision-language models, its
input becomes embeddings instead of token ids, so that visual tokens can be inserted, and the head
computes the last position only.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import nncf
import numpy as np
import openvino as ov
import torch
from openvino import opset13 as ops

from altogether_rt.artifacts.checkpoint import Checkpoint
from altogether_rt.model._torchvision import make_torchvision_importable


def compressed(module: torch.nn.Module, example: torch.Tensor, shape: list[int]) -> ov.Model:
    """A traced module with int8 weights."""
    model = ov.convert_model(module, example_input=example, input=[shape])
    return nncf.compress_weights(model, mode=nncf.CompressWeightsMode.INT8_SYM)


def export_decoder(folder: Path, out: str) -> None:
    """Export as `optimum-cli export openvino` does, except that weights are compressed later."""
    from optimum.exporters.openvino import main_export
    from optimum.intel import OVConfig

    main_export(
        str(folder),
        out,
        task="text-generation-with-past",
        stateful=True,
        convert_tokenizer=False,
        library_name="transformers",
        ov_config=OVConfig(dtype="fp32"),  # by default, more than 1e9 weights become int8 here
    )


def take_embeddings(model: ov.Model) -> None:
    """Replace the input `input_ids` by `inputs_embeds` (B, S, W) in the model itself."""
    ids = model.input("input_ids").node
    gather = _embedding(ids)
    width = gather.output(0).partial_shape[2]
    embeds = ops.parameter([-1, -1, width.get_length()], np.float32, name="inputs_embeds")
    embeds.output(0).set_names({"inputs_embeds"})
    shape = ops.shape_of(embeds)
    for target in gather.output(0).get_target_inputs():
        if target.get_node() is not shape:
            target.replace_source_output(embeds.output(0))
    # Other consumers of the ids, which need their shape (B, S), take it from the embeddings.
    two = ops.gather(shape, ops.constant(np.array([0, 1])), ops.constant(np.array(0)))
    zeros = ops.broadcast(ops.constant(np.array(0, np.int64)), two)
    for target in ids.output(0).get_target_inputs():
        target.replace_source_output(zeros.output(0))
    model.add_parameters([embeds])
    model.remove_parameter(ids)


def _embedding(ids: ov.Node) -> ov.Node:
    """The embedding look-up that consumes `ids`."""
    nodes = [ids]
    for _ in range(6):
        nodes = [t.get_node() for node in nodes for t in node.output(0).get_target_inputs()]
        for node in nodes:
            rank = node.output(0).partial_shape.rank
            if node.get_type_name() == "Gather" and rank.get_length() == 3:
                return node
    raise SystemExit("no embedding look-up follows input_ids")


def last_position_only(model: ov.Model) -> None:
    """Feed the head the hidden state of the last position only."""
    node = model.output("logits").node.input_value(0).get_node()
    while node.get_type_name() != "MatMul":
        node = node.input_value(0).get_node()
    hidden = node.input_value(0)
    start, stop = ops.constant(np.array([-1])), ops.constant(np.array([np.iinfo(np.int64).max]))
    step, axis = ops.constant(np.array([1])), ops.constant(np.array([1]))
    node.input(0).replace_source_output(ops.slice(hidden, start, stop, step, axis).output(0))
    model.validate_nodes_and_infer_types()


def main() -> None:
    make_torchvision_importable()
    checkpoint, folder, out = Checkpoint.load(Path(sys.argv[1])), Path(sys.argv[2]), sys.argv[3]
    Path(out).mkdir(exist_ok=True)
    size = checkpoint.config.encoder.image_size
    with torch.inference_mode():
        pixels = torch.zeros(2, size, size, 3, dtype=torch.uint8)
        encoder = compressed(checkpoint.encoder(), pixels, [-1, size, size, 3])
        ov.save_model(encoder, f"{out}/encoder.xml", compress_to_fp16=False)
        width = checkpoint.config.encoder.embed_dim
        mapper = checkpoint.captioner(with_encoder=False).mapper
        mapper = compressed(mapper, torch.zeros(2, width), [-1, width])
        ov.save_model(mapper, f"{out}/mapper.xml", compress_to_fp16=False)
    del encoder, mapper
    export_decoder(folder, f"{out}/exported")
    decoder = ov.Core().read_model(f"{out}/exported/openvino_model.xml")
    take_embeddings(decoder)
    last_position_only(decoder)
    if "--int4" in sys.argv[4:]:
        mode = nncf.CompressWeightsMode.INT4_ASYM
        decoder = nncf.compress_weights(decoder, mode=mode, group_size=128, ratio=1.0)
    else:
        decoder = nncf.compress_weights(decoder, mode=nncf.CompressWeightsMode.INT8_SYM)
    ov.save_model(decoder, f"{out}/decoder.xml", compress_to_fp16=False)
    shutil.rmtree(f"{out}/exported")


if __name__ == "__main__":
    main()
