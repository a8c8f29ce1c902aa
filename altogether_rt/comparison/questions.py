"""The questions of a study, read from TOML: the package's three, or others."""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Final

from altogether_rt.errors import ConfigError
from altogether_rt.plain_data import from_dict
from altogether_rt.toml import load_file

__all__ = ["MAX_QUESTIONS", "Question", "Questions", "load_questions"]

#: Questions of one study: more do not fit on a screen beside an image and two captions.
MAX_QUESTIONS: Final = 6

_MAX_TEXT_CHARS: Final = 400
_ID: Final = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,30}[a-z0-9])?")


@dataclass(frozen=True)
class Question:
    """One question, answered by "left", "tie" or "right"."""

    id: str
    label: str  # for tables and plots
    text: str
    tie: str = "Equal"
    needs_alt_text: bool = False  # not asked where an image has none

    def __post_init__(self) -> None:
        if not _ID.fullmatch(self.id):
            raise ConfigError(
                f"a question's id is {self.id[:40]!r}; it must be at most 32 lower-case letters, "
                "digits and hyphens."
            )
        for name in ("label", "text", "tie"):
            value = getattr(self, name)
            if not value.strip() or len(value) > _MAX_TEXT_CHARS:
                raise ConfigError(
                    f"{name} of question {self.id} must have 1 to {_MAX_TEXT_CHARS} characters."
                )


@dataclass(frozen=True)
class Questions:
    """All questions of a study, in the order in which they are asked."""

    questions: tuple[Question, ...]

    def __post_init__(self) -> None:
        if not 1 <= len(self.questions) <= MAX_QUESTIONS:
            raise ConfigError(
                f"there are {len(self.questions)} questions; a study has 1 to {MAX_QUESTIONS}."
            )
        ids = [question.id for question in self.questions]
        twice = next((id_ for id_ in ids if ids.count(id_) > 1), None)
        if twice is not None:
            raise ConfigError(f"two questions have the id {twice}: give each its own.")

    def asked(self, *, has_alt_text: bool) -> tuple[Question, ...]:
        """Those that are asked about an image with, or without, an alt-text."""
        return tuple(q for q in self.questions if has_alt_text or not q.needs_alt_text)


def load_questions(path: Path | None = None) -> Questions:
    """The questions in a TOML file, the package's own if none is given. Raises ConfigError."""
    file = path or resources.files("altogether_rt.comparison").joinpath("questions.toml")
    return load_file(file, "question file", lambda data: from_dict(Questions, data))
