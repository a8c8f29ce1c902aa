"""Makes a study from caption files and a folder of images."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from altogether_rt.artifacts.bundle import hash_file
from altogether_rt.comparison.design import Split, choose_pairs, draw_order, plan_tasks
from altogether_rt.comparison.inputs import (
    Candidate,
    check_image,
    find_candidates,
    name_systems,
)
from altogether_rt.comparison.questions import Questions
from altogether_rt.comparison.study import Study, SystemInfo, make_study, write_study
from altogether_rt.data.alts import read_alts
from altogether_rt.data.problems import Problems
from altogether_rt.errors import AltogetherError
from altogether_rt.evaluation.inputs import Captions, read_captions
from altogether_rt.web.answers import check_annotator

__all__ = ["StartOptions", "Started", "start_study"]


@dataclass(frozen=True)
class StartOptions:
    """What a study is made from, and how."""

    captions: tuple[Path, ...]
    images: Path
    out: Path
    questions: Questions
    alts: Path | None = None
    names: tuple[str, ...] | None = None
    seed: int | None = None  # None: drawn
    limit: int | None = None  # images
    repeat_share: float = 0.1
    pairs_per_image: int = 1
    split: Split = field(default_factory=Split)


@dataclass(frozen=True)
class Started:
    """A study that was made, and what was left out of it."""

    study: Study
    systems: tuple[str, ...]
    num_images: int
    num_repeats: int
    num_identical: int  # pairs
    missing: tuple[Problems, ...]  # for each system: images without its caption
    unusable: tuple[Problems, ...]  # for each file: records that are not rows
    repeated: tuple[int, ...]  # for each file: rows whose image had a row before
    unreadable: Problems  # images that cannot be shown


def start_study(
    options: StartOptions,
    advance: Callable[[], None] = lambda: None,
    expect: Callable[[int], None] = lambda num: None,
) -> Started:
    """Reads, draws and writes. `expect` is told how many images will be read, `advance` is
    called after each that can be shown.

    Raises AltogetherError if there is nothing to compare, or for input that cannot be used.
    """
    _check(options)
    alts = read_alts(options.alts, options.images) if options.alts else None
    files = [read_captions(path, alts) for path in options.captions]
    names = name_systems(files, options.names)
    candidates, missing = find_candidates(files)
    seed = secrets.randbits(63) if options.seed is None else options.seed
    expect(min(len(candidates), options.limit or len(candidates)))
    chosen, hashes, unreadable = _readable(candidates, options, seed, advance)
    pairs = choose_pairs(chosen, len(files), options.pairs_per_image, seed)
    plan = plan_tasks(pairs, seed=seed, repeat_share=options.repeat_share, split=options.split)
    if not plan.tasks and not plan.identical:
        raise AltogetherError(
            f"there is nothing to compare: no image in {options.images} has captions of two "
            f"systems ({_why_nothing(missing, unreadable)})."
        )
    info, tasks, key = make_study(
        plan,
        images=options.images,
        hashes=hashes,
        questions=options.questions,
        annotators=options.split.annotators,
        systems=_systems(files, names, missing),
        seed=seed,
        unreadable_images=unreadable.count,
    )
    return Started(
        study=write_study(options.out, info, tasks, key),
        systems=names,
        num_images=len(chosen),
        num_repeats=sum(task.is_repeat for task in plan.tasks),
        num_identical=len(plan.identical),
        missing=tuple(missing),
        unusable=tuple(file.problems for file in files),
        repeated=tuple(file.num_repeated for file in files),
        unreadable=unreadable,
    )


def _check(options: StartOptions) -> None:
    """Checks made before anything slow."""
    if options.out.exists():
        raise AltogetherError(f"{options.out} exists already: choose another --out.")
    if not options.images.is_dir():
        raise AltogetherError(f"{options.images} is not a folder: give that of the images.")
    annotators = options.split.annotators
    for name in annotators:
        check_annotator(name)
    if len(set(annotators)) < len(annotators):
        raise AltogetherError("--annotators names somebody twice.")
    if options.split.overlap > 0 and len(annotators) < 2:
        raise AltogetherError("--overlap needs --annotators with at least two names.")


def _readable(
    candidates: Sequence[Candidate],
    options: StartOptions,
    seed: int,
    advance: Callable[[], None],
) -> tuple[list[Candidate], dict[str, str], Problems]:
    """The first `limit` candidates, in drawn order, whose images can be shown."""
    chosen: list[Candidate] = []
    hashes: dict[str, str] = {}
    unreadable = Problems()
    for candidate in draw_order(candidates, seed):
        if len(chosen) == options.limit:
            break
        try:
            hashes[candidate.file_name] = check_image(options.images, candidate)
            chosen.append(candidate)
        except AltogetherError as error:
            unreadable.add(str(error).rstrip("."))
            continue
        advance()
    return chosen, hashes, unreadable


def _systems(
    files: Sequence[Captions], names: Sequence[str], missing: Sequence[Problems]
) -> tuple[SystemInfo, ...]:
    return tuple(
        SystemInfo(name, str(file.path), hash_file(file.path), lacking.count)
        for name, file, lacking in zip(names, files, missing, strict=True)
    )


def _why_nothing(missing: Sequence[Problems], unreadable: Problems) -> str:
    found = [str(problems) for problems in (unreadable, *missing) if problems]
    return found[0] if found else "the files share no file_name"
