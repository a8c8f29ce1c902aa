"""Where the time goes in each stage of the device path: milliseconds, and kernels by their share.

    python benchmarks/gpu_profile.py
    python benchmarks/gpu_profile.py --rows 128 --arithmetic float8-all:int8 --plain-rows

A captioner of the published size with random weights, or a checkpoint, and the GPU suite's prompts.
An arithmetic is a --dtype and, behind a colon, a --kv-cache of `altogether-rt caption`. First of
all every kernel between products is compared with plain PyTorch, and embeddings and logits of the
others with the first's. Writes a line of JSON a stage to --out as it goes. `--device cpu` with a
small --config runs the same code, of which only the order is of interest.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile

HERE = Path(__file__).resolve().parent
sys.path.append(str(HERE))
sys.path.append(str(HERE.parent))  # the package of this checkout, if it is not installed

from gpu.workload import Workload  # noqa: E402
from harness.adapters.ours import num_prefilled  # noqa: E402

from altogether_rt.artifacts.checkpoint import Checkpoint  # noqa: E402
from altogether_rt.bench.timing import measure  # noqa: E402
from altogether_rt.config import load_config  # noqa: E402
from altogether_rt.model.captioner import CaptionerModel  # noqa: E402
from altogether_rt.model.encoder import build_encoder  # noqa: E402
from altogether_rt.runtime.base import stack_arrays, wait_for  # noqa: E402
from altogether_rt.runtime.batches import decode_batch, prefill_batch  # noqa: E402
from altogether_rt.runtime.torch.arithmetic import Arithmetic  # noqa: E402
from altogether_rt.runtime.torch.device.api import CudaDevice, HostDevice  # noqa: E402
from altogether_rt.runtime.torch.device.runtime import DeviceTorchRuntime  # noqa: E402
from altogether_rt.runtime.torch.kernels.choice_of_rows import PLAIN_ROWS  # noqa: E402

#: What is measured unless something else is asked for.
ARITHMETICS = ("float16", "float8", "float8-all:int8")
#: Seconds for measuring a stage.
BUDGET_S = 0.4
#: Kernels that are listed of each stage.
LISTED = 12
#: Captions are this long in the step that is measured, as in the middle of the suite's.
WRITTEN = 32


def stages(
    runtime: DeviceTorchRuntime, workload: Workload
) -> tuple[dict[str, Callable[[], object]], dict[str, Any]]:
    """What each stage runs, for all rows of the workload at once; and some of its results."""
    width = runtime.token_width
    embeddings = runtime.encode(workload.pixels)
    visual = runtime.map(embeddings)
    together = num_prefilled(workload.prompt_lengths, runtime.prefill_tokens)
    prompts = prefill_batch(
        stack_arrays([visual[row] for row in range(together)]), workload.prompt_ids[:together]
    )
    past = [length + min(WRITTEN, workload.new_tokens) for length in workload.prompt_lengths]
    decode = decode_batch([5] * workload.rows, past, width)
    found = {
        "embeddings": np.asarray(embeddings),
        "logits": runtime.step(prompts, want_logits=True).logits,
    }
    actions: dict[str, Callable[[], object]] = {
        "encoder": lambda: wait_for(runtime.encode(workload.pixels)),
        "mapper": lambda: wait_for(runtime.map(embeddings)),
        f"prefill of {together}": lambda: runtime.step(prompts),
        "decode step": lambda: runtime.step(decode),
    }
    return actions, found


def kernels_of(action: Callable[[], object], on_gpu: bool) -> list[dict[str, Any]]:
    """The kernels of one run, the longest first: ms, number of calls, name."""
    kind = ProfilerActivity.CUDA if on_gpu else ProfilerActivity.CPU
    with profile(activities=[kind]) as record:
        action()
    found = []
    for each in record.key_averages():
        spent = each.self_device_time_total if on_gpu else each.self_cpu_time_total
        found.append({"ms": round(spent / 1000, 4), "calls": each.count, "name": each.key[:100]})
    return sorted(found, key=lambda each: -each["ms"])[:LISTED]


def mean_cosine(found: Any, wanted: Any) -> float:
    one, other = (np.asarray(x, np.float64).reshape(-1, x.shape[-1]) for x in (found, wanted))
    norms = np.linalg.norm(one, axis=-1) * np.linalg.norm(other, axis=-1)
    return float(((one * other).sum(axis=-1) / norms).mean())


def run(arguments: argparse.Namespace, out: TextIO) -> None:
    def say(**figures: Any) -> None:
        line = json.dumps(figures)
        print(line, flush=True)
        out.write(line + "\n")
        out.flush()

    on_gpu = arguments.device == "cuda"
    model = _model(arguments)
    config = model.config
    wanted: dict[str, Any] = {}
    for arithmetic in arguments.arithmetic or ARITHMETICS:
        dtype, _, kv_cache = arithmetic.partition(":")
        chosen = Arithmetic(dtype, kv_cache or "auto")  # type: ignore[arg-type]
        runtime = DeviceTorchRuntime(
            model,  # of which it copies what it can pack
            CudaDevice(0) if on_gpu else HostDevice(),
            num_slots=max(arguments.rows),
            dtype=chosen.type if on_gpu else torch.float32,
            kept=chosen.kept,
            float8=chosen.float8,
            rows=PLAIN_ROWS if arguments.plain_rows else None,
        )
        with runtime:
            say(arithmetic=arithmetic, plain_rows=runtime._packing.rows is PLAIN_ROWS)
            for rows in arguments.rows:
                actions, found = stages(runtime, Workload.of(config, rows))
                if rows == arguments.rows[0]:
                    for name, array in found.items():
                        cosine = mean_cosine(array, wanted.setdefault(name, array))
                        say(arithmetic=arithmetic, compared=name, cosine=round(cosine, 6))
                for stage, action in actions.items():
                    ms = 1000 * measure(action, budget_s=BUDGET_S, min_repeats=3).p50_s
                    listed = kernels_of(action, on_gpu) if not arguments.times else None
                    say(arithmetic=arithmetic, rows=rows, stage=stage, ms=ms, kernels=listed)


def _model(arguments: argparse.Namespace) -> CaptionerModel:
    if arguments.ckpt is not None:
        return Checkpoint.load(arguments.ckpt).captioner()
    config = load_config(arguments.config)
    torch.manual_seed(0)
    return CaptionerModel(config, build_encoder(config.encoder)).eval()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", default="altogether-opt-1.3b", help="a name, or a .toml file")
    parser.add_argument("--ckpt", type=Path, help="a checkpoint, instead of random weights")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--rows", type=int, action="append", help="may be repeated; 256, 128, 1")
    parser.add_argument(
        "--arithmetic", action="append", help=f"may be repeated; {', '.join(ARITHMETICS)}"
    )
    parser.add_argument("--plain-rows", action="store_true", help="without the row kernels")
    parser.add_argument("--times", action="store_true", help="list no kernels")
    parser.add_argument("--out", type=Path, default=Path("gpu-profile.jsonl"))
    arguments = parser.parse_args()
    arguments.rows = arguments.rows or [256, 128, 1]
    logging.basicConfig(level=logging.INFO, format="%(message)s")  # which kernels, and why not
    with arguments.out.open("w", encoding="utf-8") as out:
        run(arguments, out)


if __name__ == "__main__":
    main()
