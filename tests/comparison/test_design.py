"""Who stands where, what comes again, and which pairs are chosen."""

from __future__ import annotations

from collections import Counter

import pytest

from altogether_rt.comparison.design import (
    Plan,
    Split,
    choose_pairs,
    draw_order,
    plan_tasks,
)
from altogether_rt.comparison.inputs import Candidate
from altogether_rt.statistics import sign_test

pytestmark = pytest.mark.lean


def candidates(num: int, num_systems: int = 2) -> list[Candidate]:
    return [
        Candidate(f"{i}.png", {s: f"caption {s} of {i}" for s in range(num_systems)}, ())
        for i in range(num)
    ]


def plan(found: list[Candidate], seed: int = 1, repeat: float = 0.1, **split: object) -> Plan:
    pairs = choose_pairs(draw_order(found, seed), 2, 1, seed)
    return plan_tasks(pairs, seed=seed, repeat_share=repeat, split=Split(**split))  # type: ignore[arg-type]


def sides(planned: Plan) -> dict[str, tuple[str, str]]:
    return {
        task.candidate.file_name: (task.left_caption, task.right_caption)
        for task in planned.tasks
        if not task.is_repeat
    }


def test_sides_are_drawn_from_seed_and_image_alone() -> None:
    found = candidates(400)
    once = sides(plan(found))
    assert sides(plan(found)) == once
    fewer = sides(plan(found[100:150]))
    assert fewer == {name: once[name] for name in fewer}  # whatever else is in the study
    assert sides(plan(found, seed=2)) != once
    num_left = sum(left.startswith("caption 0") for left, _ in once.values())
    assert sign_test(num_left, 400 - num_left) > 0.01  # a fair coin: fixed by the seed


def test_naming_the_systems_in_another_order_changes_nothing_that_is_shown() -> None:
    found = candidates(100)
    swapped = [Candidate(c.file_name, {0: c.captions[1], 1: c.captions[0]}, ()) for c in found]
    assert sides(plan(swapped)) == sides(plan(found))
    shown = [(t.candidate.file_name, t.left_caption) for t in plan(found).tasks]
    assert [(t.candidate.file_name, t.left_caption) for t in plan(swapped).tasks] == shown


@pytest.mark.parametrize(
    ("num", "share", "expected"), [(100, 0.1, 10), (101, 0.1, 10), (2, 0.1, 1), (100, 0.5, 50)]
)
def test_a_share_comes_again_swapped_half_a_study_later(
    num: int, share: float, expected: int
) -> None:
    tasks = plan(candidates(num), repeat=share).tasks
    again = [(i, task) for i, task in enumerate(tasks) if task.is_repeat]
    assert len(again) == expected
    assert len(tasks) == num + expected
    first = {task.candidate.file_name: i for i, task in enumerate(tasks) if not task.is_repeat}
    for index, task in again:
        before = tasks[first[task.candidate.file_name]]
        assert (before.left, before.right) == (task.right, task.left)
        assert index - first[task.candidate.file_name] > (num // 4 if num > 2 else 0)
    assert len({task.candidate.file_name for _, task in again}) == expected
    if num > 2 and share < 0.5:  # drawn from the first half, not its beginning
        assert sorted(first[task.candidate.file_name] for _, task in again) != list(range(expected))


def test_no_repeats_of_nothing_and_none_if_none_are_wanted() -> None:
    assert not any(task.is_repeat for task in plan(candidates(50), repeat=0.0).tasks)
    assert len(plan(candidates(1)).tasks) == 1
    assert plan([]).tasks == ()


def test_identical_captions_are_not_asked_about() -> None:
    found = [*candidates(10), Candidate("same.png", {0: "a boat", 1: "a boat"}, ())]
    planned = plan(found)
    assert [task.candidate.file_name for task in planned.identical] == ["same.png"]
    assert "same.png" not in {task.candidate.file_name for task in planned.tasks}


def test_annotators_get_equal_shares_and_two_get_the_overlap() -> None:
    planned = plan(candidates(200), repeat=0.0, annotators=("ann", "ben", "cleo"), overlap=0.25)
    sizes = Counter(len(task.annotators) for task in planned.tasks)
    assert sizes == {1: 150, 2: 50}
    load = Counter(name for task in planned.tasks for name in task.annotators)
    assert set(load) == {"ann", "ben", "cleo"}
    assert max(load.values()) - min(load.values()) <= 1
    doubles = Counter(task.annotators for task in planned.tasks if len(task.annotators) == 2)
    assert len(doubles) == 3  # every two of them share some
    repeats = plan(candidates(200), annotators=("ann", "ben"), overlap=0.5).tasks
    first = {t.candidate.file_name: t.annotators for t in repeats if not t.is_repeat}
    assert all(t.annotators == first[t.candidate.file_name] for t in repeats)


def test_pairs_of_several_systems_occur_equally_often() -> None:
    counts = Counter(pair[1:] for pair in choose_pairs(candidates(61, 4), 4, 1, 3))
    assert len(counts) == 6
    assert max(counts.values()) - min(counts.values()) <= 1
    three = choose_pairs(candidates(10, 3), 3, 10**12, 3)
    assert Counter(pair[1:] for pair in three) == {(0, 1): 10, (0, 2): 10, (1, 2): 10}
    # Every image's first pair before any image's second.
    assert len({pair[0].file_name for pair in three[:10]}) == 10


def test_pairs_are_balanced_where_a_system_lacks_captions() -> None:
    found = candidates(90, 3)
    for candidate in found[:30]:
        del candidate.captions[2]  # type: ignore[attr-defined]
    counts = Counter(pair[1:] for pair in choose_pairs(found, 3, 1, 0))
    assert counts == {(0, 1): 30, (0, 2): 30, (1, 2): 30}
