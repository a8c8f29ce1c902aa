"""The captioners that have a name: `catalogue.toml` of this folder, as frozen data."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Any, Literal

from altogether_rt.errors import ConfigError
from altogether_rt.plain_data import from_dict
from altogether_rt.toml import load_file

__all__ = ["CatalogueEntry", "read_catalogue"]


@dataclass(frozen=True)
class CatalogueEntry:
    """One captioner of the catalogue. hub_id: None for the bundle in the package."""

    name: str
    licence: str
    bytes: int  # of the files that are downloaded
    good_for: str
    reads_alt: Literal["yes", "asked to", "no"]  # trained to, or merely instructed
    tested: str  # what this toolkit was tested on
    hub_id: str | None = None
    revision: str | None = None  # 40 hex digits; None: the newest at download


@functools.cache
def read_catalogue() -> Mapping[str, CatalogueEntry]:
    """All entries, by name. Raises ConfigError for a damaged installation."""
    file = resources.files("altogether_rt").joinpath("hub", "catalogue.toml")
    return load_file(file, "catalogue", _parse)


def _parse(data: Mapping[str, Any]) -> dict[str, CatalogueEntry]:
    entries = {}
    for name, values in data.items():
        if not isinstance(values, Mapping):
            raise ConfigError(f"{name} must be a table of keys.")
        entries[name] = from_dict(CatalogueEntry, {"name": name, **values}, name)
    return entries
