"""What the reader makes: JPEG files as the web has them to the pixels that an encoder sees.

    python benchmarks/reading.py --images PHOTOGRAPHS
    python benchmarks/reading.py --num 100 --threads

The files are made of photographs (smooth shapes without `--images`), longer side 800 pixels at the
median. Measured is what `caption` does with a file before the encoder has it: hash, checks,
decoding, resizing, hash of the pixels; also with --fast-jpeg. Seconds are those that a core spends
on it, so other programs on the machine change them less. With --threads, images/s of one process by
its threads as well, which says something on a machine that is otherwise idle. Writes
benchmarks/results/reading.json and .md.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from types import SimpleNamespace
from typing import Any

from PIL import Image

HERE = Path(__file__).resolve().parent
sys.path.append(str(HERE))
sys.path.append(str(HERE.parent))  # the package of this checkout, if it is not installed

from gpu.jpegs import make_jpegs  # noqa: E402

from altogether_rt.bench.report import describe_machine  # noqa: E402
from altogether_rt.captions import CaptionParams, content_hash  # noqa: E402
from altogether_rt.config import load_config  # noqa: E402
from altogether_rt.data.alts import Alts  # noqa: E402
from altogether_rt.data.file_hash import file_hash  # noqa: E402
from altogether_rt.data.images import ImageLimits, load_image  # noqa: E402
from altogether_rt.data.sources.base import Sample  # noqa: E402
from altogether_rt.jobs.plan import CaptionPlan, Task  # noqa: E402
from altogether_rt.machine.limits import available_cores  # noqa: E402
from altogether_rt.preprocess.pixels import Preprocessor  # noqa: E402

RESULTS = HERE / "results" / "reading.json"
CONFIG = "altogether-opt-1.3b"  # 224 pixels, bicubic
#: Images/s that a GPU with 16 cores beside it should be able to caption.
WANTED, WANTED_CORES = 500, 16

Read = Callable[[Path], object]


def readers(config_name: str) -> dict[str, Read]:
    """What is measured, by name: the whole, the whole with --fast-jpeg, and parts of it."""
    config = load_config(config_name)
    preprocessor = Preprocessor(config.encoder)
    captioner: Any = SimpleNamespace(preprocessor=preprocessor)
    limits = ImageLimits()

    def whole(fast: bool) -> Read:
        plan = CaptionPlan(CaptionParams(1, 0.0, 1.0), limits, fast_jpeg=fast)
        reader = plan.reader(captioner)
        return lambda path: reader(Task(0, Sample(path.name, Alts(), path)))

    return {
        "whole": whole(False),
        "whole, --fast-jpeg": whole(True),
        "Pillow alone": _pillow,
        "checks and decoding": lambda path: load_image(path, limits),
        "hash of the file": lambda path: file_hash(path, limits),
    }


def measure(paths: Sequence[Path], config_name: str, passes: int = 3) -> dict[str, Any]:
    """Processor seconds an image of each reader, and of the resizing, in this thread."""
    seconds = {
        name: median(_pass_s(read, paths) for _ in range(passes))
        for name, read in readers(config_name).items()
    }
    preprocessor = Preprocessor(load_config(config_name).encoder)
    images = [load_image(path) for path in paths[:20]]  # decoded, few at a time
    resizing = [_timed(lambda i=i: content_hash(preprocessor.pixels(i))) for i in images]
    seconds["resizing, and hash of the pixels"] = sum(resizing) / len(resizing)
    return {
        name: {"core_ms": round(1000 * value, 3), "images_per_core_s": round(1 / value, 1)}
        for name, value in seconds.items()
    }


def threaded(paths: Sequence[Path], config_name: str, counts: Sequence[int]) -> dict[str, Any]:
    """Images/s of wall-clock time by number of threads, as one process of `caption` reads."""
    read = readers(config_name)["whole"]
    rates = {}
    for count in counts:
        with ThreadPoolExecutor(count) as pool:
            start = time.perf_counter()
            list(pool.map(read, paths))
            rates[str(count)] = round(len(paths) / (time.perf_counter() - start), 1)
    return rates


def describe_files(paths: Sequence[Path]) -> dict[str, Any]:
    sizes = [Image.open(path).size for path in paths]
    pixels = [width * height for width, height in sizes]
    return {
        "files": len(paths),
        "median_longer_side": median(map(max, sizes)),
        "median_bytes": median(path.stat().st_size for path in paths),
        "bytes_per_pixel": round(sum(p.stat().st_size for p in paths) / sum(pixels), 3),
    }


def to_markdown(result: dict[str, Any]) -> str:
    files = result["files"]
    whole = result["readers"]["whole"]["images_per_core_s"]
    lines = [
        f"{result['machine']['processor']}, {result['machine']['date']}; {files['files']} JPEG "
        f"files, longer side {files['median_longer_side']:.0f} pixels at the median, "
        f"{files['bytes_per_pixel']} bytes a pixel.",
        "",
        "| | ms of a core, an image | images/s of a core |",
        "|---|---:|---:|",
    ]
    for name, figures in result["readers"].items():
        lines.append(f"| {name} | {figures['core_ms']:.2f} | {figures['images_per_core_s']:.0f} |")
    lines += [
        "",
        f"{WANTED} images/s need {WANTED / whole:.1f} cores like these; with {WANTED_CORES}, "
        f"reading is what limits beyond {WANTED_CORES * whole:,.0f} images/s.",
    ]
    if result["threads"]:
        rates = ", ".join(f"{count}: {rate:.0f}" for count, rate in result["threads"].items())
        lines += ["", f"Images/s of one process by threads: {rates}."]
    return "\n".join(lines)


def _command(arguments: argparse.Namespace) -> str:
    """How it was called; where the photographs lie is of no interest."""
    images = " --images PHOTOGRAPHS" if arguments.images else ""
    return f"python benchmarks/reading.py{images} --num {arguments.num}"


def _pillow(path: Path) -> None:
    Image.open(path).convert("RGB")


def _pass_s(read: Read, paths: Sequence[Path]) -> float:
    return _timed(lambda: [read(path) for path in paths]) / len(paths)


def _timed(action: Callable[[], object]) -> float:
    """Seconds of this thread's processor."""
    start = time.thread_time()
    action()
    return time.thread_time() - start


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=Path, help="folder of photographs; default: made-up ones")
    parser.add_argument("--num", type=int, default=200)
    parser.add_argument("--config", default=CONFIG)
    parser.add_argument("--threads", action="store_true", help="also by number of threads")
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    photographs = sorted(arguments.images.glob("*.jpg")) if arguments.images else []
    with tempfile.TemporaryDirectory() as temporary:
        paths = make_jpegs(Path(temporary), arguments.num, photographs)
        counts = sorted({1, available_cores(), 2 * available_cores()})
        result = {
            "command": _command(arguments),
            "machine": describe_machine(),
            "photographs": len(photographs),
            "files": describe_files(paths),
            "readers": measure(paths, arguments.config),
            "threads": threaded(paths, arguments.config, counts) if arguments.threads else {},
            "cores": available_cores(),
            "load": os.getloadavg()[0],
        }
    text = to_markdown(result)
    arguments.out.write_text(json.dumps(result, indent=2, ensure_ascii=False) + "\n", "utf-8")
    arguments.out.with_suffix(".md").write_text(text + "\n", "utf-8")
    print(text)


if __name__ == "__main__":
    main()
