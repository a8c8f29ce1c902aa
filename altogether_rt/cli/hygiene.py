"""Options for alt-texts that say nothing of the image, and what a run says of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

import typer

from altogether_rt.data.hygiene.clean import HygieneCounts, HygieneOptions
from altogether_rt.data.problems import counted

__all__ = [
    "AltLanguage",
    "DropBoilerplate",
    "DropNoiseAlts",
    "UnescapeAlts",
    "hygiene_sentences",
]

UnescapeAlts = Annotated[
    bool,
    typer.Option("--unescape-alts", help="Unescape HTML entities in alt-texts: &amp; becomes &."),
]
DropNoiseAlts = Annotated[
    bool,
    typer.Option(
        "--drop-noise-alts",
        help="Ignore alt-texts that are file names, URLs, camera names or defaults.",
    ),
]
DropBoilerplate = Annotated[
    bool,
    typer.Option(
        "--drop-boilerplate",
        help="Ignore what begins or ends a great many alt-texts, such as the name of a shop.",
    ),
]
AltLanguage = Annotated[
    bool, typer.Option("--alt-language", help="Record the language of each alt-text (extra lang).")
]

_NAMES = {
    "camera": ("name that a camera gave", "names that a camera gave"),
    "file_name": ("name of a file", "names of files"),
    "url": ("URL", "URLs"),
    "placeholder": ("default", "defaults"),
}


def hygiene_sentences(counts: HygieneCounts, options: HygieneOptions) -> Iterator[str]:
    """What was found in the alt-texts, a sentence each."""
    total = sum(problems.count for problems in counts.noise.values())
    if total:
        kinds = "; ".join(
            f"{counted(problems.count, *_NAMES[kind])} ({problems})"
            for kind, problems in sorted(counts.noise.items())
        )
        say = counted(total, "alt-text says nothing of its", "alt-texts say nothing of their")
        left_out = "not read" if options.drop_noise else "--drop-noise-alts leaves such unread"
        yield f"{say} image: {kinds}: {left_out}."
    if counts.unescaped:
        were = counted(counts.unescaped, "alt-text was", "alt-texts were")
        yield f"{were} read without HTML entities."
    if options.drop_boilerplate:
        found = "; ".join(counts.boilerplate_parts[:5]) or "none was found"
        were = counted(counts.boilerplate, "alt-text was", "alt-texts were")
        yield f"{were} read without boilerplate: {found}."
    if counts.languages:
        most = ", ".join(f"{count:,} {code}" for code, count in counts.languages.most_common(8))
        yield f"Languages of alt-texts: {most}."
