"""Configurations in TOML files: those shipped in `named`, and a user's own."""

from __future__ import annotations

from importlib import resources
from importlib.resources.abc import Traversable

from altogether_rt import toml
from altogether_rt.config.captioner import CaptionerConfig

__all__ = ["load_config", "named_config", "named_configs"]

_KIND = "configuration"  # in messages about a file


def named_configs() -> list[str]:
    """Names of the configurations shipped with the package."""
    return toml.file_names(_folder())


def named_config(name: str) -> CaptionerConfig:
    """A configuration shipped with the package: `altogether-opt-1.3b`, `starter`, ….

    Raises ConfigError if there is none of that name.
    """
    return _load(toml.find_file(_folder(), name, _KIND, allow_path=False), name)


def load_config(name_or_path: str) -> CaptionerConfig:
    """A named configuration, or that of a .toml file, by its path.

    Raises ConfigError if there is none or it is not valid.
    """
    file = toml.find_file(_folder(), name_or_path, _KIND, allow_path=True)
    return _load(file, file.name.removesuffix(".toml"))


def _folder() -> Traversable:
    return resources.files("altogether_rt.config").joinpath("named")


def _load(file: Traversable, name: str) -> CaptionerConfig:
    return toml.load_file(
        file, _KIND, lambda data: CaptionerConfig.from_dict({"name": name, **data})
    )
