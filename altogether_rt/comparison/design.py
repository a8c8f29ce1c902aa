"""Which captions of which image are compared, which side each is on, and what is repeated.

Every draw is a keyed hash of (seed, image), so an image's sides depend neither on the other
images nor on which system is named first. Pure logic: nothing is read.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from altogether_rt.comparison.inputs import Candidate

__all__ = ["Plan", "PlannedTask", "Split", "choose_pairs", "draw", "draw_order", "plan_tasks"]


@dataclass(frozen=True)
class PlannedTask:
    """Two captions of one image, as they will be shown."""

    candidate: Candidate
    left: int  # the system on that side, by its index
    right: int
    annotators: tuple[str, ...] = ()  # who is asked; empty: everyone
    is_repeat: bool = False  # the same pair was shown before, with sides swapped

    @property
    def left_caption(self) -> str:
        return self.candidate.captions[self.left]

    @property
    def right_caption(self) -> str:
        return self.candidate.captions[self.right]


@dataclass(frozen=True)
class Split:
    """Who judges what: a share of the tasks two annotators, each of the others one."""

    annotators: tuple[str, ...] = ()  # empty: whoever comes judges everything
    overlap: float = 0.0  # share of the tasks that two judge


@dataclass(frozen=True)
class Plan:
    """A study's tasks in the order in which they are shown, and pairs that need no annotator."""

    tasks: tuple[PlannedTask, ...]
    identical: tuple[PlannedTask, ...]  # the captions are equal: ties


def draw(seed: int, *about: object) -> float:
    """A number in [0, 1) that only (seed, about) decide."""
    text = json.dumps([seed, *about]).encode("ascii")
    return int.from_bytes(hashlib.sha256(text).digest()[:8], "big") / 2**64


def draw_order(candidates: Iterable[Candidate], seed: int) -> list[Candidate]:
    """The candidates in a random order. A smaller study with the same seed gets its beginning."""
    return sorted(candidates, key=lambda c: (draw(seed, "order", c.file_name), c.file_name))


def choose_pairs(
    candidates: Sequence[Candidate], num_systems: int, pairs_per_image: int, seed: int
) -> list[tuple[Candidate, int, int]]:
    """(image, system, other system) so that all pairs of systems occur about equally often.

    Each image gets up to `pairs_per_image` of the pairs that it has both captions for: those
    chosen least often so far, ties in random order. Every image's first pair comes before any
    image's second.
    """
    counts: Counter[tuple[int, int]] = Counter()
    num_rounds = min(pairs_per_image, math.comb(num_systems, 2))
    rounds: list[list[tuple[Candidate, int, int]]] = [[] for _ in range(num_rounds)]
    for candidate in candidates:
        possible = list(itertools.combinations(sorted(candidate.captions), 2))
        possible.sort(key=lambda p: (counts[p], draw(seed, "pair", candidate.file_name, *p)))
        for chosen, pair in zip(rounds, possible, strict=False):
            counts[pair] += 1
            chosen.append((candidate, *pair))
    return [pair for chosen in rounds for pair in chosen]


def plan_tasks(
    pairs: Sequence[tuple[Candidate, int, int]],
    *,
    seed: int,
    repeat_share: float,
    split: Split | None = None,
) -> Plan:
    """Draws the sides, assigns annotators, and repeats a share of the tasks with sides swapped.

    Only tasks of the first half are repeated, in the second half, so that about half of the study
    lies between the two showings.
    """
    drawn = [_with_sides(candidate, first, second, seed) for candidate, first, second in pairs]
    identical = tuple(task for task in drawn if task.left_caption == task.right_caption)
    once = [task for task in drawn if task.left_caption != task.right_caption]
    once = _assign(once, split or Split(), seed)
    half = len(once) // 2
    num_repeats = min(half, round(repeat_share * len(once)))
    if repeat_share > 0 and half:
        num_repeats = max(1, num_repeats)
    again = _draw_repeats(once[:half], num_repeats, seed)
    tasks, num_added = once[:half], 0
    for position, task in enumerate(once[half:], 1):
        tasks.append(task)
        due = num_repeats * position // (len(once) - half)
        tasks += again[num_added:due]
        num_added = due
    return Plan(tuple(tasks), identical)


def _with_sides(candidate: Candidate, first: int, second: int, seed: int) -> PlannedTask:
    """The captions are sorted before the coin is tossed, so that the same caption is on the left
    whichever system is named first."""
    texts = candidate.captions
    if (texts[second], second) < (texts[first], first):
        first, second = second, first
    if draw(seed, "side", candidate.file_name, texts[first], texts[second]) < 0.5:
        first, second = second, first
    return PlannedTask(candidate, first, second)


def _assign(tasks: Sequence[PlannedTask], split: Split, seed: int) -> list[PlannedTask]:
    """The tasks with their annotators: each goes to whoever has the fewest so far."""
    if not split.annotators:
        return list(tasks)
    by_draw = sorted(
        range(len(tasks)), key=lambda i: draw(seed, "overlap", tasks[i].candidate.file_name, i)
    )
    doubled = set(by_draw[: round(split.overlap * len(tasks))])
    load = dict.fromkeys(split.annotators, 0)
    assigned = []
    for i, task in enumerate(tasks):
        name = task.candidate.file_name
        free = sorted(load, key=lambda who: (load[who], draw(seed, "annotator", name, i, who)))
        chosen = tuple(sorted(free[: 2 if i in doubled else 1]))
        for who in chosen:
            load[who] += 1
        assigned.append(dataclasses.replace(task, annotators=chosen))
    return assigned


def _draw_repeats(tasks: Sequence[PlannedTask], num: int, seed: int) -> list[PlannedTask]:
    """`num` of the tasks, in their order, with sides swapped."""
    by_draw = sorted(
        range(len(tasks)), key=lambda i: draw(seed, "repeat", tasks[i].candidate.file_name, i)
    )
    chosen = [tasks[i] for i in sorted(by_draw[:num])]
    return [
        dataclasses.replace(task, left=task.right, right=task.left, is_repeat=True)
        for task in chosen
    ]
