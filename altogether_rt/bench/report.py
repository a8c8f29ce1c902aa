"""A run of the benchmark, and what it says as data and as a table."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from altogether_rt import __version__
from altogether_rt.bench.ceilings import Ceilings, measure_ceilings
from altogether_rt.bench.cost import FORMULA
from altogether_rt.bench.inputs import make_inputs
from altogether_rt.bench.reading import Reading, reading_s
from altogether_rt.bench.stages import STAGES, StageResult, StageRunner
from altogether_rt.bench.timing import peak_memory_bytes
from altogether_rt.captioner import Captioner, open_captioner
from altogether_rt.machine.device import Dtype, KVCacheType, installed_version
from altogether_rt.machine.gpu import find_gpus
from altogether_rt.machine.limits import available_cores
from altogether_rt.machine.report import read_processor
from altogether_rt.opening import ResolvedCaptioner, resolve_captioner
from altogether_rt.speculation.planner import Speculation

__all__ = ["COLUMNS", "BenchReport", "BenchSettings", "describe_machine", "digits", "run_bench"]

COLUMNS = ("stage", "batch", "p50 ms", "p95 ms", "p99 ms", "rows/s", "tokens/s", "of ceiling", "by")


@dataclass(frozen=True)
class BenchSettings:
    """What to measure."""

    batch_sizes: tuple[int, ...] = (1, 8, 32)
    threads: int | None = None  # None: all cores
    device: str = "auto"
    new_tokens: int = 64  # most tokens of a caption, less where the captioner has no room
    quick: bool = False  # a look in seconds rather than figures to publish
    speculation: Speculation = "auto"  # in `whole`
    allow_download: bool = False  # of a checkpoint, see `Captioner.load`
    dtype: Dtype = "auto"  # likewise
    kv_cache: KVCacheType = "auto"  # likewise


@dataclass(frozen=True)
class BenchReport:
    """All that was measured."""

    bundle: str
    bundle_id: str
    target: str
    int8: bool
    settings: BenchSettings
    load_s: float
    stages: tuple[StageResult, ...]
    memory_bytes: dict[str, int]  # peak of the process after each phase, in order
    ceilings: Ceilings | None  # None on a GPU: only processors are measured so far
    read_s: float  # seconds of a core to read an image, see `bench.reading`
    cores: int  # that can read
    device: str = "cpu"

    @property
    def best_whole(self) -> StageResult:
        """Whole captions at the batch size that makes most images/s."""
        whole = (result for result in self.stages if result.stage == "whole")
        return max(whole, key=lambda result: result.rows_per_s)

    @property
    def reading(self) -> Reading:
        """Reading beside captioning."""
        caption_s = 1 / self.best_whole.rows_per_s
        return Reading(self.read_s, caption_s, self.cores, self.device == "cpu")

    def fraction(self, result: StageResult) -> float | None:
        """Floor over median time: 1 is all that this machine can do (see FORMULA)."""
        ceilings = self.ceilings
        if result.costs is None or ceilings is None:
            return None
        floor_s = sum(cost.floor_s(ceilings, int8=self.int8) for cost in result.costs)
        return floor_s / result.timing.p50_s

    def limit(self, result: StageResult) -> str | None:
        """What sets the floor: `compute` or `memory`."""
        ceilings = self.ceilings
        if result.costs is None or ceilings is None:
            return None
        compute_s = sum(cost.compute_s(ceilings, int8=self.int8) for cost in result.costs)
        memory_s = sum(cost.memory_s(ceilings) for cost in result.costs)
        return "compute" if compute_s > memory_s else "memory"

    def rows(self) -> list[list[str]]:
        """The table, under COLUMNS."""
        rows = []
        for result in self.stages:
            timing, fraction = result.timing, self.fraction(result)
            times = (timing.p50_s, timing.p95_s, timing.p99_s)
            tokens = result.tokens_per_s
            rows.append(
                [
                    result.stage,
                    str(result.batch),
                    *(digits(1000 * seconds) for seconds in times),
                    digits(result.rows_per_s),
                    "–" if tokens is None else digits(tokens),
                    "–" if fraction is None else f"{100 * fraction:.0f} %",
                    self.limit(result) or "–",
                ]
            )
        return rows

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for one line of JSON."""
        return {
            "bundle": self.bundle,
            "bundle_id": self.bundle_id,
            "target": self.target,
            "settings": {**asdict(self.settings), "batch_sizes": list(self.settings.batch_sizes)},
            "device": self.device,
            "machine": describe_machine(self.device),
            "load_s": round(self.load_s, 4),
            "stages": [self._stage(result) for result in self.stages],
            "memory_bytes": {**self.memory_bytes, "peak": max(self.memory_bytes.values())},
            "reading": self.reading.to_dict(),
            "ceilings": None if self.ceilings is None else asdict(self.ceilings),
            "formula": None if self.ceilings is None else FORMULA,
        }

    def _stage(self, result: StageResult) -> dict[str, Any]:
        timing, fraction, tokens = result.timing, self.fraction(result), result.tokens_per_s
        times = {"p50": timing.p50_s, "p95": timing.p95_s, "p99": timing.p99_s}
        costs = result.costs
        return {
            "stage": result.stage,
            "batch": result.batch,
            "runs": len(timing.times_s),
            "latency_ms": {name: round(1000 * seconds, 4) for name, seconds in times.items()},
            "rows_per_s": round(result.rows_per_s, 3),
            "tokens_per_s": None if tokens is None else round(tokens, 2),
            "operations": None if costs is None else sum(cost.operations for cost in costs),
            "bytes": None if costs is None else sum(cost.bytes for cost in costs),
            "fraction_of_ceiling": None if fraction is None else round(fraction, 4),
            "limit": self.limit(result),
            "tokens_per_decode": _rounded(result.tokens_per_decode),
            "draft_acceptance": _rounded(result.acceptance),
            **{name: round(seconds, 6) for name, seconds in (result.stage_s or {}).items()},
        }


