"""Every runtime and its peers on an NVIDIA GPU, in one command of under eight minutes.

    python benchmarks/gpu_suite.py
    python benchmarks/gpu_suite.py --only torch-float16,public-pipeline --config altogether-opt-1.3b

Makes a captioner of the published size with random weights, exports it for every GPU target that
can run here, compares each runtime with torch in float32, and measures images/s, latency, memory
and the fraction of the GPU's ceiling, and the whole from JPEG files to rows; beside them, the same
structure in other software. Each
contestant loads once, in a process of its own, and is given its largest batch first; results are
written whenever there is a new figure. Whatever is not installed, fails, crashes or finds no time
is listed with its reason. Writes benchmarks/results/gpu-NAME.json and .md. `--device cpu` runs the
same code with a tiny captioner on a CPU.
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
from dataclasses import replace
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.append(str(HERE.parent))  # the package of this checkout, if it is not installed

from gpu.contestants import Settings, contestants  # noqa: E402
from gpu.suite import Suite  # noqa: E402
from gpu.table import to_markdown  # noqa: E402
from harness.commands import write_json  # noqa: E402
from harness.contestant import choose  # noqa: E402
from harness.device_memory import query_gpu  # noqa: E402
from harness.schedule import Deadline  # noqa: E402

TINY = HERE / "gpu" / "tiny.toml"
GPU_CONFIGS = ["altogether-opt-1.3b"]
GPU_SIZES, CPU_SIZES = [1, 32, 128, 256], [1, 4]
#: target -> device that its bundle runs on. On a CPU the suite itself is tested.
GPU_TARGETS = {"cuda-fp16": "cuda", "tensorrt-fp16": "tensorrt"}
CPU_TARGETS = {"cpu-int8": "cpu"}
PACKAGES = (
    "altogether-rt", "torch", "onnxruntime", "onnxruntime-gpu", "tensorrt", "tensorrt-rtx",
    "transformers", "vllm",
)  # fmt: skip


def describe_machine(device: str) -> dict[str, Any]:
    """What every published figure must name: device, versions, date."""
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
    settings = Settings(
        device=arguments.device,
        configs=[str(TINY) if config == "tiny" else config for config in configs],
        batch_sizes=arguments.batch_size or (GPU_SIZES if on_gpu else CPU_SIZES),
        work=work,
        targets=GPU_TARGETS if on_gpu else CPU_TARGETS,
    )
    by_name = {one.name: one for one in contestants(settings)}
    return replace(settings, only=[one.name for one in choose(by_name, arguments.only)])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--config", action="append", help="may be repeated; tiny, a name or .toml")
    parser.add_argument("--batch-size", action="append", type=int, help="may be repeated")
    parser.add_argument("--only", metavar="A,B", help="names of the contestants to measure")
    parser.add_argument(
        "--seconds", type=float, default=465, help="for everything, making files included"
    )
    parser.add_argument("--work", type=Path, help="folder that keeps checkpoints and bundles")
    parser.add_argument("--out", type=Path, help="the .json; the table goes beside it")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the running process ends too
    deadline = Deadline(arguments.seconds)
    machine = describe_machine(arguments.device)
    name = (machine["gpu"] or {}).get("name", arguments.device)
    slug = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    out = arguments.out or HERE / "results" / f"gpu-{slug}.json"
    about = {"command": shlex.join(["python", *sys.argv]), "machine": machine}

    with tempfile.TemporaryDirectory() as temporary:
        work = (arguments.work or Path(temporary)).resolve()
        settings = settings_of(arguments, work)
        work.mkdir(parents=True, exist_ok=True)
        suite = Suite(
            settings,
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
