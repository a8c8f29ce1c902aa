"""Who answers what: even shares, some images twice, nobody their own text again."""

from __future__ import annotations

import dataclasses
import hashlib
from collections import Counter
from collections.abc import Sequence

from altogether_rt.annotation.work import Task
from altogether_rt.errors import AltogetherError
from altogether_rt.web.answers import check_annotator

__all__ = ["assign", "check_shares", "draw_order"]


def check_shares(annotators: Sequence[str], overlap: float) -> None:
    """Raises AltogetherError if the names or the overlap cannot be meant."""
    for name in annotators:
        check_annotator(name)
    if len(set(annotators)) < len(annotators):
        raise AltogetherError("--annotators names somebody twice.")
    if overlap > 0 and len(annotators) < 2:
        raise AltogetherError("--overlap needs --annotators with at least two names.")


def assign(
    tasks: Sequence[Task], annotators: Sequence[str], overlap: float, seed: int
) -> list[Task]:
    """The tasks with their annotators, in the same order.

    A share `overlap` of the images, drawn by the seed, goes to two; those that are there for
    their facts go to everybody. Where there is a choice, nobody gets a text of their own. Without
    annotators, whoever comes answers everything.
    """
    if not annotators:
        return [dataclasses.replace(task, annotators=()) for task in tasks]
    own = sorted(
        (task for task in tasks if not task.extra), key=lambda t: draw_order(t.file_name, seed)
    )
    num_doubled = round(overlap * len(own))
    load: Counter[str] = Counter()
    pairs: Counter[frozenset[str]] = Counter()
    chosen: dict[Task, tuple[str, ...]] = {t: tuple(annotators) for t in tasks if t.extra}
    for index, task in enumerate(own):
        first = min(annotators, key=lambda n: (n == task.author, load[n], annotators.index(n)))
        load[first] += 1
        names = [first]
        if index < num_doubled:
            others = [name for name in annotators if name != first]
            second = min(
                others, key=lambda n: (n == task.author, load[n], pairs[frozenset((first, n))])
            )
            load[second] += 1
            pairs[frozenset((first, second))] += 1
            names.append(second)
        chosen[task] = tuple(names)
    return [dataclasses.replace(task, annotators=chosen[task]) for task in tasks]


def draw_order(file_name: str, seed: int) -> bytes:
    """Sorts names by lot; a name's lot does not depend on the others."""
    name = file_name.encode("utf-8", "surrogateescape")
    return hashlib.sha256(f"{seed}/".encode() + name).digest()
