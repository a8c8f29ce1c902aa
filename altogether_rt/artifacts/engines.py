"""TensorRT engines of a bundle, as `bundle.json` describes them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from altogether_rt.errors import ConfigError

__all__ = ["EngineProfile", "EngineSpec"]

ShapeRange = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]


@dataclass(frozen=True)
class EngineProfile:
    """The sizes that one optimisation profile of a TensorRT engine takes.

    The decoder's cache inputs all have the same shape range, which is given once, as `past`.
    """

    name: str  # `decode`, `verify`, `prefill`; `all` if there is only one
    shapes: Mapping[str, ShapeRange]  # by input: its min, opt and max shape

    def __post_init__(self) -> None:
        for name, value in self.shapes.items():
            if not _is_shape_range(value):
                raise ConfigError(
                    f"shapes of {name} in profile {self.name} must be a min, an opt and a max "
                    "shape."
                )
        as_tuples = {name: tuple(map(tuple, value)) for name, value in self.shapes.items()}
        object.__setattr__(self, "shapes", as_tuples)


@dataclass(frozen=True)
class EngineSpec:
    """A graph compiled by one version of one builder for one kind of GPU; it runs on no other."""

    graph: Literal["encoder", "mapper", "decoder"]
    file: str  # `decoder.sm89.plan`
    sha256: str
    sm: int  # compute capability, 89 for 8.9
    builder: Literal["tensorrt", "tensorrt_rtx"]
    builder_version: str
    profiles: tuple[EngineProfile, ...]  # in the order of their indices
    flags: tuple[str, ...] = ()  # of the builder, in addition to its defaults


def _is_shape_range(value: Any) -> bool:
    """Whether `value` is a min, an opt and a max shape of one rank, in ascending order.

    It comes from a file, so it can be any value.
    """

    def is_shape(shape: Any) -> bool:
        return isinstance(shape, (list, tuple)) and all(type(n) is int and n >= 0 for n in shape)

    if not isinstance(value, (list, tuple)) or len(value) != 3 or not all(map(is_shape, value)):
        return False
    minimum, opt, maximum = value
    sizes = zip(minimum, opt, maximum, strict=False)
    return len(minimum) == len(opt) == len(maximum) and all(a <= b <= c for a, b, c in sizes)