def run_bench(
    bundle: str | Path,
    settings: BenchSettings,
    advance: Callable[[str], object] = lambda done: None,
) -> BenchReport:
    """Load `bundle`, time its stages, then measure what the machine can do.

    `advance` is told the name of each phase as it is done. Raises BundleError for a bundle that
    cannot be used.
    """
    memory = {"start": peak_memory_bytes()}
    start = time.perf_counter()
    resolved = resolve_captioner(
        bundle,
        device=settings.device,
        dtype=settings.dtype,
        kv_cache=settings.kv_cache,
        allow_download=settings.allow_download,
    )
    captioner = open_captioner(
        resolved,
        threads=settings.threads,
        num_slots=max(settings.batch_sizes),
        speculation=settings.speculation,
    )
    with captioner:
        load_s = time.perf_counter() - start
        memory["load"] = peak_memory_bytes()
        advance("load")
        ran_on = captioner.runtime.device
        runner = _runner(captioner, resolved, settings)
        results = []
        for stage in STAGES:
            for batch in settings.batch_sizes:
                results.append(runner.run(stage, batch))
                advance(f"{stage} {batch}")
            memory[stage] = peak_memory_bytes()
        read_s = reading_s(captioner.preprocessor, quick=settings.quick)
    ceilings = None
    if ran_on == "cpu":  # after memory was read
        ceilings = measure_ceilings(settings.threads, quick=settings.quick)
    advance("ceilings")
    return BenchReport(
        bundle=str(bundle),
        bundle_id=captioner.bundle_id,
        target=resolved.target,
        int8=resolved.weights in ("int8", "int4"),
        settings=settings,
        load_s=load_s,
        stages=tuple(results),
        memory_bytes=memory,
        ceilings=ceilings,
        read_s=read_s,
        cores=settings.threads or available_cores(),
        device=ran_on,
    )


def _runner(
    captioner: Captioner, resolved: ResolvedCaptioner, settings: BenchSettings
) -> StageRunner:
    group = resolved.bundle.manifest.target.weight_group if resolved.bundle is not None else 0
    return StageRunner(
        captioner,
        make_inputs(captioner, max(settings.batch_sizes)),
        weight_bytes=_weight_bytes(resolved.weights),
        cache_bytes=1 if resolved.cache == "float8" else _bytes(resolved.cache),
        new_tokens=min(settings.new_tokens, captioner.config.max_caption_tokens),
        budget_s=0.05 if settings.quick else 1.5,
        min_repeats=2 if settings.quick else 5,
        layer_bytes=_layer_bytes(resolved.weights, group),
    )


def _weight_bytes(weights: str) -> int:
    """Of a number that a step reads. int4: of head, encoder and mapper, which are in int8. float8:
    of decode steps, which are in half precision, as the head is where those are in fp8 too."""
    known = {"int4": 1, "float8": 2, "float8-all": 2}
    return known[weights] if weights in known else _bytes(weights)


def _layer_bytes(weights: str, group: int) -> float | None:
    """Of a number in the decoder's layers, where it differs from others; group: of int4."""
    if group:
        return 0.5 + 4.5 / group  # with the scale and the zero point of each group
    return 1 if weights == "float8-all" else None


def _bytes(kind: str) -> int:
    return 2 if kind == "bfloat16" else np.dtype(kind).itemsize


def describe_machine(device: str = "cpu") -> dict[str, Any]:
    """What every published figure names: processor or GPU, system, versions, date."""
    packages = ("numpy", "onnxruntime", "onnxruntime-gpu", "tensorrt", "tensorrt-rtx", "torch")
    found = {name: installed_version(name) for name in packages}
    versions = {name: version for name, version in found.items() if version is not None}
    gpus = () if device == "cpu" else find_gpus().gpus
    processor = read_processor(available_cores())
    return {
        "processor": processor.name,
        "features": list(processor.features),
        "gpus": [gpu.name for gpu in gpus],
        "system": f"{platform.system()} {platform.machine()}",
        "versions": {"altogether-rt": __version__, "python": platform.python_version(), **versions},
        "date": time.strftime("%Y-%m-%d"),
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def digits(value: float) -> str:
    """Three significant digits, without an exponent."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"
