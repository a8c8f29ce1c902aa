"""This project's runtimes: parity with the float32 reference, and speed at each batch size."""

from __future__ import annotations

import dataclasses
import pickle
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from altogether_rt.artifacts.bundle import Bundle
from altogether_rt.bench.timing import measure, peak_memory_bytes
from altogether_rt.captioner import Captioner
from altogether_rt.config import CaptionerConfig, load_config
from altogether_rt.generation.engine import Engine, SequenceRequest
from altogether_rt.runtime.base import Runtime
from altogether_rt.runtime.batches import decode_batch, prefill_batch
from altogether_rt.runtime.tensorrt.profiles import MAX_ROWS

from .clock import Deadline
from .roofline import Rates, floor_s, whole_costs
from .skip import need, need_torch
from .workload import Workload

__all__ = ["count_floors", "measure_runtime", "measure_sizes", "median_s", "record_reference"]

BUDGET_S = 0.5  # of one measurement, exceeded where few runs take longer
#: No token has this id: captions end by their length alone.
NO_END = -1

#: The engine's budget of prompt tokens a step.
PREFILL_TOKENS = 2048
#: Images of the comparison with the reference.
NUM_SAMPLES = 8

Emit = Callable[..., None]


def count_floors(request: dict[str, Any], emit: Emit) -> None:
    """request: config, batch_sizes, rates, number_bytes. Emits floor_s by batch size."""
    need("torch")
    from altogether_rt.model.encoder import with_architecture

    config, rates = load_config(request["config"]), Rates(**request["rates"])
    encoder = with_architecture(config.encoder)
    floors = {}
    for batch in request["batch_sizes"]:
        costs = whole_costs(Workload.of(config, batch), encoder, request["number_bytes"])
        floors[str(batch)] = None if costs is None else floor_s(costs, rates)
    emit(floor_s=floors)


def record_reference(request: dict[str, Any], emit: Emit) -> None:
    """request: checkpoint, device, recording. What torch answers in float32, for `parity`; on the
    CPU where it finds no GPU. Emits where it ran."""
    need_torch("cpu")
    import torch

    from altogether_rt.export.samples import draw_samples
    from altogether_rt.export.verify import record

    torch.backends.cudnn.allow_tf32 = False  # convolutions would have 10 bits of mantissa
    device = request["device"] if torch.cuda.is_available() else "cpu"
    folder = request["checkpoint"]
    with Captioner.load(folder, device=device, dtype="float32", num_slots=NUM_SAMPLES) as captioner:
        samples = draw_samples(captioner.config, captioner.tokenizer)
        recording = record(captioner.runtime, samples)
    Path(request["recording"]).write_bytes(pickle.dumps(recording))
    emit(runs_on=device)


def measure_runtime(request: dict[str, Any], emit: Emit) -> None:
    """request: checkpoint and dtype, or bundle; device, recording, batch_sizes, seconds.

    Emits load_s, parity (where a reference was recorded) and sizes (none if batch_sizes is empty).
    """
    clock = Deadline(request["seconds"])
    sizes = _supported(request["batch_sizes"], request["device"], emit)
    recording = _recording(request["recording"])
    rows = 0 if recording is None else len(recording.samples.pixels)
    start = time.perf_counter()
    with _open(request, max([rows, *sizes])) as captioner:
        runtime, config = captioner.runtime, captioner.config
        emit(load_s=round(time.perf_counter() - start, 3), runs_on=runtime.device)
        if recording is not None:
            from altogether_rt.export.verify import compare

            agreements = compare(recording, runtime)
            emit(parity={stage: dataclasses.asdict(a) for stage, a in agreements.items()})
        measure_sizes(sizes, clock, emit, lambda batch: _measure(runtime, config, batch))


def _supported(sizes: list[int], device: str, emit: Emit) -> list[int]:
    """Those that engines are compiled for; the others are emitted."""
    beyond = [size for size in sizes if device == "tensorrt" and size > MAX_ROWS]
    if beyond:
        emit(sizes_beyond_engines=beyond)
    return [size for size in sizes if size not in beyond]


