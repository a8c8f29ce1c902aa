"""The annotation guideline: versioned, and copied into each work folder, where it can be edited."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from altogether_rt.errors import ConfigError
from altogether_rt.toml import load_file

__all__ = ["Guideline", "default_guideline", "read_guideline"]


@dataclass(frozen=True)
class Guideline:
    """A title and rules, each with a name and a text."""

    version: str
    title: str
    rules: tuple[tuple[str, str], ...]

    @property
    def stamp(self) -> str:
        """`1-3f9a0c2d`: the version, and a hash of the text, which also changes with every edit."""
        words = "\0".join((self.title, *(part for rule in self.rules for part in rule)))
        return f"{self.version}-{hashlib.sha256(words.encode()).hexdigest()[:8]}"

    def to_dict(self) -> dict[str, Any]:
        rules = [{"name": name, "text": text} for name, text in self.rules]
        return {"version": self.version, "title": self.title, "rules": rules, "stamp": self.stamp}


def default_guideline() -> str:
    """The guideline that ships with the package, as TOML."""
    return resources.files("altogether_rt.annotation").joinpath("guideline.toml").read_text("utf-8")


def read_guideline(path: Path) -> Guideline:
    """Raises ConfigError if the file is not a guideline."""
    return load_file(path, "guideline", _parse)


def _parse(data: Mapping[str, Any]) -> Guideline:
    try:
        rules = tuple((str(rule["name"]), str(rule["text"])) for rule in data["rules"])
        if not rules:
            raise ValueError("it has no rules")
        return Guideline(str(data["version"]), str(data["title"]), rules)
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(
            f"it needs version, title and [[rules]] with name and text ({error})."
        ) from error
