"""The graph of decode steps against the graph of all steps, on onnxruntime's CPU kernels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from altogether_rt.artifacts.bundle import Bundle
from altogether_rt.artifacts.manifest import DECODE_NAME
from altogether_rt.config import DecoderConfig
from altogether_rt.errors import ConfigError
from altogether_rt.export.lowering.decode_attention import DecodeAttention
from altogether_rt.export.recipes import LoweringNames, find_recipe
from altogether_rt.export.weights import WeightsFile
from altogether_rt.runtime.base import StepBatch, StepRow
from altogether_rt.runtime.cpu.runtime import OnnxRuntime
from altogether_rt.runtime.ort_session import open_session
from tests.runtime.conftest import BundleOf
from tests.tiny import VOCAB_SIZE, tiny_config

TARGET = "cuda-fp16"


class DecodeGraph:
    """The second graph in a session, on a cache in NumPy arrays that it updates."""

    def __init__(self, bundle: Bundle, slots: int) -> None:
        self.session = open_session(bundle.graph_path(DECODE_NAME), threads=1)
        cache = bundle.manifest.cache
        shape = (slots, cache.kv_heads, bundle.config.slot_positions, cache.head_dim)
        self.cache = {
            f"{kind}.{layer}": np.zeros(shape, np.float16)
            for layer in range(cache.layers)
            for kind in ("key", "value")
        }

    def step(self, token_ids: list[int], past: list[int]) -> NDArray[np.float32]:
        rows = len(token_ids)
        feeds: dict[str, Any] = {f"past_{n}": array[:rows] for n, array in self.cache.items()}
        feeds |= {"token_ids": np.array(token_ids), "past_lengths": np.array(past, np.int32)}
        names = [output.name for output in self.session.get_outputs()]
        answers = dict(zip(names, self.session.run(names, feeds), strict=True))
        for name, array in self.cache.items():
            array[:rows] = answers[f"present_{name}"]
        assert np.array_equal(answers["greedy_ids"], answers["logits"].argmax(-1))
        logits: NDArray[np.float32] = answers["logits"]
        return logits


def decoded(runtime: OnnxRuntime, token_ids: list[int], past: list[int]) -> NDArray[np.float32]:
    rows = [StepRow([token], length) for token, length in zip(token_ids, past, strict=True)]
    logits = runtime.step(StepBatch.from_rows(rows, runtime.token_width), want_logits=True).logits
    assert logits is not None
    return logits


def assert_equal_to_half(found: NDArray[np.float32], wanted: NDArray[np.float32]) -> None:
    """Within what float16 rounds between two orders of the same sums."""
    np.testing.assert_allclose(found, wanted, atol=4e-3 * np.abs(wanted).max())


@pytest.mark.parametrize("family", ["opt", "opt-350m", "gpt2", "llama"])
def test_ragged_rows_and_empty_slots(bundle_of: BundleOf, family: str) -> None:
    """Three rows of unlike lengths, one of them with an empty slot, several steps."""
    bundle = bundle_of(family, TARGET)
    graph = DecodeGraph(bundle, 3)
    rng = np.random.default_rng(3)
    with OnnxRuntime(bundle, threads=1, num_slots=3) as reference:
        past = [5, 0, 9]
        for length in range(9):  # both fill their slots token by token, row 1 stays empty
            ids = rng.integers(3, VOCAB_SIZE, 3).tolist()
            at = [min(length, 4), 0, length]
            assert_equal_to_half(graph.step(ids, at), decoded(reference, ids, at))
        for step in range(4):
            ids = rng.integers(3, VOCAB_SIZE, 3).tolist()
            at = [length + step for length in past]
            found, wanted = graph.step(ids, at), decoded(reference, ids, at)
            assert_equal_to_half(found, wanted)
            assert (found.argmax(-1) == wanted.argmax(-1)).all()


@pytest.mark.parametrize("family", ["opt", "llama"])
def test_the_edge_of_a_slot(bundle_of: BundleOf, family: str) -> None:
    """The last token that a slot takes, beside a row at its beginning."""
    bundle = bundle_of(family, TARGET)
    capacity = bundle.config.capacity
    graph, rng = DecodeGraph(bundle, 2), np.random.default_rng(4)
    with OnnxRuntime(bundle, threads=1, num_slots=2) as reference:
        for length in range(capacity):
            ids = rng.integers(3, VOCAB_SIZE, 2).tolist()
            found, wanted = graph.step(ids, [length, 0]), decoded(reference, ids, [length, 0])
        assert_equal_to_half(found, wanted)


def test_what_other_rows_hold_changes_nothing(bundle_of: BundleOf) -> None:
    """Tokens beyond a row's length, of a rejected draft for example, are not attended to."""
    bundle = bundle_of("llama", TARGET)
    clean, used = DecodeGraph(bundle, 2), DecodeGraph(bundle, 2)
    for array in used.cache.values():
        array[:] = 7.0
    for length in range(3):
        for graph in (clean, used):
            found = graph.step([5 + length, 9], [length, length])
    np.testing.assert_array_equal(found, used.step([7, 9], [2, 2]))
    np.testing.assert_array_equal(clean.step([7, 9], [2, 2]), used.step([7, 9], [2, 2]))