def measure_sizes(
    sizes: list[int], clock: Deadline, emit: Emit, measure_one: Callable[[int], dict[str, Any]]
) -> None:
    """Emits sizes: what `measure_one` says of each batch size, while there is time for it.

    A batch is taken to need as long as the one before it, times what it is larger by. One that
    fails ends the sweep, and what came before it stays; the smallest one's failure is raised.
    """
    done: list[dict[str, Any]] = []
    last_s, last_batch = 0.0, 0
    for batch in sorted(sizes):
        needed_s = last_s * batch / last_batch if last_batch else 0.0
        if needed_s > clock.remaining_s:
            emit(sizes_left_out=[size for size in sorted(sizes) if size >= batch])
            return
        start_s = clock.remaining_s
        try:
            figures = measure_one(batch)
        except Exception as error:  # a larger batch than fits, in the words of any library
            if not done:
                raise
            emit(sizes_failed={str(batch): " ".join(str(error).split())[:300]})
            return
        done.append({"batch": batch, **figures})
        last_s, last_batch = start_s - clock.remaining_s, batch
        emit(sizes=done, peak_host_bytes=peak_memory_bytes())


def _recording(path: str) -> Any:
    """What `record_reference` wrote in this run; None if it could not."""
    return pickle.loads(Path(path).read_bytes()) if Path(path).is_file() else None


def _open(request: dict[str, Any], slots: int) -> Captioner:
    if "bundle" in request:
        bundle = Bundle.load(request["bundle"], verify_hashes=False)
        return Captioner.load(bundle, device=request["device"], num_slots=slots)
    need_torch(request["device"])
    folder, dtype = request["checkpoint"], request["dtype"]
    return Captioner.load(folder, device=request["device"], dtype=dtype, num_slots=slots)


def _measure(runtime: Runtime, config: CaptionerConfig, batch: int) -> dict[str, Any]:
    """Each stage by itself, in milliseconds, and the whole: images to captions of fixed length."""
    workload = Workload.of(config, batch)
    pixels, prompts = workload.pixels, workload.prompt_ids
    embeddings = runtime.encode(pixels)
    visual = runtime.map(embeddings)
    together = _num_prefilled(workload)
    prefill = prefill_batch(visual[:together], prompts[:together])
    past = [length + workload.new_tokens // 2 for length in workload.prompt_lengths]
    tokens = [config.decoder.vocab_size // 2] * batch
    decode = decode_batch(tokens, past, config.decoder.token_width)
    stages = {
        "encoder_ms": lambda: runtime.encode(pixels),
        "mapper_ms": lambda: runtime.map(embeddings),
        "prefill_ms": lambda: runtime.step(prefill),
        "decode_step_ms": lambda: runtime.step(decode),
    }
    times = {name: median_s(action) for name, action in stages.items()}
    whole_s = median_s(lambda: _write(runtime, workload, pixels, prompts))
    return {
        **{name: round(1000 * seconds, 4) for name, seconds in times.items()},
        "prefill_rows": together,
        "tokens_per_s": round(batch / times["decode_step_ms"], 1),
        "whole_s": round(whole_s, 5),
        "images_per_s": round(batch / whole_s, 3),
        "workload": workload.describe(),
    }


def _num_prefilled(workload: Workload) -> int:
    """Prompts that one step may bring: runtimes have room for PREFILL_TOKENS, and one prompt more
    where these are not yet reached."""
    ends = np.cumsum(workload.prompt_lengths)
    return min(int(np.searchsorted(ends, PREFILL_TOKENS)) + 1, workload.rows)


def median_s(action: Callable[[], object]) -> float:
    """Seconds of one run of `action`, warmed up."""
    return measure(action, budget_s=BUDGET_S, min_repeats=2).p50_s


def _write(
    runtime: Runtime, workload: Workload, pixels: np.ndarray[Any, Any], prompts: list[list[int]]
) -> None:
    visual = runtime.map(runtime.encode(pixels))
    work = (
        SequenceRequest(row, tokens, ids, workload.new_tokens)
        for row, (tokens, ids) in enumerate(zip(visual, prompts, strict=True))
    )
    for completion in Engine(runtime, NO_END, speculation="off").run(work):
        assert completion.num_tokens == workload.new_tokens
