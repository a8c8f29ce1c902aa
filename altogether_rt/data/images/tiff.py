"""TIFF 6.0 and BigTIFF: a directory of the tags that decoding needs, with sensible counts."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

from altogether_rt.data.images.files import Part
from altogether_rt.data.images.prepared import Prepared, RefusedError, Scan

__all__ = ["prepare_tiff"]

_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC = 256, 257, 258, 259, 262
_OFFSETS, _SAMPLES, _ROWS_PER_STRIP, _BYTE_COUNTS, _PLANAR = 273, 277, 278, 279, 284
_COLOUR_MAP, _TILE_WIDTH, _TILE_HEIGHT, _TILE_OFFSETS, _TILE_BYTES = 320, 322, 323, 324, 325
_EXTRA, _SAMPLE_FORMAT, _JPEG_TABLES = 338, 339, 347

#: Tags that change the pixels, and the maximum number of their values; the others are left out.
#: Strips and tiles have as many as the image's size makes of them.
_MAX_VALUES: Final = {
    **dict.fromkeys((_WIDTH, _HEIGHT, _COMPRESSION, _PHOTOMETRIC, 266, 274, _SAMPLES), 1),
    **dict.fromkeys((_ROWS_PER_STRIP, _PLANAR, 292, 293, 317, 332, 334, _TILE_WIDTH), 1),
    **dict.fromkeys((_TILE_HEIGHT, 512, 513, 514, 515, 531), 1),
    **dict.fromkeys((_BITS, _EXTRA, _SAMPLE_FORMAT, 519, 520, 521, 529, 530, 532, 318), 16),
    _COLOUR_MAP: 3 << 16,
    _JPEG_TABLES: 1 << 16,
    **dict.fromkeys((_OFFSETS, _BYTE_COUNTS, _TILE_OFFSETS, _TILE_BYTES), 0),
}
#: Type of a value → its bytes and, for unsigned integers, its `struct` code.
_TYPES: Final = {
    1: (1, "B"),
    2: (1, ""),
    3: (2, "H"),
    4: (4, "I"),
    5: (8, ""),
    6: (1, ""),
    7: (1, ""),
    8: (2, ""),
    9: (4, ""),
    10: (8, ""),
    11: (4, ""),
    12: (8, ""),
    13: (4, "I"),
    16: (8, "Q"),
}
#: Memory of a strip or tile in Pillow's list of them.
_PIECE_BYTES: Final = 600
_MAX_TAGS: Final = 4096

_PHOTOMETRICS: Final = {
    0: "grey",
    1: "grey",
    2: "RGB",
    3: "palette",
    4: "mask",
    5: "CMYK",
    6: "YCbCr",
    8: "LAB",
    9: "ICC LAB",
    10: "ITU LAB",
    32803: "colour filter array",
    32844: "LogL",
    32845: "LogLuv",
    34892: "linear raw",
}


@dataclass(frozen=True)
class _Entry:
    type: int
    count: int
    value: bytes  # the field itself: an offset if the values do not fit into it


@dataclass(frozen=True)
class _Layout:
    """Byte order and width of the fields: classic TIFF has 4 bytes, BigTIFF 8."""

    order: str
    big: bool

    @property
    def width(self) -> int:
        return 8 if self.big else 4

    @property
    def entry(self) -> str:
        return self.order + ("HHQ8s" if self.big else "HHI4s")

    def number(self, raw: bytes) -> int:
        return int.from_bytes(raw, "little" if self.order == "<" else "big")


def prepare_tiff(scan: Scan) -> Prepared:
    """The first image of the file, with a directory of its own after the end of the file.

    Directories of strangers may list a tag with millions of values, or a page of metadata: what
    decoding does not need is not in the new one.
    """
    head = scan.read(0, 16)
    layout = _Layout("<" if head[:1] == b"I" else ">", 43 in head[2:4])
    directory = layout.number(head[8:16] if layout.big else head[4:8])
    entries = _entries(scan, layout, directory)
    values = {tag: _numbers(scan, layout, entry) for tag, entry in entries.items()}
    size = _first(values, _WIDTH), _first(values, _HEIGHT)
    if min(size) < 1:
        return Prepared()  # the decoder says what is wrong
    _refuse_what_pillow_misreads(values)
    pieces, piece_bytes = _pieces(values, size)
    fields = []
    for tag, entry in sorted(entries.items()):
        fields.append(_field(scan, layout, tag, entry, _MAX_VALUES[tag] or pieces))
    count = struct.pack(layout.order + ("Q" if layout.big else "H"), len(fields))
    end = scan.num_bytes + scan.num_bytes % 2  # directories begin at even offsets
    start = struct.pack(layout.order + ("Q" if layout.big else "I"), end)
    parts: list[Part] = [
        head[: 8 if layout.big else 4] + start,
        (16 if layout.big else 8, scan.num_bytes),
        bytes(end - scan.num_bytes) + count + b"".join(fields) + bytes(layout.width),
    ]
    extra = piece_bytes + pieces * _PIECE_BYTES
    if _first(values, _COMPRESSION, 1) != 1:
        extra += scan.num_bytes  # libtiff gets the file as one block
    return Prepared(
        parts=parts,
        size=size,
        extra_bytes=extra,
        variety=_variety(values),
        white=4095.0 if _first(values, _BITS, 1) == 12 else None,
        inverted=_first(values, _PHOTOMETRIC) == 0 and _first(values, _BITS, 1) > 8,
        unsigned=_first(values, _BITS, 1) == 32 and _first(values, _SAMPLE_FORMAT, 1) == 1,
    )


def _refuse_what_pillow_misreads(values: dict[int, tuple[int, ...]]) -> None:
    compression = _first(values, _COMPRESSION, 1)
    apart = _first(values, _PLANAR, 1) == 2 and _first(values, _SAMPLES, 1) > 1
    # It takes 16-bit planes for 8-bit ones; its libtiff prints a line if it has no WebP.
    if (compression == 1 and apart and _first(values, _BITS, 1) != 8) or compression == 50001:
        raise RefusedError("unsupported", f"is a {_variety(values)}, which is not read")


def _entries(scan: Scan, layout: _Layout, directory: int) -> dict[int, _Entry]:
    count = scan.unpack(layout.order + ("Q" if layout.big else "H"), directory)
    entries: dict[int, _Entry] = {}
    if count is None:
        return entries
    size = struct.calcsize(layout.entry)
    data = scan.read(directory + (8 if layout.big else 2), min(count[0], _MAX_TAGS) * size)
    for offset in range(0, len(data) - size + 1, size):
        tag, kind, number, value = struct.unpack_from(layout.entry, data, offset)
        if tag in _MAX_VALUES and tag not in entries and kind in _TYPES and number > 0:
            entries[tag] = _Entry(kind, number, value)
    return entries


def _raw(scan: Scan, layout: _Layout, entry: _Entry, max_values: int) -> bytes:
    """The bytes of the first values."""
    unit = _TYPES[entry.type][0]
    wanted = min(entry.count, max_values) * unit
    if entry.count * unit <= layout.width:
        return entry.value[:wanted]
    return scan.read(layout.number(entry.value), wanted)


def _numbers(scan: Scan, layout: _Layout, entry: _Entry) -> tuple[int, ...]:
    """The first values, at most 16; none if they are not unsigned integers."""
    unit, code = _TYPES[entry.type]
    if not code:
        return ()
    raw = _raw(scan, layout, entry, 16)
    return struct.unpack(f"{layout.order}{len(raw) // unit}{code}", raw[: len(raw) // unit * unit])


def _first(values: dict[int, tuple[int, ...]], tag: int, default: int = 0) -> int:
    return (values.get(tag) or (default,))[0]


def _pieces(values: dict[int, tuple[int, ...]], size: tuple[int, int]) -> tuple[int, int]:
    """(how many strips or tiles the image has, bytes of the buffer for one of them)"""
    width, height = size
    samples = max(1, _first(values, _SAMPLES, 1))
    bits = max(values.get(_BITS) or (1,))
    planes = samples if _first(values, _PLANAR, 1) == 2 else 1
    if _TILE_OFFSETS in values:
        across = max(1, _first(values, _TILE_WIDTH, width))
        down = max(1, _first(values, _TILE_HEIGHT, height))
        pieces = -(-width // across) * -(-height // down) * planes
        piece_bytes = across * down * (samples // planes) * bits // 8
        return pieces, max(0, piece_bytes - width * height * (samples // planes) * bits // 8)
    rows = min(height, _first(values, _ROWS_PER_STRIP, height) or height)
    return -(-height // rows) * planes, 0


def _field(scan: Scan, layout: _Layout, tag: int, entry: _Entry, max_values: int) -> bytes:
    """An entry of the new directory: the old one, cut to `max_values`."""
    count = min(entry.count, max_values)
    unit = _TYPES[entry.type][0]
    value = entry.value
    if count < entry.count and count * unit <= layout.width < entry.count * unit:
        value = _raw(scan, layout, entry, count).ljust(layout.width, b"\0")
    return struct.pack(layout.entry, tag, entry.type, count, value)


def _variety(values: dict[int, tuple[int, ...]]) -> str:
    """What the file holds, in words: "TIFF of 3 x 32-bit float RGB, compression 5"."""
    samples = _first(values, _SAMPLES, 1)
    bits = _first(values, _BITS, 1)
    kind = {2: " signed", 3: " float", 5: " complex", 6: " complex"}.get(
        _first(values, _SAMPLE_FORMAT, 1), ""
    )
    photometric = _first(values, _PHOTOMETRIC)
    colours = _PHOTOMETRICS.get(photometric, f"photometric {photometric}")
    compression = _first(values, _COMPRESSION, 1)
    inside = " (WebP)" if compression == 50001 else ""
    packed = f", compression {compression}{inside}" if compression != 1 else ""
    planar = ", planes apart" if _first(values, _PLANAR, 1) == 2 else ""
    return f"TIFF of {samples} x {bits}-bit{kind} {colours}{packed}{planar}"
