"""Reads the project's TOML files: configurations, training recipes and export recipes.

Each kind has one folder of named files and one loader: `config.load_config`,
`train.recipe.load_recipe`, `export.recipes.load_recipe`. All of them find and read their files with
the functions below, so that the same mistake gets the same answer in every kind.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, TypeVar

from altogether_rt.errors import ConfigError

__all__ = ["file_names", "find_file", "load_file"]

T = TypeVar("T")


def file_names(folder: Traversable) -> list[str]:
    """Names of the TOML files in `folder`, without their suffix, in alphabetical order."""
    names = (file.name for file in folder.iterdir())
    return sorted(name.removesuffix(".toml") for name in names if name.endswith(".toml"))


def find_file(folder: Traversable, name: str, kind: str, *, allow_path: bool) -> Traversable:
    """The file called `name` in `folder`.

    kind: what the file describes, for messages ("configuration"). allow_path: `name` may also be
    the path of a .toml file; whether that exists is found out when it is loaded. Raises
    ConfigError, which lists the names that exist, if there is none of that name.
    """
    if allow_path and name.endswith(".toml"):
        return Path(name)
    names = file_names(folder)
    if name not in names:
        otherwise = ", or give the path of a .toml file" if allow_path else ""
        raise ConfigError(
            f"there is no {kind} {name!r}: choose one of {', '.join(names)}{otherwise}."
        )
    return folder.joinpath(f"{name}.toml")


def load_file(file: Traversable, kind: str, parse: Callable[[Mapping[str, Any]], T]) -> T:
    """What `parse` makes of the keys in a TOML file.

    kind: as for `find_file`. Raises ConfigError, which names the file, if it does not exist, cannot
    be read, is not UTF-8 or not TOML, or if `parse` raises ConfigError (an unknown key, a value out
    of range).
    """
    try:
        data = tomllib.loads(file.read_bytes().decode("utf-8-sig"))
    except FileNotFoundError as error:
        raise ConfigError(f"there is no {kind} {file}: check the path.") from error
    except OSError as error:
        raise ConfigError(f"the {kind} {file} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"the {kind} {file} is not UTF-8: save it in that encoding.") from error
    except (ValueError, RecursionError) as error:  # an integer of 5000 digits is a plain ValueError
        raise ConfigError(f"the {kind} {file} is not valid TOML: {error}.") from error
    try:
        return parse(data)
    except ConfigError as error:
        raise ConfigError(f"the {kind} {file} has a mistake: {error}") from error
