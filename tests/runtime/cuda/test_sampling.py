"""Tokens drawn from what the device finds: the draws of the host, and no logits on the way."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray

from altogether_rt.generation.engine import Engine, SequenceRequest
from altogether_rt.generation.sampling import sample_top_p
from altogether_rt.runtime.ahead import AheadRuntime
from altogether_rt.runtime.base import UNDECIDED, Runtime, Sampling, StepBatch, StepResult, StepRow
from altogether_rt.runtime.cuda.choose_decode import choose_draws, choose_graphs
from altogether_rt.runtime.cuda.sampling import candidates as candidates_module
from altogether_rt.runtime.cuda.sampling.candidates import LIKELIEST_NAME, candidates_model
from altogether_rt.runtime.cuda.sampling.draw import Likeliest, draw
from altogether_rt.runtime.cuda.sampling.reader import joined_results
from altogether_rt.runtime.tiny_onnx import likeliest_model
from tests.runtime.conftest import BundleOf
from tests.runtime.cuda.on_fake import OnFake
from tests.runtime.cuda.test_decode_graph import TARGET
from tests.runtime.cuda.test_real_onnxruntime import WHEEL, on_wheel
from tests.tiny import VOCAB_SIZE

Logits = NDArray[np.float32]


def likeliest_of(logits: Logits, temperatures: NDArray[np.float64], count: int) -> Likeliest:
    """By NumPy, in an order that means nothing."""
    ids = np.argpartition(-logits, count - 1, axis=-1)[:, :count]
    below = logits.astype(np.float64) - logits.max(-1, keepdims=True)
    totals = np.exp(below / np.where(temperatures > 0, temperatures, 1)[:, None]).sum(-1)
    return Likeliest(np.take_along_axis(logits, ids, -1), ids.astype(np.int64), totals)


def drawn_by_host(logits: Logits, sampling: Sampling) -> list[int]:
    given = zip(logits, sampling.uniforms, sampling.temperatures, sampling.top_ps, strict=True)
    return [
        sample_top_p(row, uniform, temperature, top_p) if temperature > 0 else int(row.argmax())
        for row, uniform, temperature, top_p in given
    ]


def some_sampling(rng: np.random.Generator, rows: int) -> Sampling:
    return Sampling(
        rng.random(rows), rng.choice([0.0, 0.2, 0.7, 1.0, 2.0], rows), rng.uniform(0.01, 1, rows)
    )


@pytest.mark.parametrize("count", [8, 64, 200])
@pytest.mark.parametrize("rounded", [False, True])
def test_what_is_decided_is_what_the_host_draws(count: int, rounded: bool) -> None:
    """Of 200 tokens; rounded, many of them are equally likely."""
    rng = np.random.default_rng(count)
    drawn = rng.normal(size=(2000, 200)) * rng.uniform(0.1, 6, (2000, 1))
    logits: Logits = (np.round(drawn * 2) / 2 if rounded else drawn).astype(np.float32)
    sampling = some_sampling(rng, len(logits))
    found = likeliest_of(logits, sampling.temperatures, count)
    ids = draw(found, sampling, logits.argmax(-1), 200)
    decided = ids != UNDECIDED
    wanted = np.array(drawn_by_host(logits, sampling), np.int64)
    assert (ids[decided] == wanted[decided]).all()
    assert decided[sampling.temperatures == 0].all()
    # In all rows where every token is a candidate; else in those whose candidates suffice.
    assert decided.all() if count == 200 else 0.3 < decided.mean() < 0.999


def test_a_number_on_the_boundary() -> None:
    """Two tokens of one half each: a half belongs to the second, as on the host."""
    logits = np.full((3, 4), -1000.0, np.float32)
    logits[:, 1:3] = 2.0
    sampling = Sampling(np.array([0.25, 0.5, 0.75]), np.ones(3), np.ones(3))
    found = likeliest_of(logits, np.ones(3), 4)
    assert draw(found, sampling, np.zeros(3, np.int64), 4).tolist() == [1, 2, 2]
    assert drawn_by_host(logits, sampling) == [1, 2, 2]


def test_where_candidates_are_not_enough() -> None:
    """Top_p beyond them; a tie that goes on behind the last; no numbers."""
    logits = np.zeros((4, 10), np.float32)
    logits[:, 7] = 3.0
    logits[3, 2] = np.nan
    sampling = Sampling(np.full(4, 0.99), np.ones(4), np.array([0.5, 0.9999, 0.75, 0.5]))
    temperatures = np.ones(4)
    found = likeliest_of(logits, temperatures, 4)
    found.values[3], found.ids[3] = np.nan, [2, 7, 0, 1]
    # 7 alone has a weight of exp(3) / (exp(3) + 9) = 0.69.
    assert draw(found, sampling, np.full(4, 5), 10).tolist() == [
        7,
        UNDECIDED,
        UNDECIDED,
        UNDECIDED,
    ]
    assert draw(found, replace(sampling, temperatures=np.zeros(4)), np.full(4, 5), 10).tolist() == [
        5,
        5,
        5,
        5,
    ]


@pytest.mark.parametrize(("vocab", "count"), [(97, 8), (97, 97), (3000, 256)])
def test_the_graph_finds_what_numpy_finds(vocab: int, count: int) -> None:
    rng = np.random.default_rng(vocab)
    logits = (4 * rng.normal(size=(5, vocab))).astype(np.float32)
    temperatures = rng.uniform(0.1, 2, 5)
    model = likeliest_model(vocab, count)
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    values, ids, totals = session.run(
        ["values", "ids", "totals"], {"logits": logits, "temperatures": temperatures[:, None]}
    )
    wanted = likeliest_of(logits, temperatures, count)
    np.testing.assert_array_equal(values, -np.sort(-wanted.values, axis=-1))
    np.testing.assert_array_equal(np.take_along_axis(logits, ids, -1), values)
    np.testing.assert_allclose(totals, wanted.totals, rtol=1e-13)


def test_the_graph_is_one_of_the_standard(tmp_path: Any) -> None:
    import onnx

    model = onnx.load_from_string(candidates_model(50272))
    onnx.checker.check_model(model, full_check=True)
    assert [node.op_type for node in model.graph.node].count("TopK") == 1


def test_the_build_for_cuda_reads_the_graph() -> None:
    if not (WHEEL / "onnxruntime").is_dir():
        pytest.skip("onnxruntime-gpu is not installed: run tests/runtime/cuda/install.sh")
    code = """
