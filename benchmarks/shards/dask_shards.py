"""Dask with a task a shard, each as in `naive`.

python -m benchmarks.shards.dask_shards IN OUT [--workers N]
"""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks.shards.naive import caption_shard

__all__ = ["main"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("inputs", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--workers", type=int, default=1)
    given = parser.parse_args()
    from dask.distributed import Client, LocalCluster

    given.out.mkdir(parents=True, exist_ok=True)
    with (
        LocalCluster(
            n_workers=given.workers, threads_per_worker=1, processes=True, dashboard_address=None
        ) as cluster,
        Client(cluster) as client,
    ):
        tasks = [
            client.submit(caption_shard, path, given.out, pure=False)
            for path in sorted(given.inputs.glob("*.tar"))
        ]
        client.gather(tasks)


if __name__ == "__main__":
    main()
