"""The ONNX Runtime backend against torch, and against itself in other company."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from altogether_rt.runtime.base import Runtime
from altogether_rt.runtime.cpu.runtime import OnnxRuntime
from altogether_rt.runtime.torch.runtime import TorchRuntime
from tests.runtime.conftest import BundleOf
from tests.runtime.rows import Row, run_step
from tests.tiny import EMBED_DIM, FAMILIES, IMAGE_SIZE, tiny_config, tiny_model

RNG = np.random.default_rng(0)
VISUAL = RNG.normal(size=(4, 4, 64)).astype(np.float32)
EMBEDDINGS = RNG.normal(size=(3, EMBED_DIM)).astype(np.float32)
EMBEDDINGS /= np.linalg.norm(EMBEDDINGS, axis=1, keepdims=True)


def history(runtime: Runtime, visual: np.ndarray) -> list[np.ndarray]:
    """Prefill of unequal rows, decode, a mix with a new row and drafts, an idle row."""
    rows = [Row(), Row(), Row()]
    steps = [
        [rows[0].bring([5, 6, 7], visual[0]), rows[1].bring([], visual[1])],
        [rows[0].bring([9]), rows[1].bring([11])],
        [
            rows[0].bring([12]),
            rows[1].bring([13, 14, 15, 16]),
            rows[2].bring([20, 21, 22, 23, 24, 25, 26], visual[2]),
        ],
        [rows[0].bring([]), rows[1].bring([17, 18]), rows[2].bring([27])],
        [rows[0].bring([30]), rows[1].bring([31]), rows[2].bring([32])],
    ]
    return [np.concatenate(run_step(runtime, step)) for step in steps]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("target", ["cpu-fp32", "cpu-int8"])
def test_ragged_steps_agree_with_torch(family: str, target: str, bundle_of: BundleOf) -> None:
    with (
        OnnxRuntime(bundle_of(family, target), threads=1, num_slots=3) as onnx,
        TorchRuntime(tiny_model(tiny_config(family)), num_slots=3) as reference,
    ):
        # What the mapper makes, as an int8 cache is calibrated for it.
        visual = reference.map(EMBEDDINGS)
        found, wanted = history(onnx, visual), history(reference, visual)
    for a, b in zip(found, wanted, strict=True):
        cosine = (a * b).sum(-1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1)
        if target == "cpu-fp32":
            np.testing.assert_allclose(a, b, atol=1e-4 * np.abs(b).max())
        else:
            assert cosine.mean() > 0.998


@pytest.mark.parametrize("family", FAMILIES)
def test_a_row_does_not_feel_its_neighbours(family: str, bundle_of: BundleOf) -> None:
    """Bit for bit: alone, beside others, beside a long prefill, and in another slot."""

    def row_alone(runtime: OnnxRuntime, visual: np.ndarray) -> list[np.ndarray]:
        row = Row()
        steps = ([row.bring([5, 6, 7], visual)], [row.bring([9])], [row.bring([10, 11])])
        return [run_step(runtime, step)[0] for step in steps]

    def row_in_company(runtime: OnnxRuntime, visual: np.ndarray) -> list[np.ndarray]:
        first, row, last = Row(), Row(), Row()
        steps = (
            [first.bring([40], visual), row.bring([5, 6, 7], visual)],
            [
                first.bring([41]),
                row.bring([9]),
                last.bring([50, 51, 52, 53, 54, 55, 56, 57], visual),
            ],
            [first.bring([]), row.bring([10, 11]), last.bring([58])],
        )
        return [run_step(runtime, step)[1] for step in steps]

    with OnnxRuntime(bundle_of(family, "cpu-int8"), threads=2, num_slots=3) as runtime:
        visual = VISUAL[0, :, : runtime.token_width]
        for alone, beside in zip(
            row_alone(runtime, visual), row_in_company(runtime, visual), strict=True
        ):
            assert np.array_equal(alone, beside)


@pytest.mark.parametrize("family", FAMILIES)
def test_verifying_drafts_is_decoding(family: str, bundle_of: BundleOf) -> None:
    """Several tokens in one step give, bit for bit, the logits of one token a step."""
    tokens = [9, 10, 11, 12, 13]
    with OnnxRuntime(bundle_of(family, "cpu-int8"), threads=1, num_slots=1) as runtime:
        visual = VISUAL[0, :, : runtime.token_width]
        row = Row()
        run_step(runtime, [row.bring([5], visual)])
        singly = np.concatenate([run_step(runtime, [row.bring([token])])[0] for token in tokens])
        # Taking back is a smaller length; a wrong draft in between leaves no trace.
        row.past -= len(tokens)
        run_step(runtime, [row.bring([90, 91, 92])])
        row.past -= 3
        together = run_step(runtime, [row.bring(tokens)])[0]
    assert np.array_equal(singly, together)


def test_prefill_in_pieces_is_prefill(bundle_of: BundleOf) -> None:
    with OnnxRuntime(bundle_of("opt", "cpu-int8"), threads=1, num_slots=2) as runtime:
        whole, pieces = Row(), Row()
        visual, ids = VISUAL[0], [5, 6, 7, 8, 9]
        wanted = run_step(runtime, [whole.bring(ids, visual)])[0]
        first = run_step(runtime, [pieces.bring([], visual[:3])])[0]
        second = run_step(runtime, [pieces.bring(ids, visual[3:])])[0]
    assert np.array_equal(wanted, np.concatenate([first, second]))


def test_a_moved_slot_goes_on_where_it_was(bundle_of: BundleOf) -> None:
    with OnnxRuntime(bundle_of("llama", "cpu-int8"), threads=1, num_slots=3) as runtime:
        rows = [Row(), Row(), Row()]
        prompts = [row.bring([index + 5], VISUAL[index]) for index, row in enumerate(rows)]
        run_step(runtime, prompts)
        wanted = run_step(runtime, [row.bring([9]) for row in rows])[2]
        rows[2].past -= 1
        runtime.move_slot(2, 0, rows[2].past)  # the first row has left
        found = run_step(runtime, [rows[2].bring([9]), rows[1].bring([10])])[0]
    assert np.array_equal(wanted, found)


def test_greedy_ids_do_not_depend_on_asking_for_logits(bundle_of: BundleOf) -> None:
    with OnnxRuntime(bundle_of("opt", "cpu-int8"), threads=1, num_slots=2) as runtime:
        visual = VISUAL[0]
        (logits,) = run_step(runtime, [Row().bring([5, 6], visual)])
        (greedy,) = run_step(runtime, [Row().bring([5, 6], visual)], want_logits=False)
        (again,) = run_step(runtime, [Row().bring([5, 6], visual)])
    assert np.array_equal(greedy, logits.argmax(axis=-1))
    assert np.array_equal(logits, again)


def test_a_slot_can_be_filled_to_the_last_token(bundle_of: BundleOf) -> None:
    bundle = bundle_of("llama", "cpu-fp32")
    with (
        OnnxRuntime(bundle, threads=1, num_slots=2) as onnx,
        TorchRuntime(tiny_model(bundle.config), num_slots=2) as reference,
    ):
        answers = []
        for runtime in (onnx, reference):
            full, other = Row(), Row()
            run_step(runtime, [full.bring(range(10, 24))])
            for token in range(runtime.capacity - 15):
                run_step(runtime, [full.bring([token + 3])])
            last = [full.bring([9]), other.bring(range(30, 44))]
            answers.append(np.concatenate(run_step(runtime, last)))
            assert full.past == runtime.capacity
    np.testing.assert_allclose(answers[0], answers[1], atol=1e-4 * float(np.abs(answers[1]).max()))


def test_embeddings_do_not_depend_on_the_batch(bundle_of: BundleOf) -> None:
    pixels = RNG.integers(0, 256, (5, IMAGE_SIZE, IMAGE_SIZE, 3), dtype=np.uint8)
    with OnnxRuntime(bundle_of("opt", "cpu-int8"), threads=2, num_slots=1) as runtime:
        together = runtime.encode(pixels)
        singly = np.concatenate([runtime.encode(image[None]) for image in pixels])
        np.testing.assert_allclose(together, singly, atol=1e-6)
        np.testing.assert_allclose(np.linalg.norm(together, axis=-1), 1, rtol=1e-5)
        tokens = runtime.map(together)
        assert tokens.shape == (5, 4, 64)
        singly = np.concatenate([runtime.map(row[None]) for row in together])
        np.testing.assert_allclose(tokens, singly, atol=1e-5)


def test_what_does_not_fit_is_refused(bundle_of: BundleOf) -> None:
    with OnnxRuntime(bundle_of("opt", "cpu-int8"), threads=1, num_slots=1) as runtime:
        assert runtime.num_slots == 1
        assert runtime.capacity == 34
        assert runtime.device == "cpu"
        with pytest.raises(AssertionError, match="2 rows, but 1 slots"):
            run_step(runtime, [Row().bring([5]), Row().bring([6])])
        with pytest.raises(AssertionError, match="35 tokens in a slot"):
            run_step(runtime, [Row(past=34).bring([5])])
        with pytest.raises(AssertionError, match="30 tokens a row, but max_chunk 29"):
            run_step(runtime, [Row().bring(range(30))])


def test_closing_twice_is_closing_once(bundle_of: BundleOf) -> None:
    runtime = OnnxRuntime(bundle_of("opt", "cpu-int8"), num_slots=1)
    runtime.close()
    runtime.close()
    assert not hasattr(runtime, "_decoder")


def test_weights_outside_the_bundle_are_not_read(tmp_path: Path) -> None:
    """A graph may name any file as its weights; onnxruntime opens none outside its folder."""
    import onnx

    from altogether_rt.errors import BundleError
    from altogether_rt.export.graph import GraphBuilder
    from altogether_rt.export.weights import WeightsFile
    from altogether_rt.runtime.ort_session import open_session

    inside = tmp_path / "bundle"
    inside.mkdir()
    (tmp_path / "secret.bin").write_bytes(bytes(4096))
    with WeightsFile(inside / "weights.bin") as weights:
        g = GraphBuilder("g", weights)
        x = g.input("x", np.float32, [1024])
        total = g.op("Add", x, g.weight("w", np.ones(1024, np.float32)))
        g.output(total, "y", np.float32, [1024])
    g.save(inside / "g.onnx")
    assert (
        open_session(inside / "g.onnx", threads=1).run(None, {"x": np.ones(1024, "f")})[0][0] == 2
    )
    model = onnx.load(inside / "g.onnx", load_external_data=False)
    model.graph.initializer[0].external_data[0].value = "../secret.bin"
    onnx.save(model, inside / "g.onnx")
    with pytest.raises(BundleError, match="onnxruntime cannot load"):
        open_session(inside / "g.onnx", threads=1)
