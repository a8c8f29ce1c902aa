"""Where a file keeps its XMP (ISO 16684-1), and where it would: JPEG, PNG and WebP.

Only the structure is walked, from one length to the next, and every file is untrusted: whatever is
not as it should be means that nothing is known of the file.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from typing import Final, Literal

from altogether_rt.data.images.prepared import RefusedError, Scan

__all__ = ["JPEG_PREFIX", "MAX_PACKET_BYTES", "PNG_KEYWORD", "XmpLayout", "find_xmp", "read_packet"]

#: Maximum size of an XMP packet that is read: more than a JPEG segment can hold.
MAX_PACKET_BYTES: Final = 1 << 20

JPEG_PREFIX: Final = b"http://ns.adobe.com/xap/1.0/\0"
PNG_KEYWORD: Final = b"XML:com.adobe.xmp\0"
_PNG_SIGNATURE: Final = b"\x89PNG\r\n\x1a\n"
_EXIF: Final = b"Exif\0\0"

Range = tuple[int, int]


@dataclass(frozen=True)
class XmpLayout:
    """What is where in a file, as (start, end) in bytes."""

    format: Literal["JPEG", "PNG", "WEBP"]
    packet: Range | None  # the XMP, as it is stored
    block: Range | None  # the segment or chunk that holds it
    insert_at: int  # where a block would go if there is none
    #: All that is there for the sake of XMP, or changes with it; the rest is the image.
    besides_image: tuple[Range, ...]
    compressed: bool = False  # the packet is (zlib)
    extended: Range | None = None  # the VP8X chunk of a WebP file


def find_xmp(scan: Scan) -> XmpLayout | None:
    """The layout of a file; None if it is of another format, or not well formed."""
    head = scan.read(0, 16)
    try:
        if head.startswith(b"\xff\xd8\xff"):
            return _in_jpeg(scan)
        if head.startswith(_PNG_SIGNATURE):
            return _in_png(scan)
        if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
            return _in_webp(scan)
    except RefusedError:  # more parts than any file has
        return None
    return None


def read_packet(scan: Scan, layout: XmpLayout) -> bytes | None:
    """The XMP of a file; None if there is none. Raises ValueError if it is larger than any."""
    if layout.packet is None:
        return None
    start, end = layout.packet
    if end - start > MAX_PACKET_BYTES:
        raise ValueError("its XMP is larger than a megabyte")
    data = scan.read(start, end - start)
    if not layout.compressed:
        return data
    unpacker = zlib.decompressobj()
    try:
        data = unpacker.decompress(data, MAX_PACKET_BYTES)
    except zlib.error as error:
        raise ValueError("its XMP cannot be decompressed") from error
    if unpacker.unconsumed_tail:
        raise ValueError("its XMP is larger than a megabyte")
    return data


def _in_jpeg(scan: Scan) -> XmpLayout | None:
    """Segments up to the first scan (ITU-T T.81, B.1); XMP is in an APP1 of its own."""
    offset, insert_at = 2, 2
    blocks: list[Range] = []
    leading = True
    while len(head := scan.read(offset, 4 + len(JPEG_PREFIX))) >= 4 and head[0] == 0xFF:
        marker, length = head[1], int.from_bytes(head[2:4], "big")
        if marker == 0xFF or marker in (0x01, *range(0xD0, 0xDA)):
            return None  # fill bytes and markers without a length: rare, and left alone
        end = offset + 2 + length
        if marker == 0xDA:
            packet = (blocks[0][0] + 4 + len(JPEG_PREFIX), blocks[0][1]) if blocks else None
            return XmpLayout(
                "JPEG", packet, blocks[0] if blocks else None, insert_at, tuple(blocks)
            )
        if length < 2 or end > scan.num_bytes:
            return None
        if marker == 0xE1 and head[4:] == JPEG_PREFIX:
            blocks.append((offset, end))
        leading = leading and (marker == 0xE0 or (marker == 0xE1 and head[4:10] == _EXIF))
        if leading:  # JFIF and EXIF want to be first
            insert_at = end
        offset = end
    return None


def _in_png(scan: Scan) -> XmpLayout | None:
    """Chunks up to IEND; XMP is in an iTXt chunk with a keyword of its own."""
    offset, insert_at = len(_PNG_SIGNATURE), 0
    found: list[tuple[Range, Range, bool]] = []
    while len(head := scan.read(offset, 8)) == 8:
        length, kind = struct.unpack(">I4s", head)
        end = offset + 12 + length
        if end > scan.num_bytes:
            return None
        if kind == b"IDAT" and not insert_at:
            insert_at = offset
        if kind == b"iTXt" and (text := _png_text(scan, offset + 8, end - 4)):
            found.append(((offset, end), *text))
        offset = end
        if kind == b"IEND":
            block, packet, compressed = found[0] if found else (None, None, False)
            blocks = tuple(block for block, _, _ in found)
            if not insert_at:
                return None
            return XmpLayout("PNG", packet, block, insert_at, blocks, compressed)
    return None


def _png_text(scan: Scan, start: int, end: int) -> tuple[Range, bool] | None:
    """(range of the text, whether it is compressed) of an iTXt chunk that holds XMP."""
    head = scan.read(start, min(end - start, len(PNG_KEYWORD) + 256))
    if not head.startswith(PNG_KEYWORD):
        return None
    at = len(PNG_KEYWORD) + 2  # compression flag and method
    for _ in range(2):  # language tag and translated keyword, each with its end
        zero = head.find(b"\0", at)
        if zero < 0:
            return None
        at = zero + 1
    return (start + at, end), head[len(PNG_KEYWORD)] != 0


def _in_webp(scan: Scan) -> XmpLayout | None:
    """Chunks of RIFF (RFC 9649); XMP is the last one, and VP8X has a flag for it."""
    size = int.from_bytes(scan.read(4, 4), "little")
    last = 8 + size
    if last > scan.num_bytes or size % 2:
        return None
    offset = 12
    block = extended = packet = None
    while offset < last:
        head = scan.read(offset, 8)
        if len(head) < 8:
            return None
        kind, length = struct.unpack("<4sI", head)
        end = offset + 8 + length + length % 2
        if end > last:
            return None
        if kind == b"VP8X" and extended is None and length == 10:
            extended = (offset, end)
        if kind == b"XMP " and block is None:
            block, packet = (offset, end), (offset + 8, offset + 8 + length)
        offset = end
    besides = ((0, 12), *(part for part in (extended, block) if part is not None))
    return XmpLayout("WEBP", packet, block, last, besides, extended=extended)
