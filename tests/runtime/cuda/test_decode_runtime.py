"""The graph of decode steps in the runtime, on the stand-in for CUDA."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from altogether_rt.artifacts.bundle import Bundle
from altogether_rt.artifacts.manifest import DECODE_NAME
from altogether_rt.runtime.base import StepBatch
from altogether_rt.runtime.cpu.runtime import OnnxRuntime
from altogether_rt.runtime.cuda.choose_decode import _TIMED, _WARM_UPS, choose_decode
from altogether_rt.runtime.cuda.memory_plan import input_layout
from altogether_rt.runtime.cuda.step_sizes import PlannedCall
from altogether_rt.runtime.ort_session import open_session
from tests.runtime.conftest import BundleOf
from tests.runtime.cuda.on_fake import OnFake
from tests.runtime.cuda.test_decode_graph import TARGET, assert_equal_to_half
from tests.runtime.rows import Row, run_step, speak
from tests.tiny import VOCAB_SIZE


@pytest.mark.parametrize("family", ["opt", "llama"])
def test_the_runtime_gives_it_the_steps_that_it_takes(bundle_of: BundleOf, family: str) -> None:
    """Prompts, decoding, drafts, a moved slot; beside the reference that has one graph."""
    bundle = bundle_of(family, TARGET)
    fake = OnFake(bundle, 4, share=False)
    with OnnxRuntime(bundle, threads=1, num_slots=4) as reference:
        found, wanted = (speak(runtime, bundle) for runtime in (fake.runtime, reference))
    for a, b in zip(found, wanted, strict=True):
        assert_equal_to_half(a, b)
    # Of six steps, the three of one token a row; prompts, drafts and mixtures go the other way.
    assert fake.runs() == (3, 3, 0)
    fake.close()


def test_another_thread_makes_the_gpu_current_first(bundle_of: BundleOf) -> None:
    fake = OnFake(bundle_of("opt", TARGET), 4, share=False)
    fake.cuda.threads.clear()
    with ThreadPoolExecutor(1) as other:
        other.submit(fake.runtime.use_here).result()
    (thread,) = fake.cuda.threads
    assert thread != threading.get_ident()
    fake.close()


def test_rows_that_pad_a_step_leave_other_slots_alone(bundle_of: BundleOf) -> None:
    """Three rows run as four: the fourth slot holds a sequence that goes on afterwards."""
    bundle = bundle_of("opt", TARGET)
    fake = OnFake(bundle, 4, share=False)
    with OnnxRuntime(bundle, threads=1, num_slots=4) as reference:
        answers = []
        for runtime in (fake.runtime, reference):
            rows = [Row() for _ in range(4)]
            run_step(runtime, [row.bring([5 + n, 9, 11]) for n, row in enumerate(rows)])
            for token in (10, 12):
                run_step(runtime, [row.bring([token]) for row in rows[:3]])
            answers.append(run_step(runtime, [row.bring([20]) for row in rows]))
            ids = run_step(runtime, [row.bring([21]) for row in rows], want_logits=False)
            answers[-1] += ids
    for a, b in zip(*answers, strict=True):
        assert_equal_to_half(a, b)
    fake.close()


def test_prompts_are_divided_from_the_rows_beside_them(bundle_of: BundleOf) -> None:
    """Padded to the longest prompt, rows of one token would be computed as many times over."""
    bundle = bundle_of("opt", TARGET)
    fake = OnFake(bundle, 6, share=False)
    calls: list[tuple[int, ...]] = []
    run = fake.runtime.decoder._run

    def noted(batch: StepBatch, call: PlannedCall) -> None:
        calls.append((call.first, call.last, call.bucket.rows, call.bucket.chunk))
        run(batch, call)

    fake.runtime.decoder._run = noted  # type: ignore[method-assign]
    with OnnxRuntime(bundle, threads=1, num_slots=6) as reference:
        answers = []
        for runtime in (fake.runtime, reference):
            rows = [Row() for _ in range(6)]
            found = run_step(runtime, [row.bring([5 + n, 9, 11]) for n, row in enumerate(rows[:3])])
            mixed = [row.bring([20]) for row in rows[:3]]
            mixed += [rows[3].bring(range(30, 39)), rows[4].bring([7]), rows[5].bring([8, 9])]
            found += run_step(runtime, mixed)
            found += run_step(runtime, [row.bring([21]) for row in rows])
            drafts = [
                rows[0].bring([22]),
                rows[1].bring([23, 24]),
                *([row.bring([25]) for row in rows[2:]]),
            ]
            found += run_step(runtime, drafts)
            ids = [rows[0].bring([26]), rows[1].bring([27]), Row().bring([28, 29])]
            answers.append([*found, *run_step(runtime, ids, want_logits=False)])
    for a, b in zip(*answers, strict=True):
        assert_equal_to_half(a, b)
    # Prompts; those of three rows beside three; drafts with the rows beside them; one prompt.
    assert calls == [(0, 3, 4, 4), (3, 6, 3, 16), (0, 6, 6, 2), (2, 3, 1, 2)]
    assert fake.runs() == (4, 3, 0)
    fake.close()


def test_visual_tokens_are_padded_with_zeros(bundle_of: BundleOf) -> None:
    """In pinned memory that holds NaN; a later step with fewer of them leaves none behind."""
    bundle = bundle_of("opt", TARGET)
    fake = OnFake(bundle, 4, share=False)
    decoder = fake.runtime.decoder
    rng, width = np.random.default_rng(5), fake.runtime.token_width
    decoder._host_inputs.array[:] = 0xFF
    for rows, num_tokens, padded in ((3, 4, 16), (1, 3, 4)):
        visual = rng.normal(size=(rows, num_tokens, width)).astype(np.float32)
        run_step(fake.runtime, [Row().bring([5, 6], visual[row]) for row in range(rows)])
        (bucket,) = (key[2] for key in decoder._bound.values())
        assert bucket.visual == padded
        region = input_layout(decoder._specs, bucket)["visual_tokens"]
        held = decoder._host_inputs.array[region.offset :][: region.nbytes].view(np.float32)
        wanted = np.zeros((padded, width), np.float32)
        wanted[: rows * num_tokens] = visual.reshape(-1, width)
        assert np.array_equal(held.reshape(padded, width), wanted)
    fake.close()


def test_no_more_logits_are_held_on_the_host_than_were_asked_for(bundle_of: BundleOf) -> None:
    """For all drafts of 256 slots of a published size they would be 0.8 GB."""
    bundle = bundle_of("opt", TARGET)
    fake = OnFake(bundle, 4, share=False)
    for lengths in ((2, 1), (3, 5), (1, 2)):
        run_step(fake.runtime, [Row().bring(range(5, 5 + length)) for length in lengths])
        held = fake.runtime.decoder.reader._host
        assert held is not None and held.nbytes == 4 * VOCAB_SIZE * (8 if lengths != (2, 1) else 3)
    fake.close()


def ticking(*seconds: float) -> Callable[[], float]:
    """A clock: what is timed takes each of `seconds` for as long as a graph is being tried."""
    times = iter(
        [
            at
            for each in seconds
            for run in range(_WARM_UPS + _TIMED)
            for at in (100.0 * run, 100.0 * run + each)
        ]
    )
    return lambda: next(times)


def test_the_faster_graph_is_used(bundle_of: BundleOf) -> None:
    bundle = bundle_of("opt", TARGET)
    for seconds, used in (((0.004, 0.002), True), ((0.002, 0.004), False)):
        fake = OnFake(bundle, 5, share=False)
        choice = choose_decode(fake.runtime, ticking(*seconds))
        assert choice.used == used == fake.runtime.decoder.has_decode
        wanted = f"{1e3 * seconds[1]:.2f} ms instead of {1e3 * seconds[0]:.2f} for 5 rows"
        assert choice.reason == wanted
        before = fake.runs()
        rows = [Row()]
        answers = run_step(fake.runtime, [rows[0].bring([5, 6])])  # slots are empty again
        answers += run_step(fake.runtime, [rows[0].bring([7])])
        assert fake.runs() == (before[0] + 2 - used, before[1] + used, 0)
        with OnnxRuntime(bundle, threads=1, num_slots=1) as reference:
            row = Row()
            first = run_step(reference, [row.bring([5, 6])])
            for a, b in zip(answers, first + run_step(reference, [row.bring([7])]), strict=True):
                assert_equal_to_half(a, b)
        fake.close()


def test_a_graph_that_disagrees_is_not_used(bundle_of: BundleOf) -> None:
    """The other one's steps are those of a decoder with other weights."""
    bundle = bundle_of("opt", TARGET)
    fake = OnFake(bundle, 3, share=False)
    decode = fake.sessions[DECODE_NAME]
    other = open_session(bundle_of("gpt2", TARGET).graph_path(DECODE_NAME), threads=1)
    decode.session = SimpleNamespace(
        io_binding=other.io_binding, run_with_iobinding=other.run_with_iobinding
    )
    choice = choose_decode(fake.runtime, ticking(0.004, 0.002))
    assert not choice.used and choice.reason.startswith("the other disagrees: cosine ")
    assert not fake.runtime.decoder.has_decode
    fake.close()


