"""Caption files and images that a study is made from. Everything in them may be hostile."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from altogether_rt.artifacts.bundle import hash_file
from altogether_rt.data.file_hash import file_hash
from altogether_rt.data.images import open_image
from altogether_rt.data.problems import Problems
from altogether_rt.errors import AltogetherError
from altogether_rt.evaluation.inputs import Captions, image_path

__all__ = ["Candidate", "check_image", "find_candidates", "name_systems"]


@dataclass(frozen=True)
class Candidate:
    """An image that at least two systems captioned."""

    file_name: str
    captions: Mapping[int, str]  # by the system's index; those without a caption are absent
    alts: tuple[str, ...]
    hashes: frozenset[str] = frozenset()  # `file_hash` of what was captioned, where rows have it


def name_systems(files: Sequence[Captions], names: Sequence[str] | None) -> tuple[str, ...]:
    """A name for each file: the given ones, else the shortest ends of their paths that differ.

    Raises AltogetherError for fewer than two files, or if names are missing or equal.
    """
    if len(files) < 2:
        raise AltogetherError("a comparison needs two caption files or more.")
    if names is None:
        parts = [file.path.absolute().with_suffix("").parts for file in files]
        names = next(
            (ends for depth in (1, 2, 3) if len({*(ends := _ends(parts, depth))}) == len(files)),
            (),
        )
    names = [name.strip() for name in names]
    if len(names) != len(files) or len(set(names)) != len(names) or not all(names):
        raise AltogetherError(
            f"{len(files)} caption files need {len(files)} different names: "
            "give --names first,second."
        )
    return tuple(names)


def _ends(paths: Iterable[Sequence[str]], depth: int) -> list[str]:
    return ["/".join(parts[-depth:]) for parts in paths]


def find_candidates(files: Sequence[Captions]) -> tuple[list[Candidate], list[Problems]]:
    """Images that two or more systems captioned, and for each system the images it lacks.

    Captions are one line, without repeated spaces: who reads them sees no other difference.
    Alt-texts come from the first file that has one.
    """
    images = sorted(set().union(*(file.files for file in files)))
    candidates, missing = [], [Problems() for _ in files]
    for image in images:
        names = [file.files[image] for file in files if image in file.files]
        captions = {}
        for index, file in enumerate(files):
            if image in file.texts:
                captions[index] = " ".join(file.texts[image].split())
            else:
                why = "an error row" if image in file.errors else "no row"
                missing[index].add(f"{names[0]}: {why}")
        if len(captions) >= 2:
            alts = next((file.alts[image] for file in files if file.alts.get(image)), ())
            hashes = frozenset(file.hashes[image] for file in files if image in file.hashes)
            candidates.append(Candidate(names[0], captions, alts, hashes))
    return candidates, missing


def check_image(folder: Path, candidate: Candidate) -> str:
    """The SHA-256 of an image that can be shown.

    Raises ImageError for one that cannot be, and AltogetherError for another one than was
    captioned: folders may share names such as 0000.png.
    """
    path = image_path(folder, candidate.file_name)
    with open_image(path):
        found = hash_file(path)
    if candidate.hashes and candidate.hashes != {file_hash(path)}:
        raise AltogetherError(f"{candidate.file_name} is not the image that was captioned.")
    return found
