"""Frozen dataclasses from the tables of JSON and TOML files, checked against their types."""

from __future__ import annotations

import dataclasses
import functools
import sys
import types
import typing
from collections.abc import Mapping
from typing import Any, Literal, TypeVar

from altogether_rt.errors import ConfigError

__all__ = ["check_numbers", "from_dict"]

T = TypeVar("T")

#: Larger than in any captioner of today, by key: they decide what is built and reserved before a
#: weight is read, and may come from a stranger.
_LIMITS: Mapping[str, int] = {
    **dict.fromkeys(("embed_dim", "width", "embed_width", "max_alt_tokens"), 1 << 16),
    **dict.fromkeys(("heads", "kv_heads", "patch_size"), 1 << 10),
    **dict.fromkeys(("image_size", "prefix_length", "clip_length"), 1 << 12),
    "ffn_width": 1 << 18,
    "max_positions": 1 << 20,
    "rope_theta": 1 << 40,
    "layers": 512,
    "mlp_ratio": 64,
}
_OTHER_LIMIT, _MAX_LIST, _MAX_NESTING = 1 << 22, 1024, 8

_MAX_SHOWN_BITS = 128


def from_dict(cls: type[T], data: Mapping[str, Any], where: str = "") -> T:
    """Build a frozen dataclass from plain data.

    where: key of the table within its file, for messages. Raises ConfigError for an unknown key, a
    missing key or a value of the wrong type.
    """
    _require(isinstance(data, Mapping), f"{where or cls.__name__} must be a table of keys.")
    hints = _type_hints(typing.cast("Any", cls))
    fields = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    prefix = f"{where}." if where else ""
    unknown = sorted(set(data) - set(fields))
    _require(
        not unknown,
        f"unknown key {prefix}{str(unknown[0])[:80] if unknown else ''}; "
        f"known keys: {', '.join(fields)}.",
    )
    values = {key: _convert(hints[key], value, prefix + key) for key, value in data.items()}
    missing = [
        name
        for name, f in fields.items()
        if name not in values
        and f.default is dataclasses.MISSING
        and f.default_factory is dataclasses.MISSING
    ]
    _require(not missing, f"missing key {prefix}{missing[0] if missing else ''}.")
    return cls(**values)


@functools.cache
def _type_hints(cls: type[Any]) -> Mapping[str, Any]:
    """Kept, because a study's tasks are thousands of one class and its annotations are strings."""
    return typing.get_type_hints(cls)


def check_numbers(value: Any, where: str, *, key: str = "", depth: int = 0) -> None:
    """Raises ConfigError for a number in plain data that is larger than any captioner has.

    where: the data's name, for messages; key: of a number, which decides its limit. Lists and
    tables are gone through.
    """
    if isinstance(value, int | float) and not isinstance(value, bool):
        limit = _LIMITS.get(key, _OTHER_LIMIT)
        _require(abs(value) <= limit, f"{where} is {_shown(value)}; the most is {limit}.")
    if not isinstance(value, Mapping | list | tuple):
        return
    _require(depth <= _MAX_NESTING, f"{where} is nested too deeply.")
    _require(len(value) <= _MAX_LIST, f"{where} has {len(value)} values, too many.")
    for name, part in value.items() if isinstance(value, Mapping) else ((key, v) for v in value):
        inner = f"{where}.{name:.60}" if isinstance(value, Mapping) else where
        check_numbers(part, inner, key=name, depth=depth + 1)


def _convert(hint: Any, value: Any, where: str) -> Any:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in args:
            return None
        (inner,) = [a for a in args if a is not type(None)]
        return _convert(inner, value, where)
    if origin is Literal:
        _require(
            value in args,
            f"{where} is {value!r:.80}; it must be one of {', '.join(map(repr, args))}.",
        )
        return value
    if origin is tuple:
        _require(isinstance(value, (list, tuple)), f"{where} must be a list.")
        inner_types = [args[0]] * len(value) if args[-1] is Ellipsis else list(args)
        _require(len(value) == len(inner_types), f"{where} must have {len(inner_types)} values.")
        return tuple(_convert(t, v, where) for t, v in zip(inner_types, value, strict=True))
    if dataclasses.is_dataclass(hint):
        return from_dict(typing.cast("type[Any]", hint), value, where)
    if origin is not None or hint is Any:  # Mapping[str, Any]
        _require(hint is Any or isinstance(value, Mapping), f"{where} must be a table of keys.")
        return value
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        _require(
            abs(value) <= sys.float_info.max, f"{where} is {_shown(value)}, which is too large."
        )
        return float(value)
    expected = isinstance(value, hint) and not (hint is int and isinstance(value, bool))
    _require(expected, f"{where} is {_shown(value)}; it must be of type {hint.__name__}.")
    return value


def _shown(value: Any) -> str:
    """A value of a file for a message: it may have megabytes, or lists nested a thousand deep."""
    if isinstance(value, list | tuple | dict):
        return f"a {'table' if isinstance(value, dict) else 'list'} of {len(value)}"
    if isinstance(value, int) and value.bit_length() > _MAX_SHOWN_BITS:
        return f"a number of {value.bit_length()} bits"  # Python writes no more than 4300 digits
    return f"{value!r:.80}"


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ConfigError(message)
