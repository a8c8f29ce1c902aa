"""What keys cost grows with the number of samples, and not faster.

Steps are counted, calls of functions, and no time is measured.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from altogether_rt.data.shards.listing import list_shards
from altogether_rt.data.shards.samples.grouping import Parts, SampleGroups
from altogether_rt.data.shards.samples.row_keys import RowKey, UniqueKeys

pytestmark = pytest.mark.lean

#: Names of the members of sample N.
NAMES: dict[str, Callable[[int], list[str]]] = {
    "one key, a stem for each": lambda n: [f"photo.{n:05}.jpg", f"photo.{n:05}.txt"],
    "one name": lambda n: ["same.jpg", "same.txt"],
    "plain": lambda n: [f"{n:05}.jpg", f"{n:05}.txt"],
}


def steps(act: Callable[[], object]) -> int:
    """Functions that are called, those of C among them."""
    count = 0

    def note(frame: FrameType, event: str, argument: Any) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    former = sys.getprofile()
    sys.setprofile(note)
    try:
        act()
    finally:
        sys.setprofile(former)
    return count


def grouped(names: list[str]) -> list[Parts]:
    groups = SampleGroups()
    for name in names:
        groups.add(name, 0, 1)
    return list(groups.samples())


@pytest.mark.parametrize("kind", NAMES)
def test_twice_the_members_are_twice_the_work(kind: str) -> None:
    few, many = ([name for n in range(num) for name in NAMES[kind](n)] for num in (100, 200))
    assert len(grouped(many)) == 200
    assert steps(lambda: grouped(many)) < 2.5 * steps(lambda: grouped(few))


def test_twice_the_rows_of_one_key_are_twice_the_work() -> None:
    def keys(num: int) -> list[str]:
        unique = UniqueKeys().unique
        return [unique(RowKey("same")) for _ in range(num)]

    assert keys(4) == ["same", "same#2", "same#3", "same#4"]
    assert steps(lambda: keys(400)) < 2.5 * steps(lambda: keys(200))


def test_a_number_that_is_taken_is_passed_over() -> None:
    unique = UniqueKeys().unique
    texts = ["a", "a#3", "a", "a", "a#2", "a", "b"]
    assert [unique(RowKey(text)) for text in texts] == [
        *("a", "a#3", "a#2", "a#4", "a#2#2", "a#5", "b"),
    ]


def test_twice_the_shards_of_one_name_are_twice_the_work(tmp_path: Path) -> None:
    """As behind `https://host/get?id=1`; on a disk, names that differ in characters left out."""

    def listed(num: int) -> list[str]:
        folder = tmp_path / str(num)
        if not folder.exists():
            folder.mkdir()
            for number in range(num):  # each has another character that no output may have
                (folder / f"shard{chr(0x2200 + number)}.tar").touch()
        return [shard.name for shard in list_shards([str(folder)])]

    assert listed(200)[:3] == ["shard_.tar", "shard_.tar-2", "shard_.tar-3"]
    listed(100)
    assert steps(lambda: listed(200)) < 2.5 * steps(lambda: listed(100))


# -- which sample a member belongs to, by the rule as it reads


def belongs(suffix: str, stem: str, stems: set[str]) -> bool:
    mine = [other for other in stems if other and suffix.startswith(other + ".")]
    return not mine or max(mine, key=len) == stem


def test_members_belong_to_the_longest_stem_that_they_begin_with() -> None:
    rng = random.Random(0)
    for _ in range(500):
        suffixes = {
            ".".join([*rng.choices(["a", "b", "a.b", "ab"], k=rng.randint(0, 3)), last])
            for last in rng.choices(["jpg", "txt", "json", "cap"], k=12)
        }
        names = [f"k.{suffix}" for suffix in rng.sample(sorted(suffixes), len(suffixes))]
        stems = {name[2:-4] for name in names if name.endswith(".jpg")}
        if len(stems) < 2:
            continue
        others = [name[2:] for name in names if not name.endswith(".jpg")]
        samples = grouped(names)
        assert {parts.stem for parts in samples} == stems
        for parts in samples:
            mine = [suffix for suffix in others if belongs(suffix, parts.stem, stems)]
            assert [entry.suffix for entry in parts.others] == mine
