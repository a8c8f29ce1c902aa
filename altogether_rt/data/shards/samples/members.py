"""Samples whose image and texts are members of a container: a tar, or a folder of files."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from altogether_rt.data.alts import Alts, make_alts
from altogether_rt.data.problems import Problems
from altogether_rt.data.shards.base import Shard, ShardSource
from altogether_rt.data.shards.options import AltKey, ShardOptions
from altogether_rt.data.shards.samples.alt_texts import (
    TEXT_SUFFIXES,
    TextNotes,
    decode_text,
    parse_json,
    record_texts,
    value_at,
)
from altogether_rt.data.shards.samples.grouping import Entry, Parts, SampleGroups
from altogether_rt.data.shards.samples.joined import JoinTable
from altogether_rt.data.sniff import SNIFF_BYTES, sniff_format
from altogether_rt.data.sources.base import Sample
from altogether_rt.errors import ImageError

__all__ = ["MemberSource"]

#: Limits of members that are no image. More is no alt-text.
_MAX_TEXT_BYTES: Final = 1 << 20
_MAX_JSON_BYTES: Final = 8 << 20
_JSON_SUFFIX: Final = "json"


class MemberSource(ShardSource):
    """Samples of a container. It is read once to list its members, then sample by sample."""

    def __init__(
        self, shard: Shard, options: ShardOptions, joined: JoinTable | None = None
    ) -> None:
        self.shard = shard
        self._options = options
        self._joined = joined
        self._groups = SampleGroups(options.image_keys)
        self._notes = TextNotes()

    @abstractmethod
    def _list(self, groups: SampleGroups) -> None:
        """Add every member to `groups`; sets the ending."""

    @abstractmethod
    def _read(self, name: str, entry: Entry, limit: int) -> bytes:
        """A member's content. Raises ImageError; `too_large` if it has more bytes than `limit`."""

    @abstractmethod
    def _peek(self, name: str, entry: Entry) -> bytes:
        """The first bytes of a member, for its format; none if it cannot be read."""

    def _look_into(self, entry: Entry) -> None:
        """Look for damage in a member of which nothing else may be read."""

    def _image(self, name: str, entry: Entry) -> Path | bytes | ImageError:
        try:
            return self._read(name, entry, self._options.limits.max_bytes)
        except ImageError as error:
            return error

    def samples(self) -> Iterator[Sample]:
        return self.samples_where(lambda index, key: True)

    def samples_where(self, wanted: Callable[[int, str], bool]) -> Iterator[Sample]:
        for index, parts in enumerate(self.parts()):
            if wanted(index, parts.key):
                yield self._sample(parts)
                for entry in parts.others:
                    self._look_into(entry)

    def parts(self) -> Iterator[Parts]:
        """The members of each sample, in the order of `samples`."""
        self._groups = SampleGroups(self._options.image_keys)
        self._notes = TextNotes()
        self._list(self._groups)
        for parts in self._groups.samples():
            if parts.image is None:
                self._find_image(parts)
            if parts.image is None and not parts.texts().keys() & {*TEXT_SUFFIXES, _JSON_SUFFIX}:
                for entry in parts.others:
                    self._groups.left_out.add(parts.name(entry))
                    self._look_into(entry)
                continue
            yield parts

    def unused(self) -> Mapping[str, Problems]:
        groups, notes = self._groups, self._notes
        return {
            "system_litter": groups.litter,
            "members_left_out": groups.left_out,
            "members_given_twice": groups.repeated,
            "images_not_chosen": groups.not_chosen,
            "samples_with_members_apart": groups.apart,
            "alt_texts_unusable": notes.unusable,
            "alt_texts_windows_1252": notes.windows_1252,
            "alt_texts_not_utf8": notes.replaced,
        }

    def _find_image(self, parts: Parts) -> None:
        """Look for the image by content where no name is one's."""
        if self._options.image_keys:
            return
        for entry in parts.others:
            suffix = (entry.suffix or "").lower().rpartition(".")[2]
            if suffix in (*TEXT_SUFFIXES, _JSON_SUFFIX):
                continue
            if sniff_format(self._peek(parts.name(entry), entry)[:SNIFF_BYTES]) is not None:
                parts.image = entry
                parts.others = [other for other in parts.others if other is not entry]
                return

    def _sample(self, parts: Parts) -> Sample:
        record = _Record(self, parts)
        fields = self._fields(record) if self._options.read_fields else {}
        if self._joined is not None:
            record.joined = self._joined.find(parts.key, fields)
        alts = self._alts(parts, record)
        image: Path | bytes | ImageError
        if parts.duplicate_of is not None and parts.image is not None:
            name = parts.name(parts.image)
            image = ImageError(
                "duplicate",
                f"{name} comes again in the shard: the first one is {parts.duplicate_of}.",
            )
        elif parts.image is None:
            names = ", ".join(parts.name(entry) for entry in parts.others[:3])
            wanted = " or ".join(self._options.image_keys)
            kind = f"image ({wanted})" if wanted else "image"
            image = ImageError("missing", f"{parts.key} has no {kind} in the shard, only {names}.")
        else:
            image = self._image(parts.name(parts.image), parts.image)
        return Sample(parts.key, alts, image, self._options.kept(fields))

    # -- texts

    def _alts(self, parts: Parts, record: _Record) -> Alts:
        keys = self._options.alt_keys
        if keys:
            texts: list[str] = []
            for key in keys:
                texts += self._texts(parts, record, key)
            return make_alts(dict.fromkeys(texts))
        if record.joined:
            alts = make_alts(dict.fromkeys(self._texts(parts, record, None)))
            if alts.texts:
                return alts
        for suffix in TEXT_SUFFIXES:
            if suffix in record.members:
                alts = make_alts(self._texts(parts, record, AltKey(suffix)))
                if alts.texts:
                    return alts
        if _JSON_SUFFIX in record.members:
            return make_alts(dict.fromkeys(self._texts(parts, record, AltKey(_JSON_SUFFIX))))
        return Alts()

    def _texts(self, parts: Parts, record: _Record, key: AltKey | None) -> list[str]:
        """The texts that one key names (None: the joined record); unusable ones are noted."""
        entry = None if key is None else record.members.get(key.name)
        try:
            if key is None:
                return record_texts(record.joined)
            if entry is None and key.name in record.joined:
                return record_texts(
                    record.joined[key.name] if key.path else record.joined, key.path or key.name
                )
            if key.name == _JSON_SUFFIX or (entry is not None and key.path is not None):
                return record_texts(record.value(key.name), key.path)
            if entry is not None:
                name = parts.name(entry)
                return [decode_text(self._read(name, entry, _MAX_TEXT_BYTES), name, self._notes)]
            if key.path is None and _JSON_SUFFIX in record.members:  # a key of the JSON
                return record_texts(record.value(_JSON_SUFFIX), key.name)
        except (ImageError, ValueError) as error:
            where = parts.name(entry) if entry is not None else parts.key
            self._notes.unusable.add(
                str(error) if isinstance(error, ImageError) else f"{where} {error}"
            )
        return []

    def _fields(self, record: _Record) -> dict[str, str]:
        try:
            value = record.value(_JSON_SUFFIX)
        except (ImageError, ValueError):
            return {}
        found = {key: value_at(value, key) for key in self._options.read_fields}
        return {
            key: str(part) for key, part in found.items() if isinstance(part, (str, int, float))
        }

    def json_of(self, parts: Parts, entry: Entry) -> Any:
        """The value of a JSON member. Raises ImageError or ValueError."""
        return parse_json(self._read(parts.name(entry), entry, _MAX_JSON_BYTES))


class _Record:
    """A sample's members and its JSON, parsed when it is first asked for."""

    def __init__(self, source: MemberSource, parts: Parts) -> None:
        self.members = parts.texts()
        self.joined: Mapping[str, Any] = {}
        self._source, self._parts = source, parts
        self._values: dict[str, Any] = {}

    def value(self, suffix: str) -> Any:
        """The JSON value in the member of this suffix; None without one."""
        entry = self.members.get(suffix)
        if entry is not None and suffix not in self._values:
            self._values[suffix] = self._source.json_of(self._parts, entry)
        return self._values.get(suffix)
