"""A Ray cluster of two nodes on this machine; a worker is killed in mid-run, then a node.

    python -m tests.jobs.shards.cluster.two_nodes DIR OUT [SHARDS [SAMPLES]]

Captions tars that it writes to DIR/in. Prints one JSON line: the states of the shards, who was
killed and what the engine said of it.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

from altogether_rt.data.sinks.shards.stats import RowCounts
from altogether_rt.jobs.shards.cluster.engine import ClusterShardEngine
from altogether_rt.jobs.shards.cluster.ray_cluster import connect
from altogether_rt.jobs.shards.run import caption_shards, plan_run
from tests.fake_captioner import FakeCaptioner
from tests.jobs.shards.stand_ins import job_for, make_tars


class Attacks:
    """Kills a worker once there are rows, and the second node after some more."""

    def __init__(self, cluster: Any, node: Any, out: Path, num_rows: int) -> None:
        self.cluster, self.node, self.out, self.num_rows = cluster, node, out, num_rows
        self.rows = 0
        self.killed: list[str] = []

    def on_rows(self, made: RowCounts) -> None:
        self.rows += made.rows
        if not self.killed:
            for path in self.out.rglob("claim.json"):
                os.kill(json.loads(path.read_text())["pid"], signal.SIGKILL)
                self.killed.append("worker")
                break
        elif len(self.killed) == 1 and self.rows > self.num_rows / 3:
            self.cluster.remove_node(self.node, allow_graceful=False)
            self.killed.append("node")


def main() -> None:
    folder, out = Path(sys.argv[1]), Path(sys.argv[2])
    num_shards, num_samples = (int(text) for text in (sys.argv[3:] or ("6", "40")))
    shards = make_tars(folder / "in", num_shards, num_samples)
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as temp_dir:
        os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_TMPDIR": temp_dir}
        from ray.cluster_utils import Cluster

        node_args = {"num_cpus": 1, "include_dashboard": False}
        cluster = Cluster(initialize_head=True, head_node_args=node_args)
        second = cluster.add_node(num_cpus=1)
        attacks = Attacks(cluster, second, out, num_shards * num_samples)
        restarts: list[str] = []
        job = job_for(out)
        try:
            engine = ClusterShardEngine(
                partial(connect, cluster.address, num_cpus=1),
                lambda threads: partial(FakeCaptioner, delay_s=0.05),
                on_restart=restarts.append,
            )
            with engine:
                summary = caption_shards(
                    plan_run(shards, job), job, engine, on_rows=attacks.on_rows
                )
        finally:
            cluster.shutdown()
    found = {
        "shards": dict(summary.shards),
        "rows": summary.counts.rows,
        "rows_told": attacks.rows,
        "killed": attacks.killed,
        "restarts": restarts,
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
