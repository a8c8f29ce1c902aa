"""The number of threads that is measured to be fastest."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import nn

from altogether_rt.train.compute.threads import fastest_num_threads
from altogether_rt.train.loop import measure_pass
from altogether_rt.train.recipe import Optimization


@pytest.fixture(autouse=True)
def same_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[dict[int, float]], Callable[[], None]]:
    """A pass whose time, by the number of threads, is given."""
    now = 0.0
    monkeypatch.setattr("altogether_rt.train.compute.threads.time.perf_counter", lambda: now)

    def make(seconds: dict[int, float]) -> Callable[[], None]:
        def run() -> None:
            nonlocal now
            now += seconds[torch.get_num_threads()]

        return run

    return make


@pytest.mark.parametrize(
    ("seconds", "chosen"),
    [
        ({1: 0.10, 2: 0.12, 4: 0.30}, 1),
        ({1: 0.10, 2: 0.06, 4: 0.09}, 2),
        ({1: 0.10, 2: 0.06, 4: 0.04}, 4),
        ({1: 0.10, 2: 0.12, 4: 0.05}, 4),
        ({1: 0.10, 2: 0.098, 4: 0.097}, 1),  # hardly faster: the cores are left to others
        ({1: 9.0, 2: 4.0, 4: 2.0}, 4),  # so long a pass is not repeated
        ({1: 0.1, 2: 1.2, 4: 1.5}, 1),  # long because threads wait for each other
        ({1: 3.0, 2: 1.5, 4: 1.6}, 2),
    ],
)
def test_the_fastest_number_is_chosen(
    clock: Callable[[dict[int, float]], Callable[[], None]],
    seconds: dict[int, float],
    chosen: int,
) -> None:
    assert fastest_num_threads(clock(seconds), 4) == chosen
    assert torch.get_num_threads() == chosen


def test_threads_that_are_quick_only_now_and_then_are_not_chosen(
    clock: Callable[[dict[int, float]], Callable[[], None]],
) -> None:
    """As beside other processes: most passes with two threads wait for the second one."""
    seconds = {1: 0.10, 2: 0.06}
    run = clock(seconds)
    passes = 0

    def disturbed() -> None:
        nonlocal passes
        passes += torch.get_num_threads() == 2
        seconds[2] = 0.06 if passes % 4 == 0 else 0.4
        run()

    assert fastest_num_threads(disturbed, 2) == 1


def test_one_core_is_not_measured() -> None:
    def run() -> None:
        raise AssertionError

    assert fastest_num_threads(run, 1) == 1


class _Objective:
    """Draws random numbers, and has running means, as batch normalization does."""

    name = "norm"
    optimization = Optimization(1)

    def __init__(self) -> None:
        self.module = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Dropout())

    def loss(self, step: int, micro_batch: int) -> torch.Tensor:
        result: torch.Tensor = self.module(torch.randn(4, 3)).sum()
        return result

    def sample(self, step: int) -> str:
        return ""


def test_measuring_leaves_no_trace() -> None:
    objective = _Objective()
    before = {name: tensor.clone() for name, tensor in objective.module.state_dict().items()}
    generator = torch.get_rng_state()
    measure_pass(objective)
    for name, tensor in objective.module.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    assert all(parameter.grad is None for parameter in objective.module.parameters())
    assert torch.equal(torch.get_rng_state(), generator)
