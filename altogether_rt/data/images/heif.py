"""AVIF and HEIF: how large the coded frames are, whatever size the file declares.

A decoder allocates what the frame's own header says, and only then is the size compared with the
one declared. Sources: ISO/IEC 14496-12 (boxes), 23008-12 (items), the AV1 bitstream specification
(5.3, 5.5) and ITU-T H.265 (7.3.2.2).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from altogether_rt.data.images.files import Part
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

#: Bytes of a sequence header or parameter set that are looked into: the size is near their start.
_HEADER_BYTES: Final = 1024

_AV1_SEQUENCE_HEADER: Final = 1
_HEVC_SPS: Final = 33

_Box = tuple[bytes, int, int]  # kind, start of the content, end
_Size = tuple[int, int]


def prepare_heif(scan: Scan) -> Prepared:
    """The size of the largest frame, declared or coded. Raises RefusedError where a frame of AV1
    says none: no decoder takes it.
    """
    boxes = list(_boxes(scan, 0, scan.num_bytes, 0))
    declared: list[_Size] = []
    coded: list[_Size] = []
    nal_bytes = 4
    for kind, start, end in boxes:
        if kind == b"ispe" and (size := scan.unpack(">II", start + 4)) is not None:
            declared.append((size[0], size[1]))
        elif kind == b"av1C":
            coded += _av1_sizes(scan, start + 4, end)
        elif kind == b"hvcC":
            nal_bytes = (scan.read(start + 21, 1) or b"\3")[0] % 4 + 1
            coded += _hvcc_sizes(scan, start, end)
    for item in (*_items(scan, boxes), *_first_samples(scan, boxes)):
        kind, data = item
        if kind == b"av01":
            sizes = list(_av1_sizes(data, 0, data.num_bytes))
            if not sizes:
                raise RefusedError("damaged", "has an AV1 frame without a sequence header")
            coded += sizes
        elif kind in (b"hvc1", b"hev1"):
            coded += _hevc_sizes(data, nal_bytes)
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


def _av1_sizes(scan: Scan, start: int, end: int) -> Iterator[_Size]:
    """The largest frame that each sequence header in a range of open bitstream units allows."""
    while start < end and (head := scan.read(start, 11)):
        has_extension, has_size = bool(head[0] & 4), bool(head[0] & 2)
        at = 1 + has_extension
        size = end - start - at
        if has_size:
            size, count = _leb128(head[at:])
            at += count
        if head[0] >> 3 & 15 == _AV1_SEQUENCE_HEADER:
            found = _av1_size(_Bits(scan.read(start + at, min(size, _HEADER_BYTES))))
            if found is not None:
                yield found
        start += at + size


def _leb128(data: bytes) -> tuple[int, int]:
    """(number, bytes that it took)"""
    value = 0
    for index, byte in enumerate(data[:8]):
        value |= (byte & 127) << 7 * index
        if byte < 128:
            return value, index + 1
    return value, max(1, len(data[:8]))


def _av1_size(bits: _Bits) -> _Size | None:
    bits.skip(4)  # profile, still picture
    if bits.take(1):  # reduced still picture header
        bits.skip(5)
    else:
        _skip_operating_points(bits)
    width_bits, height_bits = bits.take(4) + 1, bits.take(4) + 1
    size = bits.take(width_bits) + 1, bits.take(height_bits) + 1
    return None if bits.exhausted else size


def _skip_operating_points(bits: _Bits) -> None:
    delay_bits = 0
    if bits.take(1):  # timing info
        bits.skip(64)
        if bits.take(1):
            bits.exp_golomb()
        if bits.take(1):  # decoder model info
            delay_bits = bits.take(5) + 1
            bits.skip(42)
    has_delay = bits.take(1)
    for _ in range(bits.take(5) + 1):
        bits.skip(12)
        if bits.take(5) > 7:
            bits.skip(1)
        if delay_bits and bits.take(1):
            bits.skip(2 * delay_bits + 1)
        if has_delay and bits.take(1):
            bits.skip(4)


def _hvcc_sizes(scan: Scan, start: int, end: int) -> Iterator[_Size]:
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
            yield from _nal_size(scan.read(at + 2, min(length, _HEADER_BYTES)))
            at += 2 + length


def _hevc_sizes(data: Scan, nal_bytes: int) -> Iterator[_Size]:
    """Sizes in the parameter sets among the units of a frame."""
    at = 0
    while at + nal_bytes < data.num_bytes:
        length = int.from_bytes(data.read(at, nal_bytes), "big")
        head = data.read(at + nal_bytes, 1)
        if head and head[0] >> 1 & 63 == _HEVC_SPS:
            yield from _nal_size(data.read(at + nal_bytes, min(length, _HEADER_BYTES)))
        at += nal_bytes + length


def _nal_size(unit: bytes) -> Iterator[_Size]:
    if len(unit) < 3 or unit[0] >> 1 & 63 != _HEVC_SPS:
        return
    bits = _Bits(unit[2:].replace(b"\0\0\3", b"\0\0"))  # without emulation prevention
    bits.skip(4)
    layers = bits.take(3)
    bits.skip(1 + 96)
    present = [(bits.take(1), bits.take(1)) for _ in range(layers)]
    bits.skip(2 * (8 - layers) if layers else 0)
    for profile, level in present:
        bits.skip(88 * profile + 8 * level)
    bits.exp_golomb()
    if bits.exp_golomb() == 3:  # chroma format
        bits.skip(1)
    size = bits.exp_golomb(), bits.exp_golomb()
    if not bits.exhausted:
        yield size


class _Bits:
    """Bits of some bytes, the highest of each first; 0 beyond their end."""

    def __init__(self, data: bytes) -> None:
        self._value = int.from_bytes(data, "big")
        self._left = 8 * len(data)

    @property
    def exhausted(self) -> bool:
        """Whether more was taken than there is."""
        return self._left < 0

    def take(self, count: int) -> int:
        self._left -= count
        if self._left < 0:
            return 0
        return self._value >> self._left & (1 << count) - 1

    def skip(self, count: int) -> None:
        self._left -= count

    def exp_golomb(self) -> int:
        """An unsigned number of variable length."""
        zeros = 0
        while not self.take(1):
            zeros += 1
            if self.exhausted or zeros > 32:
                return 0
        return (1 << zeros) - 1 + self.take(zeros)
