"""Small studies for tests, and annotators whose preference is known."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from altogether_rt.comparison.design import Split, choose_pairs, draw_order, plan_tasks
from altogether_rt.comparison.inputs import Candidate
from altogether_rt.comparison.judgments import Judgment, judgments_of
from altogether_rt.comparison.questions import load_questions
from altogether_rt.comparison.start import Started, StartOptions, start_study
from altogether_rt.comparison.study import Key, Study, SystemInfo, make_study

#: Outcome for the first system: win, tie, loss.
Preference = tuple[float, float, float]
Rows = Mapping[str, Sequence[Mapping[str, Any]]]


def write_images(folder: Path, names: Sequence[str]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for index, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (24 + index, 16), (9 * index % 256, 80, 120)).save(path)
    return folder


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


def write_captions(path: Path, text: str, num: int, alt: str = "the Marigold") -> Path:
    rows = [
        {"file_name": f"{index:03}.png", "caption": f"{text} {index}", "alt": alt}
        for index in range(num)
    ]
    return write_rows(path, rows)


def start_small(
    folder: Path,
    num: int = 6,
    *,
    exchanged: bool = False,
    alt: str = "the Marigold",
    **options: Any,
) -> Started:
    """`num` images captioned by two systems called zebra and walrus, in `folder`/sxs.

    exchanged: each of the two wrote what the other one writes otherwise.
    """
    images = write_images(folder / "images", [f"{index:03}.png" for index in range(num)])
    names = ("walrus", "zebra") if exchanged else ("zebra", "walrus")
    write_captions(folder / f"{names[0]}.jsonl", "a boat number", num, alt)
    write_captions(folder / f"{names[1]}.jsonl", "some ship called", num, alt)
    first, second = folder / "zebra.jsonl", folder / "walrus.jsonl"
    options = {"seed": 5, "questions": load_questions(), "out": folder / "sxs", **options}
    return start_study(StartOptions((first, second), images, **options))


def study_in_memory(
    captions: Mapping[str, Sequence[str | None]],
    systems: Sequence[str] = ("first", "second"),
    *,
    seed: int = 0,
    repeat_share: float = 0.1,
    pairs: int = 1,
    split: Split | None = None,
    alts: tuple[str, ...] = ("an alt-text",),
) -> tuple[Study, Key]:
    """A study without a folder: for each image the captions of the systems."""
    candidates = [
        Candidate(name, {i: text for i, text in enumerate(texts) if text is not None}, alts)
        for name, texts in captions.items()
    ]
    chosen = choose_pairs(draw_order(candidates, seed), len(systems), pairs, seed)
    info, tasks, key = make_study(
        plan_tasks(chosen, seed=seed, repeat_share=repeat_share, split=split),
        images=Path("images"),
        hashes=dict.fromkeys(captions, "0" * 64),
        questions=load_questions(),
        annotators=() if split is None else split.annotators,
        systems=tuple(SystemInfo(name, f"{name}.jsonl", "0" * 64, 0) for name in systems),
        seed=seed,
    )
    return Study(Path("sxs"), info, tasks), key


def plain_study(num: int, **options: Any) -> tuple[Study, Key]:
    return study_in_memory({f"{i:04}.png": (f"one {i}", f"two {i}") for i in range(num)}, **options)


def simulate(
    study: Study,
    key: Key,
    annotators: Sequence[str],
    preferences: Mapping[str, Preference],
    *,
    seed: int,
    left_bias: float = 0.0,
) -> list[Judgment]:
    """Annotators who choose by preference, but `left_bias` of the time whatever stands left.

    Asked again with sides swapped, they decide anew.
    """
    rng = random.Random(seed)
    sides = key.sides()

    def choose(task_id: str, question: str) -> str:
        if rng.random() < left_bias:
            return "left"
        verdict = rng.choices(("first", "tie", "second"), preferences[question])[0]
        if verdict == "tie":
            return "tie"
        side = sides[task_id]
        first_is_left = side.left < side.right
        return "left" if (verdict == "first") == first_is_left else "right"

    rows = {name: answer_all(study, name, choose) for name in annotators}
    judgments, problems = judgments_of(study, key, rows)
    assert not problems
    return judgments


def answer_all(
    study: Study, annotator: str, choose: Callable[[str, str], str], seconds: float = 10.0
) -> list[dict[str, Any]]:
    """Rows of an annotator who answers everything: `choose` is given task and question."""
    return [
        {
            "task": task.id,
            "choices": {q.id: choose(task.id, q.id) for q in study.questions_of(task)},
            "seconds": seconds,
        }
        for task in study.tasks_of(annotator)
    ]


def write_answers(study: Study, rows: Rows) -> None:
    study.answers_folder.mkdir(exist_ok=True)
    for annotator, found in rows.items():
        write_rows(study.answers_folder / f"{annotator}.jsonl", found)