import onnxruntime
from altogether_rt.runtime.cuda.sampling.candidates import candidates_model

session = onnxruntime.InferenceSession(candidates_model(300), providers=["CPUExecutionProvider"])
print(*(f"{node.name} {node.shape}" for node in session.get_outputs()), sep=", ")
"""
    done = on_wheel(code)
    assert done.stdout.strip() == "values ['M', 256], ids ['M', 256], totals ['M']", done.stderr


def sampled_steps(runtime: Runtime, host: bool) -> list[StepResult]:
    """Prompts; tokens behind them; both; drafts with two choices each. host: draws all itself."""
    rng, width = np.random.default_rng(5), runtime.token_width
    steps = [
        [StepRow([5, 6]), StepRow([7, 8, 9])],
        [StepRow([10], 2), StepRow([11], 3)],
        [StepRow([12], 3), StepRow([13], 4), StepRow([14, 15, 16])],
        [StepRow([17, 18], 4, None, 2), StepRow([19, 20], 5, None, 2), StepRow([21], 3)],
    ]
    results = []
    for rows in steps:
        sampling = some_sampling(rng, sum(row.num_choices for row in rows))
        batch = StepBatch.from_rows(rows, width, None if host else sampling)
        result = runtime.step(batch, want_logits=True)
        if host:
            assert result.logits is not None
            ids = drawn_by_host(result.logits, sampling)
            result = replace(result, sampled_ids=np.array(ids))
        results.append(result)
    return results


def test_steps_bring_ids_and_no_logits(bundle_of: BundleOf) -> None:
    """Those that the host draws from the logits of the same steps; by every graph of the decoder.

    All of the tiny vocabulary are candidates.
    """
    bundle = bundle_of("opt", TARGET)
    fake, plain = OnFake(bundle, 4), OnFake(bundle, 4, refused=(LIKELIEST_NAME,))
    found, wanted = sampled_steps(fake.runtime, False), sampled_steps(plain.runtime, True)
    for result, expected in zip(found, wanted, strict=True):
        assert result.logits is None
        assert result.sampled_ids is not None and expected.sampled_ids is not None
        np.testing.assert_array_equal(result.sampled_ids, expected.sampled_ids)
        np.testing.assert_array_equal(result.greedy_ids, expected.greedy_ids)
    assert fake.runtime.decoder.reader.nbytes == 0
    # Without sampling logits are logits, and without logits there are none.
    batch = StepBatch.from_rows([StepRow([5])], fake.runtime.token_width)
    assert fake.runtime.step(batch, want_logits=True).logits is not None
    assert fake.runtime.step(batch).logits is None
    for each in (fake, plain):
        each.close()


@pytest.mark.parametrize("wide_bytes", [1, 2 * 8 * VOCAB_SIZE, 64 << 20])
def test_undecided_tokens_come_with_their_logits(
    bundle_of: BundleOf, monkeypatch: pytest.MonkeyPatch, wide_bytes: int
) -> None:
    """Of six candidates; other rows are zero. Runs of one row, of two and of all."""
    monkeypatch.setattr(candidates_module, "_MAX_CANDIDATES", 6)
    monkeypatch.setattr(candidates_module, "_WIDE_BYTES", wide_bytes)
    bundle = bundle_of("llama", TARGET)
    fake, plain = OnFake(bundle, 4), OnFake(bundle, 4, refused=(LIKELIEST_NAME,))
    undecided = 0
    for result, expected in zip(
        sampled_steps(fake.runtime, False), sampled_steps(plain.runtime, True), strict=True
    ):
        assert result.sampled_ids is not None and expected.sampled_ids is not None
        open_rows = result.sampled_ids == UNDECIDED
        undecided += open_rows.sum()
        decided = ~open_rows
        assert (result.sampled_ids[decided] == expected.sampled_ids[decided]).all()
        if open_rows.any():
            assert result.logits is not None and expected.logits is not None
            np.testing.assert_array_equal(result.logits[open_rows], expected.logits[open_rows])
            assert not result.logits[decided].any()
    assert 0 < undecided < 14
    for each in (fake, plain):
        each.close()


def test_results_of_calls_are_put_in_order() -> None:
    first = StepResult(np.array([10, 12]), None, np.array([20, 22]))
    second = StepResult(np.array([11]), np.array([[1.0, 2.0]], np.float32), np.array([UNDECIDED]))
    joined = joined_results([first, second], np.array([0, 2, 1]))
    assert joined.greedy_ids.tolist() == [10, 11, 12]
    assert joined.sampled_ids is not None and joined.sampled_ids.tolist() == [20, UNDECIDED, 22]
    assert joined.logits is not None and joined.logits.tolist() == [[0, 0], [1, 2], [0, 0]]
    plain = [StepResult(np.array([1])), StepResult(np.array([2]))]
    assert joined_results(plain, np.array([0, 1])).sampled_ids is None


def test_captions_are_those_of_the_host(bundle_of: BundleOf) -> None:
    """Drawn on the device, steps are begun ahead of the tokens that are drawn."""
    bundle = bundle_of("opt", TARGET)
    rng = np.random.default_rng(8)
    requests = [
        SequenceRequest(
            key=key,
            visual_tokens=rng.normal(size=(4, 64)).astype(np.float32),
            prompt_ids=rng.integers(3, VOCAB_SIZE, rng.integers(1, 5)).tolist(),
            max_new_tokens=int(rng.integers(1, 12)),
            seed=key,
            temperature=float(rng.choice([0.0, 0.2, 1.0])),
            top_p=0.7,
        )
        for key in range(10)
    ]
    texts = []
    for refused in ((), (LIKELIEST_NAME,)):
        fakes: list[OnFake] = []

        def open_it(refused: tuple[str, ...] = refused, fakes: list[OnFake] = fakes) -> Runtime:
            fakes.append(OnFake(bundle, 3, refused))
            return fakes[0].runtime

        with AheadRuntime(open_it) as runtime:
            engine = Engine(runtime, 2, speculation="off")
            done = sorted(engine.run(requests), key=lambda each: each.key)
            texts.append([each.ids for each in done])
        held = fakes[0].runtime
        assert held.num_slots == 3
        fakes[0].cuda.finish()
    assert texts[0] == texts[1]
    assert len({tuple(ids) for ids in texts[0]}) > 5


def test_what_the_device_finds_is_compared_with_the_host(bundle_of: BundleOf) -> None:
    bundle = bundle_of("opt", TARGET)
    fake = OnFake(bundle, 5)
    choice = choose_graphs(fake.runtime)[2]
    count = VOCAB_SIZE
    assert str(choice) == f"the graph of likeliest tokens ({count} of {count}, as on the host)"
    assert fake.runtime.decoder.reader.candidates is not None
    fake.close()


def wrong_values(found: Likeliest) -> None:
    found.values[0, 0] += 1


def wrong_ids(found: Likeliest) -> None:
    found.ids[0, :2] = found.ids[0, 1]


def outside(found: Likeliest) -> None:
    found.ids[-1, -1] = 10**6


def wrong_totals(found: Likeliest) -> None:
    found.totals[1] *= 1 + 1e-6


@pytest.mark.parametrize("spoil", [wrong_values, wrong_ids, outside, wrong_totals])
def test_other_findings_are_not_used(
    bundle_of: BundleOf, spoil: Callable[[Likeliest], None]
) -> None:
    fake = OnFake(bundle_of("opt", TARGET), 3)
    candidates = fake.runtime.decoder.reader.candidates
    assert candidates is not None
    find = candidates.find

    def spoilt(temperatures: NDArray[np.float64]) -> Likeliest:
        found = find(temperatures)
        spoil(found)
        return found

    candidates.find = spoilt  # type: ignore[method-assign]
    assert str(choose_draws(fake.runtime)) == "all logits (the GPU finds others)"
    assert fake.runtime.decoder.reader.candidates is None
    assert sampled_steps(fake.runtime, False)[0].sampled_ids is None  # left to the caller
    fake.close()


def test_a_graph_that_fails_is_not_used(bundle_of: BundleOf) -> None:
    fake = OnFake(bundle_of("opt", TARGET), 3)

    def fail(binding: Any, options: Any) -> None:
        raise RuntimeError("no kernel image is available\nmore")

    fake.sessions[LIKELIEST_NAME].run_with_iobinding = fail  # type: ignore[method-assign]
    choice = choose_draws(fake.runtime)
    assert str(choice) == "all logits (the other fails: no kernel image is available)"
    fake.close()
