"""Alt-texts inside the images, in their XMP."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final, Literal

from altogether_rt.data.alt_files.folder_alts import FolderAlts
from altogether_rt.data.images.limits import ImageLimits
from altogether_rt.data.xmp.files import read_alt_texts
from altogether_rt.errors import AltogetherError, ImageError

__all__ = ["Embedded", "read_embedded_alts"]

#: `alt`: the alt-text (IPTC); `description`: failing that, the description (Dublin Core).
Embedded = Literal["alt", "description"]

_IMAGES_BETWEEN_CALLS: Final = 1000


def read_embedded_alts(
    root: Path,
    names: list[str],
    kind: Embedded,
    on_records: Callable[[int], None] = lambda count: None,
) -> FolderAlts:
    """The alt-texts in the images `names` of the folder `root`, but for those that we wrote.

    XMP that cannot be read is a problem of the table; an image that cannot be read is left to
    captioning. on_records: told how many images are read. Raises AltogetherError if none has any.
    """
    found, num_captions = FolderAlts(), 0
    for count, name in enumerate(names, 1):
        if count % _IMAGES_BETWEEN_CALLS == 0:
            on_records(count)
        try:
            texts = read_alt_texts(root / name, ImageLimits())
        except ValueError as error:
            found.table.problems.add(f"{name}: {error}")
            continue
        except (ImageError, OSError):
            continue
        if texts is None:
            continue
        alt = texts.own_alt or (texts.description if kind == "description" else "")
        if alt:
            found.table.add(name, (alt,))
            found.table.num_used += 1
        num_captions += bool(texts.alt and not texts.own_alt)
    if not found.table.by_name:
        found_instead = [str(found.table.problems)] if found.table.problems else []
        if num_captions:
            found_instead.append(f"{num_captions:,} with captions of --write-alt, which are none")
        problems = f" ({'; '.join(found_instead)})" if found_instead else ""
        hint = ": --alt-embedded description takes descriptions too" if kind == "alt" else ""
        raise AltogetherError(f"no image in {root} has an alt-text in its XMP{problems}{hint}.")
    return found
