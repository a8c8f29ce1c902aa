"""Everything that a machine with an NVIDIA GPU can show, in one command and under ten minutes.

    python benchmarks/gpu_suite.py

Makes captioners of two sizes with random weights, exports them for every target that this version
has, compares each runtime with torch in float32, and measures images/s, latency, memory and the
fraction reached of what the GPU can do; beside it, the same structure in other software. Whatever
is not installed, fails, crashes or finds no time is listed with its reason. Writes
benchmarks/results/gpu-NAME.json and .md. `--device cpu --config tiny` runs the same code anywhere.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import platform
import re
import shlex
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from gpu.clock import Deadline
from gpu.memory import query_gpu
from gpu.suite import Settings, Suite, write_json
from gpu.table import to_markdown

HERE = Path(__file__).resolve().parent
TINY = HERE / "gpu" / "tiny.toml"
GPU_CONFIGS = ["altogether-opt-125m", "altogether-opt-1.3b"]
GPU_SIZES, CPU_SIZES = [1, 8, 32, 128], [1, 4]
#: target -> device of `Captioner.load`; on a CPU the same code runs on what there is.
GPU_TARGETS = {"cuda-fp16": "cuda", "tensorrt-fp16": "tensorrt"}
CPU_TARGETS = {"cpu-int8": "cpu"}
PACKAGES = (
    "altogether-rt", "torch", "onnxruntime", "onnxruntime-gpu", "tensorrt", "tensorrt-rtx",
    "transformers", "vllm",
)  # fmt: skip


def describe_machine(device: str) -> dict[str, Any]:
    """What every published figure names."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    about: dict[str, Any] = {
        "device": device,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "versions": versions,
        "date": time.strftime("%Y-%m-%d"),
    }
    fields = ("name", "compute_cap", "memory.total", "driver_version")
    answer = query_gpu(*fields) if device == "cuda" else None
    return about | {"gpu": dict(zip(fields, answer, strict=True)) if answer else None}


def settings_of(arguments: argparse.Namespace, work: Path) -> Settings:
    on_gpu = arguments.device == "cuda"
    configs = arguments.config or (GPU_CONFIGS if on_gpu else ["tiny"])
    return Settings(
        device=arguments.device,
        configs=[str(TINY) if config == "tiny" else config for config in configs],
        batch_sizes=arguments.batch_size or (GPU_SIZES if on_gpu else CPU_SIZES),
        work=work,
        targets=GPU_TARGETS if on_gpu else CPU_TARGETS,
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--config", action="append", help="may be repeated; tiny, a name or .toml")
    parser.add_argument("--batch-size", action="append", type=int, help="may be repeated")
    parser.add_argument("--seconds", type=float, default=560, help="for everything")
    parser.add_argument("--work", type=Path, help="folder that keeps checkpoints and bundles")
    parser.add_argument("--out", type=Path, help="the .json; the table goes beside it")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the part under way ends too
    deadline = Deadline(arguments.seconds)
    machine = describe_machine(arguments.device)
    name = (machine["gpu"] or {}).get("name", arguments.device)
    slug = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    out = arguments.out or HERE / "results" / f"gpu-{slug}.json"
    about = {"command": shlex.join(["python", *sys.argv]), "machine": machine}

    with tempfile.TemporaryDirectory() as temporary:
        work = arguments.work or Path(temporary)
        work.mkdir(parents=True, exist_ok=True)
        suite = Suite(
            settings_of(arguments, work),
            deadline,
            save=lambda results: write_json(out, about | results),
            report=lambda line: print(line, file=sys.stderr, flush=True),
        )
        results = suite.run()
    write_json(out, about | results)
    table = f"{name}, {machine['date']}\n\n{to_markdown(results)}"
    out.with_suffix(".md").write_text(table, "utf-8")
    print(table)


if __name__ == "__main__":
    main()
