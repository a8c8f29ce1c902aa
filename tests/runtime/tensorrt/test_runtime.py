"""The TensorRT backend on stand-ins for CUDA and TensorRT, against ONNX Runtime on the same graphs.

The starter's integer graphs give a row the same bits in any company and under any padding, so
everything must agree exactly. What the stand-ins check besides is in their own modules.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from altogether_rt.artifacts.bundle import Bundle
from altogether_rt.captioner import Captioner
from altogether_rt.captions import CaptionRequest
from altogether_rt.errors import AltogetherError, BundleError
from altogether_rt.opening import CaptionerParts
from altogether_rt.preprocess.prompts import PromptTokenizer
from altogether_rt.runtime.base import Runtime
from altogether_rt.runtime.cpu.runtime import OnnxRuntime
from altogether_rt.runtime.cuda.runtime import DeviceRuntime
from altogether_rt.runtime.tensorrt.open import tensorrt_runtime
from altogether_rt.scenes.draw import render
from altogether_rt.scenes.text import make_sample
from tests.runtime.cuda.fake_cuda import FakeCuda, as_cuda
from tests.runtime.rows import Brought, Row, run_step
from tests.runtime.tensorrt.fake_engines import engines_of, with_engines
from tests.runtime.tensorrt.fake_tensorrt import fake_tensorrt

pytestmark = pytest.mark.lean

SLOTS = 5


@pytest.fixture(scope="module")
def starter() -> Bundle:
    return Bundle.load("starter", verify_hashes=False)


@pytest.fixture(scope="module")
def compiled(starter: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return with_engines(starter, tmp_path_factory.mktemp("compiled") / "b", num_slots=4)


@pytest.fixture
def cuda() -> Iterator[FakeCuda]:
    fake = FakeCuda()
    yield fake
    fake.finish()


@pytest.fixture
def runtime(compiled: Bundle, cuda: FakeCuda) -> Iterator[DeviceRuntime]:
    with open_fake(compiled, cuda) as opened:
        yield opened


@pytest.fixture(scope="module")
def reference(starter: Bundle) -> Iterator[OnnxRuntime]:
    with OnnxRuntime(starter, threads=1, num_slots=SLOTS) as opened:
        yield opened


def open_fake(bundle: Bundle, cuda: FakeCuda, num_slots: int = SLOTS) -> DeviceRuntime:
    return tensorrt_runtime(
        bundle, engines_of(bundle), fake_tensorrt(cuda), as_cuda(cuda), num_slots=num_slots
    )


def visual_tokens(runtime: Runtime, rows: int) -> NDArray[np.float32]:
    rng = np.random.default_rng(3)
    size = 64
    pixels = rng.integers(0, 256, (rows, size, size, 3), np.uint8)
    return np.asarray(runtime.map(runtime.encode(pixels)))


def history(runtime: Runtime, want_logits: bool = True) -> list[NDArray[np.float32]]:
    """Ragged steps of all kinds: prompts, decoding, drafts, an idle row, a row that left."""
    visual = visual_tokens(runtime, 5)
    a, b, c, d, e = (Row() for _ in range(5))
    results = []

    def step(*brought: Brought) -> None:
        results.append(np.concatenate(run_step(runtime, brought, want_logits)))

    step(a.bring([5, 6, 7], visual[0]), b.bring([8], visual[1]))
    for token in (9, 10, 11):  # the same bucket again and again: captured the second time
        step(a.bring([token]), b.bring([token + 20]))
    step(a.bring([12]), b.bring([13, 14, 15, 16]), c.bring([20, 21, 22], visual[2]))
    step(a.bring([]), b.bring([17, 18]), c.bring([27]))
    b.past -= 2  # the draft was rejected
    step(a.bring([30, 31]), b.bring([31, 33]), c.bring([32]))
    # Prompts that no profile takes together.
    step(
        a.bring([40]), b.bring([41]), c.bring([42]),
        d.bring(list(range(50, 90)), visual[3]), e.bring(list(range(60, 100)), visual[4]),
    )  # fmt: skip
    for token in (43, 44, 45):
        step(*(row.bring([token]) for row in (a, b, c, d, e)))
    runtime.move_slot(4, 1, e.past)  # b has left, e takes its place
    for token in (46, 47):
        step(*(row.bring([token]) for row in (a, e, c, d)))
    return results


def test_steps_are_those_of_onnxruntime(
    runtime: DeviceRuntime, reference: OnnxRuntime, cuda: FakeCuda
) -> None:
    wanted = history(reference)
    for found, expected in zip(history(runtime), wanted, strict=True):
        assert np.array_equal(found, expected)
    assert cuda.launches > 3


def test_ids_alone_are_those_of_the_logits(runtime: DeviceRuntime, reference: OnnxRuntime) -> None:
    wanted = history(reference, want_logits=False)
    for found, expected in zip(history(runtime, want_logits=False), wanted, strict=True):
        assert np.array_equal(found, expected)


@pytest.mark.parametrize("images", [1, 2, 3, 4, 7])
def test_images_are_encoded_in_chunks(
    images: int, runtime: DeviceRuntime, reference: OnnxRuntime
) -> None:
    rng = np.random.default_rng(images)
    pixels = rng.integers(0, 256, (images, 64, 64, 3), np.uint8)
    embeddings = runtime.encode(pixels)
    assert np.array_equal(embeddings, reference.encode(pixels))
    assert np.array_equal(runtime.map(embeddings), reference.map(embeddings))


@pytest.mark.parametrize("temperature", [0.0, 0.9])
@pytest.mark.parametrize("speculation", ["off", "on"])
def test_captions_are_those_of_onnxruntime(
    temperature: float, speculation: str, starter: Bundle, compiled: Bundle, cuda: FakeCuda
) -> None:
    samples = [make_sample(11, index, "test") for index in range(9)]
    config = starter.config
    tokenizer = PromptTokenizer.from_file(
        starter.tokenizer_path, config.prompt, config.decoder.pad_id
    )
    captions = []
    for runtime in (
        OnnxRuntime(starter, threads=1, num_slots=SLOTS),
        open_fake(compiled, cuda),
    ):
        parts = CaptionerParts(config, runtime, tokenizer, "id", None)
        with Captioner(parts, speculation) as captioner:  # type: ignore[arg-type]
            requests = [
                CaptionRequest(
                    captioner.preprocessor.pixels(render(sample.scene).convert("RGB")), sample.alts
                )
                for sample in samples
            ]
            params = captioner.params(temperature=temperature, max_new_tokens=16)
            captions.append(list(captioner.stream(requests, params)))
    assert captions[0] == captions[1]
    assert cuda.launches > 0


def test_a_step_is_one_copy_up(runtime: DeviceRuntime, cuda: FakeCuda) -> None:
    row = Row()
    run_step(runtime, [row.bring([5, 6])])
    for _ in range(2):
        run_step(runtime, [row.bring([7])], want_logits=False)
    uploads, launches = cuda.uploads, cuda.launches
    for _ in range(3):
        run_step(runtime, [row.bring([8])], want_logits=False)
    assert cuda.launches - launches == 3
    assert cuda.uploads == uploads  # they are part of the graph


def test_what_a_slot_behind_the_step_holds_stays(
    runtime: DeviceRuntime, reference: OnnxRuntime
) -> None:
    answers = []
    for each in (runtime, reference):
        visual = visual_tokens(each, 3)
        rows = [Row(), Row(), Row()]
        run_step(each, [row.bring([5 + i], visual[i]) for i, row in enumerate(rows)])
        run_step(each, [rows[0].bring([9])])  # padded to more rows, or not
        run_step(each, [rows[0].bring(list(range(10, 20)))])
        answers.append(np.concatenate(run_step(each, [row.bring([7]) for row in rows])))
    assert np.array_equal(answers[0], answers[1])


def test_closing_twice_is_closing_once(compiled: Bundle, cuda: FakeCuda) -> None:
    runtime = open_fake(compiled, cuda)
    runtime.close()
    runtime.close()
    cuda.finish()


def test_too_little_memory_leaves_nothing_behind(compiled: Bundle) -> None:
    cuda = FakeCuda(budget_bytes=1 << 20)
    with pytest.raises(AltogetherError, match="too little free memory"):
        open_fake(compiled, cuda)
    cuda.finish()


def test_an_engine_that_cannot_be_read_is_named(
    starter: Bundle, tmp_path: Path, cuda: FakeCuda
) -> None:
    bundle = with_engines(starter, tmp_path / "b")
    (bundle.path / "mapper.sm89.plan").write_bytes(b"\x00other")
    with pytest.raises(BundleError, match=r"tensorrt_rtx 1.7.1.116 cannot load .*mapper.sm89.plan"):
        open_fake(bundle, cuda)


def test_what_does_not_fit_is_refused(runtime: DeviceRuntime, starter: Bundle) -> None:
    assert runtime.device == "cuda:0"
    assert runtime.num_slots == SLOTS
    assert runtime.max_chunk >= starter.config.max_prompt_tokens
    with pytest.raises(AssertionError, match="6 rows, but 5 slots"):
        run_step(runtime, [Row().bring([5]) for _ in range(6)])
    with pytest.raises(AssertionError, match="tokens in a slot, but capacity"):
        run_step(runtime, [Row(past=runtime.capacity).bring([5])])
