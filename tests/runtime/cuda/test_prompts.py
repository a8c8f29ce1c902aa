"""The graph of new prompts, against the graph of all steps, on onnxruntime's CPU kernels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from altogether_rt.artifacts.bundle import Bundle
from altogether_rt.artifacts.manifest import PROMPTS_NAME
from altogether_rt.errors import ConfigError
from altogether_rt.export.recipes import LoweringNames, find_recipe
from altogether_rt.runtime.base import StepBatch, StepRow
from altogether_rt.runtime.cpu.runtime import OnnxRuntime
from altogether_rt.runtime.cuda.choose_decode import (
    _PROMPT_WARM_UPS,
    _TIMED_PROMPTS,
    choose_decode,
    choose_prompts,
)
from altogether_rt.runtime.cuda.graph import Tensor
from altogether_rt.runtime.cuda.onnx import OrtContext, OrtGraph, onnx_gpu_runtime
from altogether_rt.runtime.ort_session import open_session
from altogether_rt.runtime.packing import pack_indices
from tests.runtime.conftest import BundleOf
from tests.runtime.cuda.fake_cuda import FakeCuda, QueuedSession, as_cuda, graph_model
from tests.runtime.cuda.on_fake import OnFake
from tests.runtime.cuda.test_decode_graph import TARGET, assert_equal_to_half
from tests.runtime.rows import Row, run_step, speak

Answers = dict[str, NDArray[Any]]


def run_graph(bundle: Bundle, name: str, lengths: list[int], chunk: int) -> Answers:
    """Prompts of these lengths, padded to `chunk`, the first two tokens of each visual ones; the
    slots hold what others left there."""
    session = open_session(bundle.graph_path(name), threads=1)
    rng, rows = np.random.default_rng(7), len(lengths)
    query_lengths, past = np.array(lengths, np.int32), np.zeros(rows, np.int32)
    packing = pack_indices(query_lengths, past, min_chunk=chunk)
    tokens, starts = sum(lengths), np.cumsum(lengths) - lengths
    visual = np.sort(np.concatenate([starts, starts[np.array(lengths) > 1] + 1]))
    width = bundle.config.decoder.token_width
    values: dict[str, Any] = {
        "token_ids": rng.integers(3, 90, tokens),
        "positions": packing.positions,
        "visual_tokens": rng.normal(size=(len(visual), width)).astype(np.float32),
        "visual_index": visual,
        "query_lengths": query_lengths,
        "past_lengths": past,
        "longest": np.array([packing.pad_index.shape[1]], np.int32),
        "pad_index": packing.pad_index,
        "unpad_index": packing.unpad_index,
        "logit_index": np.arange(tokens),
    }
    for node in session.get_inputs():
        if node.name.startswith(("past_key", "past_value")):
            values[node.name] = np.full((rows, *node.shape[1:]), 3.0, np.float16)
    names = [output.name for output in session.get_outputs()]
    feeds = {node.name: values[node.name] for node in session.get_inputs()}
    return dict(zip(names, session.run(names, feeds), strict=True))


@pytest.mark.parametrize("family", ["opt", "opt-350m", "gpt2", "llama"])
@pytest.mark.parametrize(
    ("lengths", "chunk"), [([7, 3, 12], 12), ([7, 3, 12], 16), ([1, 1], 1), ([5], 8), ([2, 9], 32)]
)
def test_ragged_prompts(bundle_of: BundleOf, family: str, lengths: list[int], chunk: int) -> None:
    """After every token, and every key and value that is left for the next steps."""
    bundle = bundle_of(family, TARGET)
    wanted, found = (run_graph(bundle, name, lengths, chunk) for name in ("decoder", PROMPTS_NAME))
    assert_equal_to_half(found["logits"], wanted["logits"])
    assert np.array_equal(found["greedy_ids"], found["logits"].argmax(-1))
    for name in wanted.keys() - {"logits", "greedy_ids"}:
        for row, length in enumerate(lengths):
            assert_equal_to_half(
                found[name][row, :, :length].astype(np.float32),
                wanted[name][row, :, :length].astype(np.float32),
            )


@pytest.mark.parametrize("family", ["opt", "llama"])
def test_a_prompt_as_long_as_a_slot(bundle_of: BundleOf, family: str) -> None:
    """Beside a short one, whose padding reaches the end of its slot too."""
    bundle = bundle_of(family, TARGET)
    longest = min(bundle.config.slot_positions, bundle.config.decoder.max_positions)
    wanted, found = (
        run_graph(bundle, name, [longest, 2], bundle.config.slot_positions)
        for name in ("decoder", PROMPTS_NAME)
    )
    assert_equal_to_half(found["logits"], wanted["logits"])


def test_padding_changes_nothing(bundle_of: BundleOf) -> None:
    """Neither of a row's own nor of its neighbour's."""
    bundle = bundle_of("llama", TARGET)
    alone = run_graph(bundle, PROMPTS_NAME, [4], 4)["logits"]
    np.testing.assert_array_equal(run_graph(bundle, PROMPTS_NAME, [4], 16)["logits"], alone)


def test_the_length_that_the_host_reads_is_an_input(bundle_of: BundleOf) -> None:
    """Every layer reads it where it is given: no node computes it, none copies it."""
    bundle = bundle_of("opt", TARGET)
    graph = onnx.load(bundle.graph_path(PROMPTS_NAME), load_external_data=False).graph
    readers = [(node.op_type, list(node.input).index("longest")) for node in graph.node
               if "longest" in node.input]  # fmt: skip
    assert readers == [("GroupQueryAttention", 6)] * bundle.config.decoder.layers
    assert all(len(n.input) <= 9 for n in graph.node if n.op_type == "GroupQueryAttention")


def test_it_is_bound_in_host_memory() -> None:
    bound: dict[str, tuple[Any, ...]] = {}
    binding = SimpleNamespace(
        bind_input=lambda name, *memory: bound.update({name: memory}),
        bind_output=lambda name, *memory: bound.update({name: memory}),
    )
    dtypes = {"token_ids": np.int64, "longest": np.int32, "logits": np.float32}
    context = OrtContext(
        SimpleNamespace(io_binding=lambda: binding), dtypes, ("cuda", 1), graph_id=-1
    )
    inputs = {"token_ids": Tensor(256, (3,)), "longest": Tensor(9, (1,), on_host=True)}
    context.bind(inputs, {"logits": Tensor(512, (3, 5))})
    assert bound == {
        "token_ids": ("cuda", 1, np.int64, (3,), 256),
        "longest": ("cpu", 0, np.int32, (1,), 9),
        "logits": ("cuda", 1, np.float32, (3, 5), 512),
    }


def test_the_recipe_asks_for_it_beside_the_cache_it_shares() -> None:
    assert find_recipe(TARGET).lowering.prompts == "group-query"
    with pytest.raises(ConfigError, match=r"lowering\.prompts needs attention to be scatter"):
        LoweringNames("fp32", "fp32", "group-query", prompts="group-query")


@pytest.mark.parametrize("family", ["opt", "llama"])
def test_the_runtime_gives_it_the_prompts(bundle_of: BundleOf, family: str) -> None:
    """Prompts, decoding, drafts, a moved slot; beside the reference that has one graph."""
    bundle = bundle_of(family, TARGET)
    fake = OnFake(bundle, 4)
    with OnnxRuntime(bundle, threads=1, num_slots=4) as reference:
        found, wanted = (speak(runtime, bundle) for runtime in (fake.runtime, reference))
    for a, b in zip(found, wanted, strict=True):
        assert_equal_to_half(a, b)
    # Prompts; three steps of one token; drafts with a prompt beside them, and drafts again.
    assert fake.runs() == (2, 3, 1)
    fake.close()


def test_prompts_behind_rows_of_one_token(bundle_of: BundleOf) -> None:
    """In one step: each graph takes its rows, and both go on in the slots of the other."""
    bundle = bundle_of("opt", TARGET)
    fake = OnFake(bundle, 6)
    with OnnxRuntime(bundle, threads=1, num_slots=6) as reference:
        answers = []
        for runtime in (fake.runtime, reference):
            rows = [Row() for _ in range(6)]
            found = run_step(runtime, [row.bring([5 + n, 9, 11]) for n, row in enumerate(rows[:3])])
            mixed = [row.bring([20]) for row in rows[:3]]
            mixed += [rows[3].bring(range(30, 39)), rows[4].bring([7]), rows[5].bring([8, 9])]
            found += run_step(runtime, mixed)
            found += run_step(runtime, [row.bring([21]) for row in rows])
            drafts = [row.bring([22, 23]) for row in rows]
            answers.append([*found, *run_step(runtime, drafts)])
    for a, b in zip(*answers, strict=True):
        assert_equal_to_half(a, b)
    assert fake.runs() == (1, 2, 2)
    fake.close()


def test_slots_beyond_the_prompts_keep_what_they_hold(bundle_of: BundleOf) -> None:
    """Three new prompts in the first slots, padded to no fourth row: slot 3 goes on afterwards."""
    bundle = bundle_of("opt", TARGET)
    fake = OnFake(bundle, 4)
    with OnnxRuntime(bundle, threads=1, num_slots=4) as reference:
        answers = []
        for runtime in (fake.runtime, reference):
            rows = [Row() for _ in range(4)]
            run_step(runtime, [row.bring([5 + n, 9, 11, 13]) for n, row in enumerate(rows)])
            for row in rows[:3]:
                row.past = 0
            found = run_step(runtime, [row.bring([30 + n, 8]) for n, row in enumerate(rows[:3])])
            answers.append([*found, *run_step(runtime, [row.bring([20]) for row in rows])])
    for a, b in zip(*answers, strict=True):
        assert_equal_to_half(a, b)
    assert fake.runs() == (0, 1, 2)
    fake.close()


@pytest.mark.parametrize(
    "rows",
    [
        [StepRow([5, 6]), StepRow([7, 8], 3)],  # tokens behind others
        [StepRow([5, 6]), StepRow([], 0, None, 0)],  # an idle row
    ],
)
def test_what_it_does_not_take(bundle_of: BundleOf, rows: list[StepRow]) -> None:
    fake = OnFake(bundle_of("opt", TARGET), 4)
    fake.runtime.step(StepBatch.from_rows([StepRow([9, 9, 9]), StepRow([9, 9, 9])], 64))
    before = fake.runs()
    fake.runtime.step(StepBatch.from_rows(rows, 64))
    assert fake.runs() == (before[0] + 1, *before[1:])
    fake.close()


def ticking(*seconds: float) -> Callable[[], float]:
    """A clock: what is timed takes each of `seconds` for as long as a graph is being tried."""
    times = iter(
        [
            at
            for each in seconds
            for run in range(_PROMPT_WARM_UPS + _TIMED_PROMPTS)
            for at in (100.0 * run, 100.0 * run + each)
        ]
    )
    return lambda: next(times)


@pytest.mark.parametrize(("seconds", "used"), [((0.2, 0.1), True), ((0.1, 0.2), False)])
def test_the_faster_graph_is_used(
    bundle_of: BundleOf, seconds: tuple[float, float], used: bool
) -> None:
    bundle = bundle_of("opt", TARGET)
    fake = OnFake(bundle, 5)
    choice = choose_prompts(fake.runtime, ticking(*seconds))
    wanted = f"{1e3 * seconds[1]:.2f} ms instead of {1e3 * seconds[0]:.2f} for 5 prompts"
    graph = "prompts" if used else "all steps"
    assert str(choice) == f"the graph of {graph} ({wanted})"
    assert fake.runtime.decoder.has_prompts == used
    # Of prompts five runs each; what follows them by the graph of all steps, captured the second
    # time, for which it is run once more.
    assert fake.runs() == (5 + 3, 0, 5)
    assert choose_decode(fake.runtime).kind == "decode steps"
    before = fake.runs()
    answers = run_step(fake.runtime, [Row().bring([5, 6])])  # slots are empty again
    after = fake.runs()
    assert (after[0] - before[0], after[2] - before[2]) == (1 - used, used)
    with OnnxRuntime(bundle, threads=1, num_slots=1) as reference:
        for a, b in zip(answers, run_step(reference, [Row().bring([5, 6])]), strict=True):
            assert_equal_to_half(a, b)
    fake.close()


def spoiled(bundle: Bundle, spoil: Callable[[Any, FakeCuda, Any], None]) -> OnFake:
    """A runtime whose graph of prompts does `spoil(session, cuda, binding)` after each run."""
    fake = OnFake(bundle, 3)
    session = fake.sessions[PROMPTS_NAME]
    run = session.run_with_iobinding

    def run_spoiled(binding: Any, options: Any) -> None:
        run(binding, options)
        fake.cuda.enqueue(session.stream, lambda: spoil(session, fake.cuda, binding))

    session.run_with_iobinding = run_spoiled  # type: ignore[method-assign]
    return fake


def output(cuda: FakeCuda, binding: Any, name: str, session: Any) -> NDArray[np.uint8]:
    names = [node.name for node in session.get_outputs()]
    bound = dict(zip(_bound_names(binding, names), binding.get_outputs(), strict=True))[name]
    return cuda.view(bound.data_ptr(), bound.tensor_size_in_bytes())


def _bound_names(binding: Any, names: list[str]) -> list[str]:
    """In the order of binding: ids and logits first, then the cache."""
    return ["greedy_ids", "logits", *[name for name in names if name.startswith("present_")]]


@pytest.mark.parametrize("value", [0x00, 0xFF])
def test_other_logits_are_noticed(bundle_of: BundleOf, value: int) -> None:
    """All the same, and NaN."""

    def spoil(session: Any, cuda: FakeCuda, binding: Any) -> None:
        output(cuda, binding, "logits", session)[:] = value

    fake = spoiled(bundle_of("opt", TARGET), spoil)
    choice = choose_prompts(fake.runtime, ticking(0.2, 0.1))
    assert not choice.used and choice.reason.startswith("the other disagrees: cosine ")
    assert not fake.runtime.decoder.has_prompts
    fake.close()


def test_keys_that_the_next_step_cannot_use_are_noticed(bundle_of: BundleOf) -> None:
    """The prompts' own logits are right, but their keys are elsewhere in the slot."""

    def spoil(session: Any, cuda: FakeCuda, binding: Any) -> None:
        for layer in (0, 1):
            held = output(cuda, binding, f"present_key.{layer}", session).view(np.float16)
            held[:] = np.roll(held, 16)

    fake = spoiled(bundle_of("opt", TARGET), spoil)
    choice = choose_prompts(fake.runtime, ticking(0.2, 0.1))
    assert not choice.used and choice.reason.startswith("the other disagrees: cosine ")
    fake.close()


