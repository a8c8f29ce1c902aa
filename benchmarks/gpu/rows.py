"""What is kept of a contestant: keys of the file format, and which sizes it can be given."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from typing import Any

from harness.commands import Outcome
from harness.contestant import Contestant
from harness.turn import Turn

from altogether_rt.runtime.tensorrt.profiles import MAX_ROWS
from gpu.workload import Workload

__all__ = ["contestant_row", "missing_runtime", "supported_sizes"]


def contestant_row(
    contestant: Contestant,
    turn: Turn,
    workload: Workload,
    tried: Sequence[int],
    beyond: Sequence[int],
) -> dict[str, Any]:
    """A contestant's row: keys of the file format."""
    sweep, data = turn.sweep, dict(turn.figures)
    data.pop("peak_bytes", None)
    if "load_s" in data:
        data["load_s"] = round(data["load_s"], 3)
    if sweep.done:
        jobs = {cell.batch: job for cell, job in sweep.done.items()}
        data["sizes"] = [_size(batch, jobs[batch], workload) for batch in sorted(jobs)]
        data["peak_host_bytes"] = max(job["peak_bytes"] for job in jobs.values())
    if beyond:
        data["sizes_beyond_engines"] = list(beyond)
    if sweep.left_out:
        data["sizes_left_out"] = sorted(cell.batch for cell in sweep.left_out)
    if sweep.failed:
        data["sizes_failed"] = {str(cell.batch): reason for cell, reason in sweep.failed.items()}
    outcome = Outcome(
        contestant.name, turn.status, turn.reason, turn.seconds, turn.peak_device_bytes, data
    )
    lost = [*tried, *(cell.batch for cell in sweep.out_of_memory)]
    return outcome.to_dict() | {"sizes_out_of_memory": lost}


def _size(batch: int, job: Mapping[str, Any], workload: Workload) -> dict[str, Any]:
    """Figures of one batch size: keys of the file format."""
    images = job["images"]
    notes = {name: job[name] for name in ("tokens_per_caption",) if name in job}
    return {
        "batch": batch,
        "images": images,
        **job.get("stages", {}),
        "whole_s": round(job["seconds"] * batch / images, 5),
        "images_per_s": round(images / job["seconds"], 3),
        "workload": workload.describe(batch),
        **notes,
    }


def missing_runtime(device: str) -> str | None:
    """What a bundle for `device` cannot run without and this environment lacks, or None."""
    if device == "tensorrt":
        found = any(map(importlib.util.find_spec, ("tensorrt", "tensorrt_rtx")))
        return None if found else "neither tensorrt nor tensorrt_rtx is installed"
    if device == "cuda":
        if importlib.util.find_spec("onnxruntime") is None:
            return "onnxruntime-gpu is not installed"
        import onnxruntime

        if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
            return "onnxruntime here is the build for processors"
    return None


def supported_sizes(contestant: Contestant, sizes: Sequence[int]) -> tuple[list[int], list[int]]:
    """Batch sizes to measure, and those that no engine is compiled for."""
    wanted = sorted(sizes if contestant.batch_sizes is None else contestant.batch_sizes)
    on_tensorrt = contestant.options.get("device") == "tensorrt"
    beyond = [size for size in wanted if on_tensorrt and size > MAX_ROWS]
    return [size for size in wanted if size not in beyond], beyond
