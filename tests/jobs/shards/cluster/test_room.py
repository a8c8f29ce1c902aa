"""How many workers a cluster has room for: worked out by hand."""

from __future__ import annotations

import pytest

from altogether_rt.errors import AltogetherError
from altogether_rt.jobs.shards.cluster.room import (
    Node,
    WorkerSize,
    fitting,
    local_cpus,
    plan_workers,
)

pytestmark = pytest.mark.lean

EIGHT, TWO, NONE = Node(8), Node(2), Node(0)
GPUS = Node(16, 4)


@pytest.mark.parametrize(
    ("nodes", "workers", "threads", "on_gpu", "expected"),
    [
        ([EIGHT, EIGHT], None, None, False, (4, WorkerSize(4))),
        ([TWO], None, None, False, (1, WorkerSize(2))),
        ([EIGHT, TWO], 2, None, False, (2, WorkerSize(4))),  # two of five do not fit on both
        ([EIGHT, NONE], 2, None, False, (2, WorkerSize(4))),
        ([EIGHT], 16, None, False, (8, WorkerSize(1))),
        ([EIGHT, TWO], None, 2, False, (5, WorkerSize(2))),
        ([EIGHT, TWO], 3, 2, False, (3, WorkerSize(2))),
        ([EIGHT, TWO], 9, 3, False, (2, WorkerSize(3))),  # the rest of each is not enough
        ([GPUS, EIGHT], None, None, True, (4, WorkerSize(4, 1))),
        ([GPUS, GPUS], 5, None, True, (5, WorkerSize(4, 1))),
        ([GPUS], None, 8, True, (2, WorkerSize(8, 1))),
    ],
)
def test_workers_of_a_cluster(
    nodes: list[Node],
    workers: int | None,
    threads: int | None,
    on_gpu: bool,
    expected: tuple[int, WorkerSize],
) -> None:
    assert plan_workers(nodes, workers, threads, on_gpu=on_gpu) == expected


@pytest.mark.parametrize(
    ("nodes", "threads", "on_gpu", "message"),
    [
        ([EIGHT, TWO], 9, False, "takes 9 CPUs of one machine, .* has 8 CPUs: give --threads 8"),
        ([NONE], None, False, "has 0 CPUs: add machines"),
        ([], 1, False, "add machines"),
        ([EIGHT], None, True, "no machine of the Ray cluster has one"),
        ([GPUS], 17, True, "17 CPUs and a GPU"),
    ],
)
def test_no_room_is_a_sentence(
    nodes: list[Node], threads: int | None, on_gpu: bool, message: str
) -> None:
    with pytest.raises(AltogetherError, match=message):
        plan_workers(nodes, 2, threads, on_gpu=on_gpu)


def test_what_fits() -> None:
    assert fitting([EIGHT, TWO, NONE], WorkerSize(2)) == 5
    assert fitting([GPUS], WorkerSize(1, 1)) == 4 and fitting([EIGHT], WorkerSize(1, 1)) == 0


def test_a_cluster_of_ones_own_has_what_is_asked_for() -> None:
    assert local_cpus(2, None, None) == 2
    assert local_cpus(2, 4, None) == 4 and local_cpus(2, 4, 2) == 8
    assert local_cpus(8, 2, 2) == 8