def test_a_graph_that_fails_is_not_used(bundle_of: BundleOf) -> None:
    bundle = bundle_of("opt", TARGET)
    fake = OnFake(bundle, 2, share=False)

    def fail(binding: Any, options: Any) -> None:
        raise RuntimeError("no kernel image is available\nmore")

    fake.sessions[DECODE_NAME].run_with_iobinding = fail  # type: ignore[method-assign]
    choice = choose_decode(fake.runtime)
    assert str(choice) == "the graph of all steps (the other fails: no kernel image is available)"
    row = Row()
    run_step(fake.runtime, [row.bring([5, 6])])
    run_step(fake.runtime, [row.bring([7])])
    fake.close()


def test_without_it_everything_runs_as_before(bundle_of: BundleOf) -> None:
    """A version of onnxruntime that does not load it, and a bundle that has none."""
    bundle = bundle_of("opt", TARGET)
    without = {n: g for n, g in bundle.manifest.graphs.items() if n != DECODE_NAME}
    older = Bundle(bundle.path, replace(bundle.manifest, graphs=without))
    for fake in (OnFake(bundle, 4, refused=(DECODE_NAME,)), OnFake(older, 4, share=False)):
        assert not choose_decode(fake.runtime).used
        with OnnxRuntime(bundle, threads=1, num_slots=4) as reference:
            answers = [speak(runtime, bundle) for runtime in (fake.runtime, reference)]
        for a, b in zip(*answers, strict=True):
            assert_equal_to_half(a, b)
        assert fake.runs()[1] == 0
        fake.close()