def test_both_graphs_read_the_same_bytes(bundle_of: BundleOf) -> None:
    """One file of weights, each of the decoder's in it once."""
    bundle = bundle_of("llama", TARGET)

    def external(name: str) -> dict[str, tuple[str, ...]]:
        graph = onnx.load(bundle.graph_path(name), load_external_data=False).graph
        return {
            tensor.name: tuple(entry.value for entry in tensor.external_data)
            for tensor in graph.initializer
            if tensor.external_data
        }

    decode, decoder = external(DECODE_NAME), external("decoder")
    shared = {name for name in decode if name.startswith("decoder.")}
    assert len(shared) > 8
    assert all(decode[name] == decoder[name] for name in shared)
    assert {name for name in decode if name not in shared} <= {
        "decode.rotary_cos",
        "decode.rotary_sin",
    }


def test_the_length_that_the_host_reads_is_a_constant(bundle_of: BundleOf) -> None:
    """Computed on the GPU it would be copied back in every layer of every step."""
    bundle = bundle_of("opt", TARGET)
    graph = onnx.load(bundle.graph_path(DECODE_NAME), load_external_data=False).graph
    constants = {
        tensor.name: onnx.numpy_helper.to_array(tensor)
        for tensor in graph.initializer
        if not tensor.external_data
    }
    nodes = [node for node in graph.node if node.op_type == "GroupQueryAttention"]
    assert len(nodes) == bundle.config.decoder.layers
    for node in nodes:
        assert constants[node.input[6]].tolist() == [bundle.config.slot_positions]
        assert len(node.input) <= 9  # no query_seqlens, which CUDA does not have


def test_a_tensor_is_written_once(tmp_path: Path) -> None:
    array = np.arange(1024, dtype=np.float32)
    with WeightsFile(tmp_path / "w", shared="decoder.") as file:
        first = file.tensor("decoder.a", array)
        assert file.tensor("decoder.a", array) == first
        file.tensor("mapper.a", array)
        file.tensor("mapper.a", array)
        with pytest.raises(AssertionError, match=r"decoder\.a"):
            file.tensor("decoder.a", array[:512])
    assert (tmp_path / "w").stat().st_size == 3 * array.nbytes


def test_decoders_that_the_kernel_does_not_take() -> None:
    def of(head_dim: int, family: str) -> DecoderConfig:
        config = tiny_config(family).decoder
        return type(config)(**{**vars(config), "width": head_dim * config.heads})

    attention = DecodeAttention()
    assert attention.supports(of(24, "opt"))
    assert not attention.supports(of(24, "llama"))
    assert not attention.supports(of(264, "opt"))


def test_the_recipe_asks_for_it_beside_the_cache_it_shares() -> None:
    names = find_recipe(TARGET).lowering
    assert names.decode == "group-query"
    with pytest.raises(ConfigError, match=r"lowering\.decode needs attention to be scatter"):
        LoweringNames("fp32", "fp32", "group-query", decode="group-query")
