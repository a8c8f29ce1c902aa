"""How many threads a training stage computes with, where the user does not say."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

import torch

__all__ = ["fastest_num_threads"]

#: A pass this long, with all cores, is either much work or waits for them: it is not repeated with
#: every number.
_LONG_PASS_S: Final = 1.0
#: Turns in which the numbers are timed one after the other: what else the machine does meanwhile
#: then disturbs all of them alike. Times are added up rather than the shortest taken: beside other
#: processes, threads that wait for each other are quick now and then and slow on the whole.
_NUM_TURNS: Final = 8
#: More threads have to be this much faster, or the cores are left to others.
_MIN_GAIN: Final = 1.1


def fastest_num_threads(run: Callable[[], object], max_threads: int) -> int:
    """1, 2, 4, … or `max_threads`: the number with which `run` takes the shortest time.

    It is measured, because no rule holds. PyTorch's default, a thread a core, is slower than one
    thread for models as small as the starter where other processes use the cores too, or a quota
    cuts them: its products are so short that the threads mostly wait for each other. A decoder 128
    wide, batch 30, on two cores with a load of 14: 258 samples a second with one thread, 20 with
    two (three runs in turn, 2026-11-26, torch 2.13). Sets the number.

    run: one pass over a micro-batch.
    """
    choices = [count for power in range(10) if (count := 1 << power) < max_threads]
    choices.append(max_threads)
    torch.set_num_threads(max_threads)
    if len(choices) == 1:
        return max_threads
    run()  # allocates what later passes use again
    seconds = _time(run)
    if seconds > _LONG_PASS_S:
        return _by_halves(run, max_threads, seconds)
    total = dict.fromkeys(choices, 0.0)
    for _ in range(_NUM_TURNS):
        for count in choices:
            torch.set_num_threads(count)
            total[count] += _time(run)
        # Numbers that are far behind are not timed again: their passes are what takes long.
        choices = [count for count in choices if total[count] <= 3 * min(total.values())]
    chosen = choices[0]
    for count in choices[1:]:
        if total[count] * _MIN_GAIN < total[chosen]:
            chosen = count
    torch.set_num_threads(chosen)
    return chosen


def _by_halves(run: Callable[[], object], count: int, seconds: float) -> int:
    """Half the threads as long as that is not slower; one more pass, if all cores are worth it."""
    while count > 1:
        torch.set_num_threads(count // 2)
        half = _time(run)
        if half > seconds * _MIN_GAIN:
            break
        count, seconds = count // 2, half
    torch.set_num_threads(count)
    return count


def _time(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start
