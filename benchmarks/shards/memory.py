"""Peak memory of `caption` with the starter over very large shards.

    python -m benchmarks.shards.memory WORK [--limit 48] [--gigabytes 10] [--group-mb 400]

A tar with as many bytes as that, sparse: pictures, and members of zeros between them; with
--dry-run, so that all its headers are read, and with --limit. A Parquet file whose row groups hold
400 MB of image bytes, with --limit. Memory is of the process and all that it starts. Writes
benchmarks/results/shards-memory.json.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image
from studies.record import write_result

from benchmarks.shards.dataset import tar_info

__all__ = ["main", "make_parquet", "make_tar"]

RESULT = Path(__file__).parents[1] / "results" / "shards-memory.json"

#: Bytes of the members of zeros, below the limit of a text that is read.
_ZEROS = 100_000_000
_TIMEOUT_S = 400


def make_tar(path: Path, num_bytes: int) -> int:
    """A sparse tar of about that size; returns the number of samples."""
    picture = _png(224, 0)
    samples = 0
    with path.open("wb") as file:
        while file.tell() < num_bytes:
            for name, content in (
                (f"{samples:06}.png", picture),
                (f"{samples:06}.txt", f"alt number {samples}".encode()),
            ):
                file.write(tar_info(name, len(content)).tobuf())
                file.write(content + bytes(-len(content) % 512))
            file.write(tar_info(f"{samples:06}.npy", _ZEROS).tobuf())
            file.seek(_ZEROS + -_ZEROS % 512, os.SEEK_CUR)
            samples += 1
        file.write(bytes(1024))
    return samples


def make_parquet(path: Path, group_bytes: int, groups: int) -> int:
    """Row groups of pictures that compress to nothing smaller; returns the number of rows."""
    picture = _png(800, 1)
    rows = group_bytes // len(picture)
    schema = pa.schema([("image", pa.binary()), ("caption", pa.string())])
    with pq.ParquetWriter(path, schema, compression="none", use_dictionary=False) as writer:
        for group in range(groups):
            alts = [f"alt number {group * rows + row}" for row in range(rows)]
            writer.write_table(pa.table([[picture] * rows, alts], schema=schema), rows)
    return rows * groups


def _png(side: int, seed: int) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def run(shard: Path, out: Path, *options: str) -> dict[str, Any]:
    """`caption` over one shard; what it took."""
    shutil.rmtree(out, ignore_errors=True)
    command = [sys.executable, "-m", "altogether_rt.cli.main", "caption", str(shard)]
    command += ["--out", str(out), "--quiet", *options]
    watch = [sys.executable, "-m", "benchmarks.shards.measured", str(_TIMEOUT_S), *command]
    done = subprocess.run(watch, capture_output=True, text=True)
    figures: dict[str, Any] = json.loads(done.stdout)
    return {"shard": shard.name, "bytes": shard.stat().st_size, "options": options, **figures}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("work", type=Path)
    parser.add_argument("--limit", type=int, default=48)
    parser.add_argument("--gigabytes", type=float, default=10)
    parser.add_argument("--group-mb", type=float, default=400)
    parser.add_argument("--result", type=Path, default=RESULT)
    given = parser.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    tar, parquet = given.work / "large.tar", given.work / "large.parquet"
    make_tar(tar, int(given.gigabytes * 1e9))
    make_parquet(parquet, int(given.group_mb * 1e6), 2)
    out, limit = given.work / "out", ("--limit", str(given.limit))
    runs = []
    for shard, options in ((tar, ("--dry-run",)), (tar, limit), (parquet, limit)):
        runs.append(run(shard, out, *options))
        print(json.dumps(runs[-1]), flush=True)
    most = max(max(figures["memory_mb"], figures["largest_process_mb"]) for figures in runs)
    settings = {
        "limit": given.limit,
        "gigabytes": given.gigabytes,
        "group_mb": given.group_mb,
        "load": [round(load, 1) for load in os.getloadavg()],
        "cores": os.cpu_count(),
    }
    write_result(given.result, settings, {"runs": runs, "most_memory_mb": round(most, 1)})
    sys.exit(0 if most < 600 and not any(figures["code"] for figures in runs) else 1)


if __name__ == "__main__":
    main()
