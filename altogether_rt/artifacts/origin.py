"""What a captioner was trained on, as its bundle or checkpoint says."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

__all__ = ["SCENES", "hub_origin", "trained_on"]

#: Scenes that altogether-rt draws; the source of that name in a training recipe.
SCENES: Final = "scenes"

_MAX_STEPS: Final = 16


def trained_on(checkpoint: object) -> str | None:
    """The source of the last training: `scenes`, `folder`; None if nothing says.

    checkpoint: what a bundle's provenance has under that name, or a checkpoint's checkpoint.json as
    its `about`. A checkpoint made from a bundle leads to the one that the bundle was made from.
    """
    for about in _abouts(checkpoint):
        data = about.get("data")
        if isinstance(data, Mapping) and isinstance(data.get("source"), str):
            return str(data["source"])
    return None


def hub_origin(checkpoint: object) -> Mapping[str, Any] | None:
    """Where weights were published: their `id`, `revision` and `licence`; None if nothing says.

    checkpoint: as for `trained_on`.
    """
    for about in _abouts(checkpoint):
        start = about.get("init")  # of a training
        for source in (about, start if isinstance(start, Mapping) else {}):
            origin = source.get("hub")
            if isinstance(origin, Mapping):
                return origin
    return None


def _abouts(checkpoint: object) -> Iterator[Mapping[str, Any]]:
    """What is known of a checkpoint, then of the one that it was made from, and so on."""
    for _ in range(_MAX_STEPS):
        about: Any = checkpoint.get("about") if isinstance(checkpoint, Mapping) else None
        if not isinstance(about, Mapping):
            return
        yield about
        checkpoint = about.get("original_checkpoint")
