"""The toolkit's own commands, run as a user runs them, and what they answer."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from altogether_rt.artifacts.bundle import Bundle

__all__ = ["caption_folder", "run", "size_and_parity", "time_one_image"]


def run(*arguments: str | Path) -> str:
    """What `altogether-rt ARGUMENTS` writes to stdout; stops it if this process is stopped."""
    command = [sys.executable, "-m", "altogether_rt.cli.main", *map(str, arguments)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            output, _ = process.communicate()
        except BaseException:
            process.terminate()
            raise
    if process.returncode:
        raise SystemExit(f"altogether-rt {arguments[0]} failed with {process.returncode}")
    return output


def caption_folder(captioner: Path, scenes: Path, out: Path, threads: int) -> dict[str, Any]:
    """Caption a folder of scenes: `captions` in its order, and `images_per_s` without loading."""
    rows = out.with_suffix(".jsonl")
    rows.unlink(missing_ok=True)
    answer = run(
        "caption", scenes, "--alt", scenes / "alts.jsonl", "--bundle", captioner,
        "--out", rows, "--threads", str(threads), "--json",
    )  # fmt: skip
    summary = json.loads(answer)
    texts = [json.loads(line)["caption"] for line in rows.read_text("utf-8").splitlines()]
    return {"captions": texts, "images_per_s": summary["captioned"] / summary["seconds"]}


def time_one_image(captioner: Path, threads: int) -> dict[str, Any]:
    """Seconds from an image in memory to its caption, and peak memory, by `bench`.

    load_average: of the machine at its end, over a minute; `bench` alone makes some of it.
    """
    answer = run(
        "bench", "--bundle", captioner, "--batch-sizes", "1", "--threads", str(threads), "--json"
    )
    found = json.loads(answer)
    (whole,) = (stage for stage in found["stages"] if stage["stage"] == "whole")
    return {
        "image_s": whole["latency_ms"]["p50"] / 1000,
        "images": whole["runs"],
        "peak_memory_bytes": found["memory_bytes"]["peak"],
        "load_s": found["load_s"],
        "load_average": os.getloadavg()[0],
    }


def size_and_parity(folder: Path) -> dict[str, Any]:
    """Bytes of a checkpoint or a bundle; of a bundle, parity as `export` measured it."""
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    if not (folder / "bundle.json").exists():
        return {"bytes": size}
    return {"bytes": size, "parity": dict(Bundle.load(folder).manifest.parity)}
