"""Writes a WebDataset tar anew with captions in it; all else stays as it is, to the byte."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import BinaryIO, Final

from altogether_rt.data.shards.base import Ending
from altogether_rt.data.sniff import has_image_suffix
from altogether_rt.mixing.draw import MixDraw, mix_text
from altogether_rt.mixing.table import Sample, SampleTable
from altogether_rt.publishing.counts import ExportCounts
from altogether_rt.publishing.tar_members import (
    Member,
    TarMembers,
    copy_bytes,
    write_end,
    write_member,
)

__all__ = ["IntoJson", "IntoText", "Placement", "merge_tar"]

#: Maximum bytes of a text member that is read; a larger one stays as it is.
_MAX_TEXT_BYTES: Final = 16 * 1024 * 1024
#: Members of one sample that are kept waiting until its last one is known.
_MAX_MEMBERS: Final = 4096


class Placement(ABC):
    """Where in a sample its caption goes."""

    #: Suffix of the member that holds it, which is created where there is none.
    suffix: str

    @abstractmethod
    def content(self, sample: Sample, old: bytes | None, counts: ExportCounts) -> bytes | None:
        """What the member holds from now on; None if it stays as it is, or absent.

        old: what it holds, None if there is none.
        """


@dataclass(frozen=True)
class IntoJson(Placement):
    """The caption as one more key of the sample's JSON object, beside the old text."""

    key: str = "altogether"
    suffix: str = field(default=".json", init=False)

    def content(self, sample: Sample, old: bytes | None, counts: ExportCounts) -> bytes | None:
        if sample.caption is None:
            return None
        merged = _with_key(old, self.key, sample.caption)
        if merged is None:
            counts.json_unusable += 1
        else:
            counts.captions += 1
        return merged


@dataclass(frozen=True)
class IntoText(Placement):
    """The caption as the sample's text, for a share of the samples that the draw decides."""

    draw: MixDraw
    epoch: int = 0
    suffix: str = field(default=".txt", init=False)

    def content(self, sample: Sample, old: bytes | None, counts: ExportCounts) -> bytes | None:
        alts: Sequence[str] = sample.alts if old is None else ("",)  # the old text, unread
        mixed = mix_text(self.draw, sample.key, alts, sample.caption, self.epoch)
        if mixed is None:
            counts.without_text += 1
            return None
        if mixed.source == "caption":
            counts.captions += 1
            return mixed.text.encode("utf-8")
        counts.alts += 1
        return mixed.text.encode("utf-8") if old is None else None


def merge_tar(
    source: BinaryIO,
    target: BinaryIO,
    captions: SampleTable,
    placement: Placement,
    counts: ExportCounts,
) -> Ending:
    """Copy a tar file and put captions into it; they are taken out of `captions`.

    A sample is a run of members with one key, as training code reads them, and one of them is an
    image. Returns how the file ended; what can be read of a damaged one is written. The same inputs
    give the same bytes.
    """
    members = TarMembers(source)
    for sample, group in _groups(members, captions):
        if sample is None:
            for member in group:
                copy_bytes(source, target, member.start, member.end)
            counts.without_row += any(has_image_suffix(member.name) for member in group)
            continue
        counts.dotted_keys += "." in sample.key.rpartition("/")[2]
        _write_sample(members, source, target, sample, group, placement, counts)
    write_end(target)
    return members.ending


def _write_sample(
    members: TarMembers,
    source: BinaryIO,
    target: BinaryIO,
    sample: Sample,
    group: Sequence[Member],
    placement: Placement,
    counts: ExportCounts,
) -> None:
    image = next(member for member in group if has_image_suffix(member.name))
    stem = image.name[: image.name.rindex(".")]  # `img.v1`, though the key may be `img`
    wanted = {(name + placement.suffix).lower() for name in (sample.key, stem)}
    text = next((member for member in group if member.name.lower() in wanted), None)
    # A text that cannot be read counts as one that is there and says nothing.
    old = None if text is None else members.read(text, _MAX_TEXT_BYTES) or b""
    new = placement.content(sample, old, counts)
    for member in group:
        if new is not None and member is text:
            write_member(target, member.info.name, new, member.info)
        else:
            copy_bytes(source, target, member.start, member.end)
    if new is not None and text is None:
        # The key as it is written in the tar, where it need not be UTF-8.
        name = image.written(sample.key) + placement.suffix
        write_member(target, name, new, image.info)


def _groups(
    members: TarMembers, captions: SampleTable
) -> Iterator[tuple[Sample | None, list[Member]]]:
    """Neighbouring members of one sample, and the sample if it has a row and an image."""
    group: list[Member] = []
    current: str | None = None
    for member in members:
        key = _key_of(member.name, captions, current)
        if group and (key != current or len(group) >= _MAX_MEMBERS):
            yield _sample_of(current, group, captions), group
            group = []
        group.append(member)
        current = key
    if group:
        yield _sample_of(current, group, captions), group


def _sample_of(key: str | None, group: Sequence[Member], captions: SampleTable) -> Sample | None:
    if key is None or not any(has_image_suffix(member.name) for member in group):
        return None
    return captions.take(key)


def _key_of(name: str, captions: SampleTable, current: str | None) -> str | None:
    """The key of a member: the longest part of its name before a dot that a row has."""
    start = name.rfind("/") + 1
    dot = len(name)
    while (dot := name.rfind(".", start + 1, dot)) > 0:
        key = name[:dot]
        if key == current or key in captions:
            return key
    first = name.find(".", start + 1)
    return None if first < 0 else name[:first]


def _with_key(old: bytes | None, key: str, caption: str) -> bytes | None:
    """A JSON object with one more key; None if `old` is not an object."""
    entry = f"{json.dumps(key, ensure_ascii=False)}: {json.dumps(caption, ensure_ascii=False)}"
    if old is None:
        return ("{" + entry + "}").encode("utf-8")
    try:
        data = json.loads(old.decode("utf-8-sig"))
    except (ValueError, RecursionError):
        return None
    if not isinstance(data, dict):
        return None
    if key in data:
        return json.dumps(data | {key: caption}).encode("ascii")
    # What is there is not written anew: numbers and spacing stay as they are.
    end = old.rindex(b"}")
    return old[:end].rstrip() + (", " if data else "").encode() + entry.encode() + old[end:]
