"""AVIF and HEIF: how large the coded frames are, whatever size the file declares.

A decoder allocates what the frame's own header says, and only then is the size compared with the
one declared. Sources: ISO/IEC 14496-12 (boxes), 23008-12 (items).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from altogether_rt.data.images.files import Part
from altogether_rt.data.images.frame_sizes import (
    HEADER_BYTES,
    Size,
    av1_sizes,
    hevc_sizes,
    parameter_set_size,
)
from altogether_rt.data.images.prepared import Prepared, RefusedError, Scan

__all__ = ["prepare_heif"]

#: Boxes that hold boxes, and the bytes before these.
_CONTAINERS: Final = {
    b"meta": 4,
    b"iprp": 0,
    b"ipco": 0,
    b"moov": 0,
    b"trak": 0,
    b"mdia": 0,
    b"minf": 0,
    b"stbl": 0,
    b"stsd": 8,
    b"av01": 78,
    b"hvc1": 78,
    b"hev1": 78,
}
_MAX_DEPTH: Final = 10

_Box = tuple[bytes, int, int]  # kind, start of the content, end


def prepare_heif(scan: Scan) -> Prepared:
    """The size of the largest frame, declared or coded. Raises RefusedError where a frame of AV1
    says none: no decoder takes it.
    """
    boxes = list(_boxes(scan, 0, scan.num_bytes, 0))
    declared: list[Size] = []
    coded: list[Size] = []
    nal_bytes = 4
    for kind, start, end in boxes:
        if kind == b"ispe" and (size := scan.unpack(">II", start + 4)) is not None:
            declared.append((size[0], size[1]))
        elif kind == b"av1C":
            coded += av1_sizes(scan, start + 4, end)
        elif kind == b"hvcC":
            nal_bytes = (scan.read(start + 21, 1) or b"\3")[0] % 4 + 1
            coded += _hvcc_sizes(scan, start, end)
    for item in (*_items(scan, boxes), *_first_samples(scan, boxes)):
        kind, data = item
        if kind == b"av01":
            sizes = list(av1_sizes(data, 0, data.num_bytes))
            if not sizes:
                raise RefusedError("damaged", "has an AV1 frame without a sequence header")
            coded += sizes
        elif kind in (b"hvc1", b"hev1"):
            coded += hevc_sizes(data, nal_bytes)
    largest = max((*declared, *coded), key=lambda size: size[0] * size[1], default=None)
    return Prepared(size=largest if largest and min(largest) > 0 else None)


def _boxes(scan: Scan, start: int, end: int, depth: int) -> Iterator[_Box]:
    """Every box in a range, and the boxes within those that hold some."""
    while start + 8 <= end and (head := scan.read(start, 16)) and len(head) >= 8:
        size, kind, content = int.from_bytes(head[:4], "big"), head[4:8], start + 8
        if size == 1 and len(head) == 16:
            size, content = int.from_bytes(head[8:], "big"), start + 16
        box_end = end if size == 0 else min(end, start + size)
        if box_end < content:
            return
        yield kind, content, box_end
        if kind in _CONTAINERS and depth < _MAX_DEPTH:
            yield from _boxes(scan, content + _CONTAINERS[kind], box_end, depth + 1)
        start = box_end


def _items(scan: Scan, boxes: list[_Box]) -> Iterator[tuple[bytes, Scan]]:
    """(kind, coded data) of each item whose data lie in this file."""
    kinds: dict[int, bytes] = {}
    idat = next((start for kind, start, _ in boxes if kind == b"idat"), 0)
    for kind, start, end in boxes:
        if kind == b"iinf":
            kinds |= _item_kinds(scan, start, end)
    for kind, start, end in boxes:
        if kind == b"iloc":
            for number, parts in _extents(_Fields(scan, start, end), idat, scan.num_bytes):
                if number in kinds:
                    yield kinds[number], scan.view(parts)


def _item_kinds(scan: Scan, start: int, end: int) -> Mapping[int, bytes]:
    version = (scan.read(start, 1) or b"\0")[0]
    kinds = {}
    for kind, at, _ in _boxes(scan, start + (6 if version == 0 else 8), end, _MAX_DEPTH):
        entry = scan.read(at, 16)
        if kind == b"infe" and len(entry) >= 14 and entry[0] in (2, 3):
            width = 2 if entry[0] == 2 else 4
            number = int.from_bytes(entry[4 : 4 + width], "big")
            kinds[number] = entry[6 + width : 10 + width]
    return kinds


class _Fields:
    """Integers of a box one after another; 0 beyond its end."""

    def __init__(self, scan: Scan, start: int, end: int) -> None:
        self._scan, self._at, self.end = scan, start, end

    def take(self, num_bytes: int) -> int:
        data = self._scan.read(self._at, num_bytes) if num_bytes else b""
        self._at += num_bytes
        return int.from_bytes(data, "big")

    def finished(self) -> bool:
        """Whether nothing is left."""
        return self._at >= self.end


def _extents(fields: _Fields, idat: int, num_bytes: int) -> Iterator[tuple[int, list[Part]]]:
    """(item, ranges of the file) of each item of an `iloc` box."""
    version = fields.take(4) >> 24
    sizes = fields.take(2)
    offset_size, length_size, base_size = sizes >> 12, sizes >> 8 & 15, sizes >> 4 & 15
    index_size = sizes & 15 if version in (1, 2) else 0
    wide = 4 if version == 2 else 2
    for _ in range(fields.take(wide)):
        if fields.finished():
            return
        number = fields.take(wide)
        method = fields.take(2) & 15 if version in (1, 2) else 0
        fields.take(2)  # the file that holds it: this one
        base = fields.take(base_size) + (idat if method == 1 else 0)
        parts: list[Part] = []
        for _ in range(fields.take(2)):
            if fields.finished():
                break
            fields.take(index_size)
            start, length = base + fields.take(offset_size), fields.take(length_size)
            end = num_bytes if length == 0 else min(num_bytes, start + length)
            parts.append((min(start, end), end))
        if method < 2:  # 2: within another item
            yield number, parts


def _first_samples(scan: Scan, boxes: list[_Box]) -> Iterator[tuple[bytes, Scan]]:
    """The first frame of each track, as far as its tables say where it is."""
    kind, size = b"", 0
    for name, start, _ in boxes:
        if name in (b"av01", b"hvc1", b"hev1"):
            kind = name
        elif name == b"stsz":
            common, _, first = scan.unpack(">III", start + 4) or (0, 0, 0)
            size = common or first
        elif name in (b"stco", b"co64") and kind:
            offset = scan.unpack(">I" if name == b"stco" else ">Q", start + 8)
            if offset is not None and offset[0] < scan.num_bytes:
                end = min(scan.num_bytes, offset[0] + size) if size else scan.num_bytes
                yield kind, scan.view([(offset[0], end)])
            kind, size = b"", 0


def _hvcc_sizes(scan: Scan, start: int, end: int) -> Iterator[Size]:
    """Sizes in the parameter sets of an `hvcC` box."""
    fields = _Fields(scan, start + 22, end)
    at = start + 23
    for _ in range(fields.take(1)):
        count = int.from_bytes(scan.read(at + 1, 2), "big")
        at += 3
        for _ in range(count):
            if at + 2 > end:
                return
            length = int.from_bytes(scan.read(at, 2), "big")
            yield from parameter_set_size(scan.read(at + 2, min(length, HEADER_BYTES)))
            at += 2 + length
