"""Assigns images to annotators: equal shares, some images to two people, never one's own text."""

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
    """Raises AltogetherError if a name is invalid or repeated, or the overlap needs more names."""
    for name in annotators:
        check_annotator(name)
    if len(set(annotators)) < len(annotators):
        raise AltogetherError("--annotators names somebody twice.")
    if overlap > 0 and len(annotators) < 2:
        raise AltogetherError("--overlap needs --annotators with at least two names.")


def assign(
    tasks: Sequence[Task], annotators: Sequence[str], overlap: float, seed: int
) -> list[Task]:
    """The tasks with their annotators set, in the same order.

    A share `overlap` of the images, drawn with the seed, goes to two annotators; gold images that
    were mixed in go to all. No one gets a text of their own unless there is no one else. Without
    annotators, anyone may answer everything.
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
    """A key that sorts names in random order; a name's key does not depend on other names."""
    name = file_name.encode("utf-8", "surrogateescape")
    return hashlib.sha256(f"{seed}/".encode() + name).digest()
