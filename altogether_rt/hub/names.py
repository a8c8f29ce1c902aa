"""What a name means: an entry of the catalogue or a hub id, unless a file or folder has it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from altogether_rt.hub.catalogue import CatalogueEntry, read_catalogue

__all__ = ["HubName", "find_name", "is_hub_id"]

_PART = r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9_])?"
_ID = re.compile(rf"{_PART}/{_PART}")
_NAME = re.compile(rf"({_PART}/{_PART})(?:@([A-Za-z0-9][A-Za-z0-9._-]{{0,99}}))?")


@dataclass(frozen=True)
class HubName:
    """A captioner on the hub."""

    name: str  # as it was given
    hub_id: str  # `owner/name`
    revision: str | None  # a commit, branch or tag; None: the main branch
    entry: CatalogueEntry | None  # None: it is not in the catalogue


def find_name(text: str | Path) -> HubName | None:
    """The captioner on the hub that `text` names; None for a path, and for `starter`.

    `owner/name@REVISION` asks for a revision. What exists as a file or folder is a path.
    """
    text = str(text)
    # A training that goes on writes to NAME.training, and its checkpoint has no folder yet.
    if Path(text).exists() or Path(f"{text}.training").exists():
        return None
    entry = read_catalogue().get(text)
    if entry is not None:
        if entry.hub_id is None:
            return None
        return HubName(text, entry.hub_id, entry.revision, entry)
    found = _NAME.fullmatch(text)
    if found is None or not is_hub_id(found[1]):
        return None
    return HubName(text, found[1], found[2], None)


def is_hub_id(text: str) -> bool:
    """Whether `text` is `owner/name` as the hub allows it."""
    return bool(_ID.fullmatch(text)) and ".." not in text and "--" not in text
