"""The path for GPUs, run on the CPU, against the reference backend."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from altogether_rt.artifacts.checkpoint import Checkpoint
from altogether_rt.captioner import Captioner
from altogether_rt.captions import CaptionRequest
from altogether_rt.importing.bundle import checkpoint_folder
from altogether_rt.opening import CaptionerParts
from altogether_rt.preprocess.prompts import PromptTokenizer
from altogether_rt.runtime.base import Array, Runtime, Sampling, StepBatch, StepRow
from altogether_rt.runtime.torch.device.api import HostDevice
from altogether_rt.runtime.torch.device.decode_graphs import row_buckets
from altogether_rt.runtime.torch.device.runtime import DeviceTorchRuntime
from altogether_rt.runtime.torch.device.verify_graphs import VerifyGraphs
from altogether_rt.runtime.torch.kernels.choice import PLAIN, choose_kernels, variable_length
from altogether_rt.runtime.torch.kernels.slots import (
    CacheType,
    HeadLayout,
    PromptRows,
    token_bucket,
)
from altogether_rt.runtime.torch.runtime import TorchRuntime
from altogether_rt.scenes.draw import render
from altogether_rt.scenes.text import make_sample
from altogether_rt.speculation.planner import Speculation
from tests.runtime.rows import Row, run_step
from tests.runtime.torch.device.fake_device import FakeDevice
from tests.tiny import FAMILIES, IMAGE_SIZE, tiny_config, tiny_model, tiny_tokenizer


def open_on(
    device: HostDevice | FakeDevice,
    family: str = "opt",
    *,
    num_slots: int = 4,
    kept: CacheType = "same",
    dtype: torch.dtype = torch.float32,
) -> DeviceTorchRuntime:
    model = tiny_model(tiny_config(family))
    return DeviceTorchRuntime(model, device, num_slots=num_slots, dtype=dtype, kept=kept)


def pixels_of(count: int) -> NDArray[np.uint8]:
    return np.random.default_rng(1).integers(0, 256, (count, IMAGE_SIZE, IMAGE_SIZE, 3), np.uint8)


def history(runtime: Runtime) -> list[NDArray[np.float32]]:
    """Prompts, decoding, drafts, idle rows, all of it in one step, and slots that move."""
    visual = runtime.map(runtime.encode(pixels_of(4)))
    rows = [Row(), Row(), Row(), Row()]
    results = run_step(runtime, [row.bring([5, 9], visual[i]) for i, row in enumerate(rows[:2])])
    for token in (10, 11, 12):
        results += run_step(runtime, [row.bring([token]) for row in rows[:2]])
    mixed = [rows[0].bring([20, 21]), rows[1].bring([3]), rows[2].bring([7, 8], visual[2])]
    results += run_step(runtime, mixed)
    # A prompt between rows that go on, and another behind them.
    rows[1] = Row()
    mixed = [rows[0].bring([30]), rows[1].bring([7], visual[3]), rows[2].bring([8, 9, 10])]
    results += run_step(runtime, [*mixed, rows[3].bring([6, 7, 8], visual[0])])
    results += run_step(runtime, [row.bring([4]) for row in rows])
    runtime.move_slot(3, 0, rows[3].past)
    rows[0] = rows.pop()
    results += run_step(runtime, [rows[0].bring([40]), rows[1].bring([41, 42]), rows[2].bring([1])])
    return results + run_step(runtime, [row.bring([50]) for row in rows])


@pytest.mark.parametrize("family", FAMILIES)
def test_it_computes_what_the_reference_does(family: str) -> None:
    device = FakeDevice()
    with device, open_on(device, family) as runtime:
        found = history(runtime)
    with TorchRuntime(tiny_model(tiny_config(family)), num_slots=4) as reference:
        wanted = history(reference)
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5 * np.abs(other).max())


@pytest.mark.parametrize(("kept", "bound"), [("int8", 0.9995), ("float8", 0.99)])
def test_a_cache_of_eight_bits_stays_near(kept: CacheType, bound: float) -> None:
    results = []
    both: tuple[CacheType, CacheType] = (kept, "same")
    for each in both:
        with open_on(HostDevice(), "llama", kept=each) as runtime:
            results.append(np.concatenate(history(runtime)))
    found, wanted = results
    norms = np.linalg.norm(found, axis=-1) * np.linalg.norm(wanted, axis=-1)
    assert bound < ((found * wanted).sum(-1) / norms).min() < 0.999999


@contextmanager
def captioner_of(runtime: Runtime, family: str, folder: Path) -> Iterator[Captioner]:
    config = tiny_config(family)
    path = tiny_tokenizer(folder / "tokenizer.json")
    tokenizer = PromptTokenizer.of_captioner(path, config)
    with Captioner(CaptionerParts(config, runtime, tokenizer, "0" * 12, None)) as captioner:
        yield captioner


ALTS = ["w9 w8 w7", "", "w20 w21 w22 w23", "w5", "w90 w91", "w50 w51 w52", "w9 w8 w7"]


@pytest.mark.parametrize("family", ["opt", "llama"])
@pytest.mark.parametrize("temperature", [0.0, 0.8])
@pytest.mark.parametrize("speculation", ["off", "on"])
def test_captions_are_those_of_the_reference(
    family: str, temperature: float, speculation: Speculation, tmp_path: Path
) -> None:
    """Continuous batching with few slots, a picture that comes twice, drafts or none."""
    images = [*pixels_of(6), pixels_of(1)[0]]
    captions = []
    device = FakeDevice()
    with device:
        for runtime in (
            open_on(device, family, num_slots=3),
            TorchRuntime(tiny_model(tiny_config(family)), num_slots=3),
        ):
            with captioner_of(runtime, family, tmp_path) as captioner:
                params = captioner.params(temperature=temperature, max_new_tokens=8)
                requests = [
                    CaptionRequest(image, (alt,)) for image, alt in zip(images, ALTS, strict=True)
                ]
                stream = captioner.stream(
                    requests, params, speculation=speculation, keep_embeddings=True
                )
                captions.append(list(stream))
    texts = [[caption.text for caption in each] for each in captions]
    assert texts[0] == texts[1]
    assert texts[0][0] == texts[0][6]
    for found, wanted in zip(*captions, strict=True):
        assert found.embedded is not None and wanted.embedded is not None
        np.testing.assert_allclose(found.embedded.embedding, wanted.embedded.embedding, atol=1e-6)


def test_images_are_encoded_while_captions_are_written(tmp_path: Path) -> None:
    """The second batch is begun before the prompts of the first are read, and not waited for."""
    device = FakeDevice()
    with device, captioner_of(open_on(device, num_slots=2), "opt", tmp_path) as captioner:
        runtime = captioner.runtime
        calls: list[str] = []
        for name in ("encode", "step"):
            made = getattr(runtime, name)

            def call(*given: Any, name: str = name, made: Any = made, **options: Any) -> Any:
                calls.append(name)
                return made(*given, **options)

            setattr(runtime, name, call)
        params = captioner.params(temperature=0, max_new_tokens=4)
        assert len(captioner.caption([*pixels_of(6)], None, params)) == 6
        assert calls[:3] == ["encode", "encode", "step"]
        assert calls.count("encode") == 3
        steps = calls[: len(calls) - calls[::-1].index("encode")].count("step")
        assert 0 < steps < calls.count("step")


def test_half_precision_stays_near() -> None:
    with open_on(HostDevice(), dtype=torch.bfloat16) as half, open_on(HostDevice()) as exact:
        for found, wanted in zip(history(half), history(exact), strict=True):
            norms = np.linalg.norm(found, axis=-1) * np.linalg.norm(wanted, axis=-1)
            assert ((found * wanted).sum(-1) / norms).min() > 0.99


def test_only_ids_come_back_from_a_step() -> None:
    device = FakeDevice()
    with device, open_on(device) as runtime:
        visual = runtime.map(runtime.encode(pixels_of(2)))
        assert device.downloads == 0  # embeddings and visual tokens stay on the device
        rows = [Row(), Row()]
        run_step(runtime, [row.bring([5], visual[0]) for row in rows], want_logits=False)
        before = device.uploads
        run_step(runtime, [row.bring([6]) for row in rows], want_logits=False)
        assert (device.downloads, device.uploads - before) == (2, 1)


@pytest.mark.parametrize("undecided", [False, True])
def test_sampled_tokens_come_back_as_ids(undecided: bool) -> None:
    """Logits come only if the device left a token to the host."""
    one = np.ones(2)
    sampling = Sampling(0.5 * one, one, 0.9 * one)
    device = FakeDevice()
    with device, open_on(device) as runtime:
        visual = runtime.map(runtime.encode(pixels_of(2)))
        rows = [StepRow([5], 0, each) for each in visual]
        if undecided:
            runtime._decoder._head[:] = float("nan")
        result = runtime.step(StepBatch.from_rows(rows, 64, sampling), want_logits=True)
        assert result.sampled_ids is not None
        assert (result.sampled_ids == -1).all() == undecided
        assert (result.logits is not None) == undecided
        assert device.downloads == 1 + undecided


def test_steps_are_captured_ahead() -> None:
    device = FakeDevice()
    with device:
        model = tiny_model(tiny_config())
        kernels = replace(PLAIN, capturable=True)  # a CPU does not mind that they wait for it
        runtime = DeviceTorchRuntime(
            model, device, num_slots=8, dtype=torch.float32, kernels=kernels
        )
        verify = len([(1, 4), (1, 16), (2, 4), (2, 16), (4, 4), (4, 16), (8, 4)])
        assert runtime._graphs.num_captured == len(row_buckets(8))
        assert runtime._verify_graphs.num_captured == verify
        assert device.captures == len(row_buckets(8)) + verify
        with device.use(runtime._decoding):
            assert not runtime._cache.stored.any()  # nothing was written
        rows = [Row() for _ in range(8)]
        visual = runtime.map(runtime.encode(pixels_of(1)))
        run_step(runtime, [row.bring([5], visual[0]) for row in rows])
        held = [part.clone() for part in runtime._cache.tensors()]
        for count in (5, 6, 5, 8, 2, 1, 2):  # 5 and 6 are of one bucket
            run_step(runtime, [row.bring([7]) for row in rows[:count]])
        assert (device.captures, device.replays) == (len(row_buckets(8)) + verify, 7)
        # The rows that padded the steps of five wrote nothing: slot 5 has what it was given.
        length = rows[6].past
        for before, part in zip(held, runtime._cache.tensors(), strict=True):
            assert torch.equal(part[:, 6, :, : length - 1], before[:, 6, :, : length - 1])


@contextmanager
def prompted(
    family: str, num_rows: int, capturable: bool
) -> Iterator[tuple[FakeDevice, DeviceTorchRuntime, list[Row], Array]]:
    """Rows that have had a prompt each, and visual tokens for others."""
    with FakeDevice() as device:
        runtime = DeviceTorchRuntime(
            tiny_model(tiny_config(family)),
            device,
            num_slots=num_rows,
            dtype=torch.float32,
            kernels=replace(PLAIN, capturable=capturable),
        )
        visual = runtime.map(runtime.encode(pixels_of(num_rows)))
        rows = [Row() for _ in range(num_rows)]
        run_step(runtime, [row.bring([5, 9], visual[i]) for i, row in enumerate(rows)])
        yield device, runtime, rows, visual


@pytest.mark.parametrize("family", ["opt", "llama"])
def test_verify_steps_of_few_rows_are_captured(family: str) -> None:
    """What they give and write is what the same steps give where nothing is captured."""
    found = []
    for capturable in (True, False):
        with prompted(family, 5, capturable) as (device, runtime, rows, visual):
            drafts = [[7, 8, 9], [3], [20, 21, 22, 23, 24], []]
            results = run_step(
                runtime, [row.bring(ids) for row, ids in zip(rows[:4], drafts, strict=True)]
            )
            results += run_step(runtime, [rows[0].bring([30, 31])])
            results += run_step(runtime, [row.bring([40, 41]) for row in rows[:3]])
            assert device.replays == 3 * capturable
            # With more rows than a graph and these slots have, or a prompt, it is no such step.
            results += run_step(runtime, [row.bring([50, 51]) for row in rows])
            rows[1] = Row()
            results += run_step(
                runtime, [rows[0].bring([60, 61]), rows[1].bring([62, 63], visual[1])]
            )
            assert device.replays == 3 * capturable
            results += run_step(runtime, [row.bring([4]) for row in rows])
            found.append(np.concatenate(results))
    np.testing.assert_allclose(found[0], found[1], atol=1e-5 * np.abs(found[1]).max())


@pytest.mark.parametrize("family", ["opt", "llama"])
def test_short_drafts_of_more_rows_are_captured(family: str) -> None:
    """Up to 64 tokens: of eight rows four each. Rows that pad write nothing into their slots."""
    found = []
    for capturable in (True, False):
        with prompted(family, 8, capturable) as (device, runtime, rows, _):
            results = run_step(runtime, [row.bring([7, 8 + n]) for n, row in enumerate(rows[:5])])
            results += run_step(runtime, [row.bring([3, 4, 5, 6][: 1 + n % 4]) for n, row in
                                          enumerate(rows)])  # fmt: skip
            assert device.replays == 2 * capturable
            results += run_step(runtime, [row.bring([6, 7, 8, 9, 10]) for row in rows[:5]])
            assert device.replays == 2 * capturable  # five rows of sixteen tokens
            results += run_step(runtime, [row.bring([4]) for row in rows])
            found.append(np.concatenate(results))
    np.testing.assert_allclose(found[0], found[1], atol=1e-5 * np.abs(found[1]).max())


def test_a_group_too_large_for_the_kernel_has_no_graph_of_drafts() -> None:
    assert token_bucket(16, HeadLayout(36, 3, 64)) is None
    graphs = VerifyGraphs(
        HostDevice(), None, 4, 8, torch.float32, lambda *_: torch.zeros(4, 8), HeadLayout(36, 3, 64)
    )
    assert graphs._tokens == [4]


def test_buckets_are_few() -> None:
    assert row_buckets(1) == (1,)
    assert row_buckets(6) == (1, 2, 3, 4, 6)
    assert row_buckets(32) == (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)
    assert len(row_buckets(256)) == 16
    for rows in range(1, 257):
        assert next(size for size in row_buckets(256) if size >= rows) <= max(1.5 * rows, 1)


@pytest.mark.slow
def test_the_starter_writes_the_same_captions() -> None:
    """Its checkpoint, by both backends, greedy and as it samples by default."""
    samples = [make_sample(77, index, "test") for index in range(12)]
    requests = [render(sample.scene) for sample in samples], [list(s.alts) for s in samples]
    with checkpoint_folder(Path("starter"), lambda message: None) as folder:
        checkpoint = Checkpoint.load(folder)
        tokenizer = PromptTokenizer.of_captioner(checkpoint.tokenizer_path, checkpoint.config)
        texts = []
        for runtime in (
            DeviceTorchRuntime(
                checkpoint.captioner(), HostDevice(), num_slots=8, dtype=torch.float32
            ),
            TorchRuntime(checkpoint.captioner(), num_slots=8),
        ):
            parts = CaptionerParts(checkpoint.config, runtime, tokenizer, "0" * 12, None)
            with Captioner(parts) as captioner:
                for params in (captioner.params(temperature=1), captioner.params(temperature=0)):
                    texts.append([each.text for each in captioner.caption(*requests, params)])
    assert texts[:2] == texts[2:]
    assert texts[0] != texts[1]


def test_without_a_gpu_the_plain_kernels_run() -> None:
    kernels, why = choose_kernels(torch.device("cpu"), torch.float16, HeadLayout(2, 2, 64))
    assert kernels is PLAIN
    assert why is not None and "NVIDIA GPU" in why


@pytest.mark.parametrize("heads", [HeadLayout(4, 4, 16), HeadLayout(4, 2, 16)])
def test_flash_attention_is_called_as_each_version_takes_it(heads: HeadLayout) -> None:
    """Stand-ins with the options of PyTorch 2.10 and 2.13, which compute what they are asked."""
    qkv = torch.randn(5, heads.qkv_width)
    slots, at = torch.tensor([0, 0, 1, 1, 1]), torch.tensor([0, 1, 0, 1, 2])
    prompts = PromptRows(slots, at, torch.tensor([0, 2, 5]).int(), (2, 3))
    wanted = PLAIN.attend_prompts(qkv, prompts, heads)

    def whole(q: Tensor, k: Tensor, v: Tensor, grouped: bool) -> Tensor:
        layout = HeadLayout(q.shape[1], k.shape[1], 16)
        assert grouped == (layout.group > 1)
        packed = torch.cat([q, k, v], dim=1).reshape(5, -1)
        return PLAIN.attend_prompts(packed, prompts, layout).view_as(q)

    def earlier(
        q: Tensor, k: Tensor, v: Tensor, a: Tensor, b: Tensor, m: int, n: int, is_causal: bool
    ) -> Tensor:
        assert (is_causal, m, n, a.tolist()) == (True, 3, 3, [0, 2, 5])
        return whole(q, k, v, grouped=False)

    def later(
        q: Tensor, k: Tensor, v: Tensor, a: Tensor, b: Tensor, m: int, n: int, *,
        window_size: tuple[int, int], enable_gqa: bool = False,
    ) -> Tensor:  # fmt: skip
        assert window_size == (-1, 0)
        return whole(q, k, v, grouped=enable_gqa)

    for function in (earlier, later):
        torch.testing.assert_close(variable_length(function, qkv, prompts, heads), wanted)


def test_steps_that_a_kernel_does_not_hold_are_computed_plainly() -> None:
    one, eight, all_heads = HeadLayout(32, 32, 64), HeadLayout(32, 4, 64), HeadLayout(32, 1, 64)
    assert [token_bucket(n, one) for n in (1, 2, 5, 16, 17)] == [1, 4, 16, 16, None]
    assert [token_bucket(n, eight) for n in (1, 16)] == [1, 16]  # 128 queries
    assert [token_bucket(n, all_heads) for n in (1, 4, 5)] == [1, 4, None]
    untaken = replace(PLAIN, attend=lambda *_: pytest.fail("the kernel was called"))
    results = []
    for kernels in (untaken, PLAIN):
        model = tiny_model(tiny_config())
        with DeviceTorchRuntime(
            model, HostDevice(), num_slots=1, dtype=torch.float32, kernels=kernels
        ) as runtime:
            row = Row()
            run_step(runtime, [row.bring([5], runtime.map(runtime.encode(pixels_of(1)))[0])])
            results += run_step(runtime, [row.bring(list(range(20, 38)))])
    found, wanted = results
    np.testing.assert_array_equal(found, wanted)


def test_what_it_says_of_itself() -> None:
    runtime: Runtime = open_on(HostDevice(), num_slots=3)
    config = tiny_config()
    assert (runtime.num_slots, runtime.capacity, runtime.max_chunk) == (3, *[config.capacity] * 2)
    assert (runtime.token_width, runtime.device, runtime.prefill_tokens) == (64, "cpu", 8192)
    with pytest.raises(AssertionError, match="longer than its cache slot"):
        run_step(runtime, [Row(past=runtime.capacity).bring([5])])
    with pytest.raises(AssertionError, match="4 rows, but 3 slots"):
        run_step(runtime, [Row().bring([5]) for _ in range(4)])
    runtime.close()
    runtime.close()
