"""How many workers a cluster has room for, and how large they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from altogether_rt.errors import AltogetherError

__all__ = ["Node", "WorkerSize", "fitting", "local_cpus", "plan_workers"]

#: Cores of a worker if nobody says how many workers there are, nor how large.
_DEFAULT_THREADS = 4


@dataclass(frozen=True)
class Node:
    """What a machine of the cluster offers to workers."""

    num_cpus: float
    num_gpus: float = 0.0


@dataclass(frozen=True)
class WorkerSize:
    """What each worker takes of one machine."""

    threads: int
    num_gpus: int = 0

    def __str__(self) -> str:
        cpus = f"{self.threads} CPU{'s' if self.threads > 1 else ''}"
        return f"{cpus} and a GPU" if self.num_gpus else cpus


def fitting(nodes: Sequence[Node], size: WorkerSize) -> int:
    """Workers of this size that run at once on machines of which nobody else takes anything."""
    return sum(_fitting_on(node, size) for node in nodes)


def _fitting_on(node: Node, size: WorkerSize) -> int:
    by_cpus = int(node.num_cpus // size.threads)
    return min(by_cpus, int(node.num_gpus // size.num_gpus)) if size.num_gpus else by_cpus


def local_cpus(cores: int, workers: int | None, threads: int | None) -> int:
    """CPUs of a cluster on this machine alone: its cores, or as many as are asked for."""
    return max(cores, (workers or 1) * (threads or 1))


def plan_workers(
    nodes: Sequence[Node], workers: int | None, threads: int | None, *, on_gpu: bool
) -> tuple[int, WorkerSize]:
    """How many workers to start, and their size.

    workers: at most; None: as many as fit. threads: of each; by default the workers share the
    cores, and a worker with a GPU takes its part of those of its machine. Raises AltogetherError
    if not even one fits.
    """
    num_gpus = int(on_gpu)
    usable = [node for node in nodes if node.num_cpus >= 1 and node.num_gpus >= num_gpus]
    size = WorkerSize(threads or _default_threads(usable, workers, on_gpu=on_gpu), num_gpus)
    count = fitting(nodes, size)
    if count == 0:
        raise AltogetherError(_why_none_fits(nodes, size))
    return min(count, workers or count), size


def _default_threads(usable: Sequence[Node], workers: int | None, *, on_gpu: bool) -> int:
    if not usable:
        return 1
    if on_gpu:
        return int(min(max(1, node.num_cpus // node.num_gpus) for node in usable))
    largest = int(max(node.num_cpus for node in usable))
    if workers is None:
        return min(_DEFAULT_THREADS, largest)
    total = int(sum(node.num_cpus for node in usable))
    threads = max(1, min(largest, total // workers))
    while threads > 1 and fitting(usable, WorkerSize(threads)) < workers:
        threads -= 1
    return threads


def _why_none_fits(nodes: Sequence[Node], size: WorkerSize) -> str:
    cpus = max((int(node.num_cpus) for node in nodes), default=0)
    if size.num_gpus and not any(node.num_gpus >= 1 for node in nodes):
        return (
            "the captioner runs on a GPU, and no machine of the Ray cluster has one: add such a "
            "machine, or give a bundle that was exported for cpu."
        )
    remedy = f"give --threads {cpus}, or add a larger machine" if cpus else "add machines"
    return (
        f"a worker takes {size} of one machine, and the largest machine of the Ray cluster has "
        f"{cpus} CPUs: {remedy}."
    )
