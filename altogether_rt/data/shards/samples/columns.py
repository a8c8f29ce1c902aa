"""Which columns of a Parquet file hold a sample's image, key and alt-texts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from altogether_rt.data.alt_files.columns import ALT_KEYS, find_key
from altogether_rt.data.shards.options import AltKey, ShardOptions
from altogether_rt.data.shards.samples.alt_texts import TEXT_SUFFIXES
from altogether_rt.errors import AltogetherError

__all__ = ["ShardColumns", "find_columns"]

#: Columns of images by their usual names, in order of preference: `datasets`, those of tars turned
#: into Parquet (suffixes), and others.
_IMAGE_NAMES: Final = (
    *("image", "jpg", "png", "jpeg", "webp", "img", "image_bytes", "bytes", "image_data", "data"),
    *("images", "content", "pixels", "picture", "photo"),
)
_PATH_NAMES: Final = ("image_path", "path", "file_path", "file_name", "filename", "file", "image")
#: Columns that name a sample, in order of preference.
_KEY_NAMES: Final = (
    *("key", "__key__", "uid", "uuid", "image_id", "id", "sample_id", "file_name", "filename"),
    *("image_path", "path", "sha256"),
)
_JSON: Final = "json"


@dataclass(frozen=True)
class ShardColumns:
    """Columns by their names in the file."""

    image: str
    is_path: bool  # texts: paths of files
    key: str | None
    alts: tuple[AltKey, ...]  # `name` as in the file
    first_alone: bool  # only the first of `alts` that has any counts
    fields: tuple[str, ...]
    not_here: frozenset[str] = frozenset()  # names in `alts` that joined records alone may have

    @property
    def others(self) -> list[str]:
        """All but the image's, each once."""
        alts = [alt.name for alt in self.alts if alt.name not in self.not_here]
        names = [self.key, *alts, *self.fields]
        return list(dict.fromkeys(name for name in names if name is not None))


def find_columns(schema: Any, options: ShardOptions, url: str) -> ShardColumns:
    """The columns of a file with this Arrow schema.

    Raises AltogetherError if there is none of images, or not one that the options name.
    """
    import pyarrow.types as types

    image, is_path = _image_column(schema, options, types, url)
    names = [name for name in schema.names if name != image]
    key = next((name for name in _KEY_NAMES if name in names or (is_path and name == image)), None)
    if key is not None and not _is_name(schema.field(key).type, types):
        key = None
    named = [_named_alt(alt, names) for alt in options.alt_keys]
    missing = [alt.name for alt, there in zip(options.alt_keys, named, strict=True) if not there]
    if missing and options.join is None:
        raise AltogetherError(
            f"{url} has no column {missing[0]}, only {', '.join(names[:20])}: name others with "
            "--alt-key."
        )
    alts = tuple(
        there or alt for alt, there in zip(options.alt_keys, named, strict=True)
    ) or _usual_alts(schema, names, types)
    fields = tuple(name for name in options.read_fields if name in names)
    return ShardColumns(image, is_path, key, alts, not options.alt_keys, fields, frozenset(missing))


def _image_column(schema: Any, options: ShardOptions, types: Any, url: str) -> tuple[str, bool]:
    for wanted in options.image_keys:
        found = next((name for name in schema.names if name.lower() == wanted), None)
        if found is not None:
            kind = schema.field(found).type
            fitting_types = (_is_image_object, _is_binary, _is_text)
            if not any(is_type(kind, types) for is_type in fitting_types):
                raise AltogetherError(
                    f"{url} has neither images nor paths of images in its column {found}, but "
                    f"{str(kind)[:80]}: name another with --image-key."
                )
            return found, _is_text(kind, types)
    if options.image_keys:
        raise AltogetherError(
            f"{url} has no column {' or '.join(options.image_keys)}, only "
            f"{', '.join(schema.names[:20])}: name another with --image-key."
        )
    by_type: list[tuple[Callable[[Any, Any], bool], tuple[str, ...], bool]] = [
        (_is_image_object, _IMAGE_NAMES, False),
        (_is_binary, _IMAGE_NAMES, False),
        (_is_text, _PATH_NAMES, True),
    ]
    for is_type, wanted_names, is_path in by_type:
        fitting = [field.name for field in schema if is_type(field.type, types)]
        known = find_key(fitting, wanted_names)
        if known is not None:
            return str(known), is_path
        if len(fitting) == 1 and not is_path:
            return fitting[0], False
    raise AltogetherError(
        f"{url} has no column of images among {', '.join(schema.names[:20])}: name one with "
        "--image-key."
    )


def _named_alt(alt: AltKey, names: list[str]) -> AltKey | None:
    """The column that is meant, or the key of the JSON column; None if the file has neither."""
    found = next((name for name in names if name.lower() == alt.name), None)
    if found is not None:
        return AltKey(found, alt.path)
    if alt.path is None and _JSON in names:
        return AltKey(_JSON, alt.name)
    return None


def _usual_alts(schema: Any, names: list[str], types: Any) -> tuple[AltKey, ...]:
    wanted = dict.fromkeys((*TEXT_SUFFIXES, *ALT_KEYS))
    texts = [name for name in names if not _is_number(schema.field(name).type, types)]
    found = (find_key(texts, (name,)) for name in wanted)
    usual = dict.fromkeys(str(name) for name in found if name is not None)
    if _JSON in texts:
        usual[_JSON] = None
    return tuple(AltKey(name) for name in usual)


def _is_binary(kind: Any, types: Any) -> bool:
    if types.is_list(kind) or types.is_large_list(kind):
        kind = kind.value_type
    return _is_one_binary(kind, types)


def _is_one_binary(kind: Any, types: Any) -> bool:
    """Whether it is binary, and no list: texts too, of writers that do not say that it is text."""
    if types.is_dictionary(kind):
        kind = kind.value_type
    return bool(types.is_binary(kind) or types.is_large_binary(kind) or types.is_binary_view(kind))


def _is_image_object(kind: Any, types: Any) -> bool:
    """Whether it is `datasets`' `{bytes, path}`, or a list of such."""
    if types.is_list(kind) or types.is_large_list(kind):
        kind = kind.value_type
    if not types.is_struct(kind):
        return False
    index = kind.get_field_index("bytes")
    return index >= 0 and _is_binary(kind.field(index).type, types)


def _is_text(kind: Any, types: Any) -> bool:
    if types.is_dictionary(kind):
        kind = kind.value_type
    return bool(types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind))


def _is_name(kind: Any, types: Any) -> bool:
    if types.is_decimal(kind):  # warehouses export whole numbers so
        return bool(kind.scale == 0)
    return _is_text(kind, types) or _is_one_binary(kind, types) or bool(types.is_integer(kind))


def _is_number(kind: Any, types: Any) -> bool:
    is_number = types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind)
    is_list = _is_binary(kind, types) and not _is_one_binary(kind, types)
    return bool(is_number) or is_list