def test_a_graph_that_fails_is_not_used(bundle_of: BundleOf) -> None:
    fake = OnFake(bundle_of("opt", TARGET), 2)

    def fail(binding: Any, options: Any) -> None:
        raise RuntimeError("no kernel image is available\nmore")

    fake.sessions[PROMPTS_NAME].run_with_iobinding = fail  # type: ignore[method-assign]
    choice = choose_prompts(fake.runtime)
    assert str(choice) == "the graph of all steps (the other fails: no kernel image is available)"
    assert fake.runtime.decoder.use_decode
    run_step(fake.runtime, [Row().bring([5, 6])])
    fake.close()


def test_without_it_prompts_run_as_before(bundle_of: BundleOf) -> None:
    """A version of onnxruntime that does not load it, and weights that are not shared."""
    bundle = bundle_of("opt", TARGET)
    fake = OnFake(bundle, 4, refused=(PROMPTS_NAME,))
    assert str(choose_prompts(fake.runtime)) == (
        "the graph of all steps (there is no other that this software takes)"
    )
    speak(fake.runtime, bundle)
    assert fake.runs()[2] == 0
    fake.close()
    names = []

    def load(name: str, stream: int) -> OrtGraph:
        names.append(name)
        return OrtGraph(QueuedSession(cuda, graph_model(bundle, name), stream), kind="cpu")

    cuda = FakeCuda()
    with onnx_gpu_runtime(bundle, as_cuda(cuda), load, num_slots=4):
        assert names == ["encoder", "mapper", "decoder", "decode", "likeliest"]
    cuda.finish()


