"""Compile the float16 graphs of a configuration for NVIDIA GPUs: time and memory of each step.

    python benchmarks/aot_check.py --config altogether-opt-1.3b --work /tmp/aot [--sm 80,86,89,120]

Weights are random. Needs no GPU, and for the published size about 15 GB of disk and 10 GB of
memory. Each step runs in a process of its own. Writes benchmarks/results/aot-CONFIG.json.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT))  # the tests' random weights

from altogether_rt.artifacts.manifest import GRAPH_NAMES  # noqa: E402
from altogether_rt.bench.report import describe_machine  # noqa: E402
from altogether_rt.config import named_config  # noqa: E402
from altogether_rt.runtime.tensorrt.compiler import open_builder  # noqa: E402
from altogether_rt.runtime.tensorrt.profiles import profiles_for  # noqa: E402

#: ru_maxrss is in kilobytes on Linux, where all of this runs.
_MAXRSS_UNIT = 1024


def write(config: str, target: str, folder: Path) -> None:
    from tests.runtime.tensorrt.graphs import write_random_graphs

    write_random_graphs(named_config(config), target, folder)


def compile_graph(config: str, graph: str, sms: tuple[int, ...], folder: Path) -> None:
    profiles = profiles_for(graph, named_config(config))
    open_builder().compile(folder / f"{graph}.onnx", profiles, sms, folder / f"{graph}.plan")


def measured(step: Callable[..., None], *arguments: Any) -> dict[str, Any]:
    """Wall time and peak memory of a step in a new process. Exits if it fails."""
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    process = context.Process(target=_run, args=(results, step, *arguments))
    start = time.monotonic()
    process.start()
    process.join()
    if process.exitcode:
        raise SystemExit(f"{step.__name__}{arguments[1:]} ended with {process.exitcode}")
    peak = results.get() * _MAXRSS_UNIT
    return {"wall_s": round(time.monotonic() - start, 1), "peak_memory_gb": round(peak / 1e9, 2)}


def _run(results: Any, step: Callable[..., None], *arguments: Any) -> None:
    step(*arguments)
    results.put(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", default="altogether-opt-1.3b")
    parser.add_argument("--target", default="tensorrt-fp16")
    parser.add_argument("--sm", default="80,86,89,120", help="compute capabilities")
    parser.add_argument("--work", type=Path, required=True, help="folder for graphs and plans")
    parser.add_argument("--out", type=Path, help="the result; default: benchmarks/results/")
    arguments = parser.parse_args()
    folder: Path = arguments.work
    folder.mkdir(parents=True, exist_ok=True)
    sms = tuple(map(int, arguments.sm.split(",")))
    builder = open_builder()
    builder.check_targets(sms)
    steps = {"write graphs": measured(write, arguments.config, arguments.target, folder)}
    for graph in GRAPH_NAMES:
        taken = measured(compile_graph, arguments.config, graph, sms, folder)
        steps[f"compile {graph}"] = {
            **taken,
            "plan_bytes": (folder / f"{graph}.plan").stat().st_size,
        }
    result = {
        "machine": describe_machine(),
        "config": arguments.config,
        "target": arguments.target,
        "sm": sms,
        "builder": f"{builder.name} {builder.version}",
        "weights_bytes": (folder / "weights.bin").stat().st_size,
        "steps": steps,
    }
    out = arguments.out or ROOT / "benchmarks" / "results" / f"aot-{arguments.config}.json"
    out.write_text(json.dumps(result, indent=2) + "\n", "utf-8")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
