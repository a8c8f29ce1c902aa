"""What a captioner reads of the alt-texts; rows keep them as they were given, and say the rest."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Final

from altogether_rt.data.alts import Alts
from altogether_rt.data.hygiene.boilerplate import Boilerplate
from altogether_rt.data.hygiene.languages import LanguageDetector
from altogether_rt.data.hygiene.noise import noise_kind, unescape
from altogether_rt.data.problems import Problems
from altogether_rt.data.sources.base import Sample

__all__ = ["AltHygiene", "HygieneCounts", "HygieneOptions"]


#: Notes of rows.
_UNESCAPED: Final = "entities"
_BOILERPLATE: Final = "boilerplate"

_MAX_EXAMPLE_CHARS: Final = 80


@dataclass(frozen=True)
class HygieneOptions:
    """What is done to alt-texts before a captioner reads them."""

    unescape: bool = False  # HTML entities
    drop_noise: bool = False  # names of files, URLs, a camera's names, defaults
    drop_boilerplate: bool = False  # what begins or ends very many of them
    language: bool = False  # find out which one it is

    @property
    def names(self) -> tuple[str, ...]:
        """The options that are on; captions made with others do not stand beside each other."""
        return tuple(name for name, is_on in dataclasses.asdict(self).items() if is_on)


@dataclass
class HygieneCounts:
    """What was found in the alt-texts of the samples so far."""

    noise: dict[str, Problems] = field(default_factory=dict)  # by kind; whether dropped or not
    unescaped: int = 0  # alt-texts
    boilerplate: int = 0  # alt-texts
    boilerplate_parts: list[str] = field(default_factory=list)  # what was looked for
    languages: Counter[str] = field(default_factory=Counter)  # alt-texts

    def add_row(self, alts: Iterable[str], notes: Iterable[str], languages: Iterable[str]) -> None:
        """Count a row's alt-texts, with what was done to each and the language of each."""
        for alt in alts:
            kind = noise_kind(alt)
            if kind is not None:
                self.noise.setdefault(kind, Problems()).add(alt[:_MAX_EXAMPLE_CHARS])
        for note in notes:
            self.unescaped += _UNESCAPED in note.split()
            self.boilerplate += _BOILERPLATE in note.split()
        self.languages.update(languages)

    def merge(self, other: HygieneCounts) -> None:
        """Add the counts of other samples."""
        for kind, problems in other.noise.items():
            self.noise.setdefault(kind, Problems()).merge(problems)
        self.unescaped += other.unescaped
        self.boilerplate += other.boilerplate
        self.boilerplate_parts = self.boilerplate_parts or other.boilerplate_parts
        self.languages.update(other.languages)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> HygieneCounts:
        """The counts that `to_dict` made. Raises KeyError, TypeError or ValueError."""
        boilerplate = data["alts_with_boilerplate"]
        return cls(
            noise={
                kind: Problems(int(one["count"]), list(one["examples"]))
                for kind, one in data["alts_noise"].items()
            },
            unescaped=int(data["alts_unescaped"]),
            boilerplate=int(boilerplate["count"]),
            boilerplate_parts=list(boilerplate["parts"]),
            languages=Counter({code: int(n) for code, n in data["alt_languages"].items()}),
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "alts_noise": {
                kind: {"count": problems.count, "examples": problems.examples}
                for kind, problems in sorted(self.noise.items())
            },
            "alts_unescaped": self.unescaped,
            "alts_with_boilerplate": {"count": self.boilerplate, "parts": self.boilerplate_parts},
            "alt_languages": dict(self.languages.most_common()),
        }


@cache
def _detector() -> LanguageDetector:
    """One for all shards of a process: its model takes most of a second to load."""
    return LanguageDetector()


class AltHygiene:
    """Applies the options to samples, and counts. Without any option it only counts noise."""

    def __init__(
        self,
        options: HygieneOptions,
        boilerplate: Boilerplate | None = None,
        *,
        counts_noise: bool = True,
    ) -> None:
        """boilerplate: what to take away, with `drop_boilerplate`. counts_noise: False where the
        rows are counted instead, which outlive this process.

        Raises MissingDependencyError if languages are asked for and py3langid is not installed.
        """
        self.options = options
        self.boilerplate = boilerplate if options.drop_boilerplate else None
        self.counts = HygieneCounts()
        if self.boilerplate:
            self.counts.boilerplate_parts = self.boilerplate.examples()
        self._looks_for_noise = counts_noise or options.drop_noise
        self._detector = _detector() if options.language else None

    def samples(self, samples: Iterable[Sample]) -> Iterator[Sample]:
        """The same samples, each with notes on its alt-texts."""
        if not self._looks_for_noise and not self.options.names:
            yield from samples
            return
        for sample in samples:
            alts = self.clean(sample.alts)
            yield sample if alts is sample.alts else dataclasses.replace(sample, alts=alts)

    def clean(self, alts: Alts) -> Alts:
        """The alt-texts with what the captioner is to read of them."""
        used, notes = [], []
        for text in alts.texts:
            kept, note = self._clean_text(text)
            used += [kept] if kept or not text else []
            notes.append(note)
        languages: tuple[str, ...] = ()
        if self._detector is not None:
            languages = tuple(map(self._detector.language, alts.texts))
            self.counts.languages.update(languages)
        if tuple(used) == alts.texts and not languages:
            return alts
        return dataclasses.replace(
            alts, used=tuple(used), notes=tuple(notes) if any(notes) else (), languages=languages
        )

    def _clean_text(self, text: str) -> tuple[str, str]:
        """What is read of a text, and what was done to it: words, separated by spaces."""
        kind = noise_kind(text) if self._looks_for_noise else None
        if kind is not None:
            self.counts.noise.setdefault(kind, Problems()).add(text[:_MAX_EXAMPLE_CHARS])
            if self.options.drop_noise:
                return "", kind
        done = []
        plain = unescape(text) if self.options.unescape else text
        if plain != text:
            self.counts.unescaped += 1
            done.append(_UNESCAPED)
        if self.boilerplate:
            stripped = self.boilerplate.strip(plain)
            if stripped != plain:
                self.counts.boilerplate += 1
                done.append(_BOILERPLATE)
            plain = stripped
        return plain, " ".join(done)