@pytest.mark.parametrize("family", ["opt", "llama"])
def test_parity_is_that_of_the_worse_graph(bundle_of: BundleOf, family: str) -> None:
    """Figures of the decoder's graph, of that of prompts, and of decode steps behind them."""
    from altogether_rt.export.step_graphs import with_step_graphs
    from altogether_rt.export.verify import compare, record
    from altogether_rt.runtime.torch.runtime import TorchRuntime
    from tests.tiny import tiny_config, tiny_model, tiny_samples

    bundle = bundle_of(family, TARGET)
    with TorchRuntime(tiny_model(tiny_config(family)), num_slots=3) as torch_runtime:
        recording = record(torch_runtime, tiny_samples().first(3))
    with OnnxRuntime(bundle, threads=1, num_slots=3) as runtime:
        alone = compare(recording, runtime)
    both = with_step_graphs(recording, bundle, alone)
    assert set(both) == {"encoder", "mapper", "prefill", "step"}
    assert both["encoder"] == alone["encoder"] and both["mapper"] == alone["mapper"]
    for stage in ("prefill", "step"):
        assert both[stage].rows == alone[stage].rows
        assert 0.9999 < both[stage].worst_cosine <= alone[stage].worst_cosine
        assert both[stage].kl >= alone[stage].kl  # type: ignore[operator]
    # Another decoder's graphs beside this one's: their figures count.
    other = bundle_of("gpt2" if family == "opt" else "opt", TARGET)
    graphs = {**bundle.manifest.graphs}
    mixed = SimpleNamespace(
        manifest=SimpleNamespace(graphs=graphs),
        graph_path=lambda name: (other if name == PROMPTS_NAME else bundle).graph_path(name),
    )
    if family == "opt":
        spoilt = with_step_graphs(recording, mixed, alone)  # type: ignore[arg-type]
        assert spoilt["prefill"].worst_cosine < 0.9
        assert spoilt["step"].worst_cosine < 0.999
    without = {n: g for n, g in graphs.items() if n != PROMPTS_NAME}
    plain = Bundle(bundle.path, replace(bundle.manifest, graphs=without))
    assert with_step_graphs(recording, plain, alone) == alone


def test_worse_figures() -> None:
    from altogether_rt.export.step_graphs import worse_of
    from altogether_rt.export.verify import Agreement

    first = Agreement(0.9, 0.8, 0.1, 5.0, 7, greedy=1.0, kl=0.2, worst_kl=0.5, nll=1.0)
    second = Agreement(0.8, 0.85, 0.2, 6.0, 7, greedy=0.9, kl=0.1, worst_kl=0.6, nll=1.0)
    assert worse_of(first, second) == Agreement(
        0.8, 0.8, 0.2, 5.0, 7, greedy=0.9, kl=0.2, worst_kl=0.6, nll=1.0
    )
    unknown = replace(second, mean_cosine=float("nan"), kl=float("nan"))
    assert np.isnan(worse_of(first, unknown).mean_cosine)
    assert np.isnan(worse_of(unknown, first).kl)  # type: ignore[arg-type]
