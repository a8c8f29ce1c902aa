"""Sizes of frames, as the headers of AV1 and HEVC state them.

Sources: the AV1 bitstream specification (5.3, 5.5) and ITU-T H.265 (7.3.2.2).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from altogether_rt.data.images.prepared import Scan

__all__ = ["HEADER_BYTES", "Size", "av1_sizes", "hevc_sizes", "parameter_set_size"]

#: Bytes of a sequence header or parameter set that are looked into: the size is near their start.
HEADER_BYTES: Final = 1024

_AV1_SEQUENCE_HEADER: Final = 1
_HEVC_SPS: Final = 33

Size = tuple[int, int]  # width, height


def av1_sizes(scan: Scan, start: int, end: int) -> Iterator[Size]:
    """The largest frame that each sequence header in a range of open bitstream units allows."""
    while start < end and (head := scan.read(start, 11)):
        has_extension, has_size = bool(head[0] & 4), bool(head[0] & 2)
        at = 1 + has_extension
        size = end - start - at
        if has_size:
            size, count = _leb128(head[at:])
            at += count
        if head[0] >> 3 & 15 == _AV1_SEQUENCE_HEADER:
            found = _av1_size(_Bits(scan.read(start + at, min(size, HEADER_BYTES))))
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


def _av1_size(bits: _Bits) -> Size | None:
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


def hevc_sizes(data: Scan, nal_bytes: int) -> Iterator[Size]:
    """Sizes in the parameter sets among the units of a frame."""
    at = 0
    while at + nal_bytes < data.num_bytes:
        length = int.from_bytes(data.read(at, nal_bytes), "big")
        head = data.read(at + nal_bytes, 1)
        if head and head[0] >> 1 & 63 == _HEVC_SPS:
            yield from parameter_set_size(data.read(at + nal_bytes, min(length, HEADER_BYTES)))
        at += nal_bytes + length


def parameter_set_size(unit: bytes) -> Iterator[Size]:
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
