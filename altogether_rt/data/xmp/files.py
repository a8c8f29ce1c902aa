"""Alt-texts of image files: read from their XMP, and written into it.

A file is written whole or not at all, and every byte of it that is not XMP stays the same: in WebP
also but for the header that counts its bytes and says that there is XMP.
"""

from __future__ import annotations

import os
import stat
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO, Final

from altogether_rt.artifacts.files import NewFile
from altogether_rt.data.images.files import Part, open_file
from altogether_rt.data.images.limits import ImageLimits
from altogether_rt.data.images.prepared import Scan
from altogether_rt.data.sniff import webp_size
from altogether_rt.data.xmp.layout import (
    JPEG_PREFIX,
    PNG_KEYWORD,
    XmpLayout,
    find_xmp,
    read_packet,
)
from altogether_rt.data.xmp.packet import PacketTexts, one_line, parse_packet, with_alt

__all__ = ["read_alt_texts", "write_alt_text"]

#: Formats whose XMP is found by its first and last tag.
_BEGIN, _END = b"<x:xmpmeta", b"</x:xmpmeta>"
_MAX_SEARCHED_BYTES: Final = 4 << 20

_MAX_SEGMENT_BYTES: Final = 65533  # of a JPEG, after its length

_BUFFER_BYTES: Final = 1 << 20

#: A flag of VP8X (RFC 9649, 2.7): the file has XMP; and one of VP8L's header: it has alpha.
_HAS_XMP, _HAS_ALPHA, _VP8L_ALPHA = 0x04, 0x10, 1 << 28


def read_alt_texts(path: Path, limits: ImageLimits | None = None) -> PacketTexts | None:
    """The texts in the XMP of an image; None if it has none.

    Raises ValueError, which says why, if it has XMP that cannot be read, and ImageError or OSError
    if the file cannot.
    """
    with open_file(path, path.name, limits or ImageLimits()) as (file, num_bytes):
        scan = Scan(file, num_bytes)
        layout = find_xmp(scan)
        data = _search(scan) if layout is None else read_packet(scan, layout)
    return None if data is None else parse_packet(data)


def _search(scan: Scan) -> bytes | None:
    """The XMP of a TIFF, HEIC or AVIF file, wherever it is in its first megabytes."""
    data = scan.read(0, _MAX_SEARCHED_BYTES)
    begin = data.find(_BEGIN)
    end = data.find(_END, begin) if begin >= 0 else -1
    return data[begin : end + len(_END)] if end >= 0 else None


def write_alt_text(source: Path, target: Path, alt: str, limits: ImageLimits | None = None) -> bool:
    """Make `target` the image `source` with `alt` as its alt-text; they may be the same file.

    Returns whether anything had to be written. Raises ValueError, which says why, if the file
    cannot hold it, and ImageError or OSError if a file cannot be read or written; `target` is then
    what it was.
    """
    alt = one_line(alt)
    if not alt:
        raise ValueError("the caption is empty")
    with open_file(source, source.name, limits or ImageLimits()) as (file, num_bytes):
        scan = Scan(file, num_bytes)
        layout = find_xmp(scan)
        if layout is None:
            raise ValueError("alt-texts are written to whole JPEG, PNG and WebP files")
        held = read_packet(scan, layout)
        texts = parse_packet(held) if held is not None else PacketTexts()
        unchanged = texts.is_ours and texts.alt == alt
        if unchanged and source == target:
            return False
        packet = held if unchanged and held is not None else with_alt(held, alt)
        parts = _PARTS[layout.format](scan, layout, packet)
        with NewFile(target) as new:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            os.fchmod(new.file.fileno(), mode)
            for part in parts:
                _copy(file, part, new.file)
            new.file.flush()
            _check(new.path, alt)
            new.commit()
    return True


def _check(path: Path, alt: str) -> None:
    """Read what was written, before it replaces anything."""
    found = read_alt_texts(path)
    if found is None or not found.is_ours or found.alt != alt:
        raise ValueError("its XMP could not be read again")


def _copy(source: BinaryIO, part: Part, target: BinaryIO) -> None:
    if isinstance(part, bytes):
        target.write(part)
        return
    source.seek(part[0])
    left = part[1] - part[0]
    while left > 0:
        data = source.read(min(left, _BUFFER_BYTES))
        if not data:
            raise ValueError("it was cut while it was read")
        target.write(data)
        left -= len(data)


def _around(scan: Scan, layout: XmpLayout, block: bytes) -> list[Part]:
    """The file with `block` in the place of its XMP, or where that belongs."""
    start, end = layout.block or (layout.insert_at, layout.insert_at)
    return [(0, start), block, (end, scan.num_bytes)]


def _jpeg_parts(scan: Scan, layout: XmpLayout, packet: bytes) -> Sequence[Part]:
    if len(JPEG_PREFIX) + len(packet) > _MAX_SEGMENT_BYTES:
        packet = _without_padding(packet)
    data = JPEG_PREFIX + packet
    if len(data) > _MAX_SEGMENT_BYTES:
        raise ValueError("its XMP has no room for an alt-text")
    return _around(scan, layout, b"\xff\xe1" + struct.pack(">H", len(data) + 2) + data)


def _without_padding(packet: bytes) -> bytes:
    """XMP ends with kilobytes of spaces, so that it can be edited in place."""
    body, mark, end = packet.rpartition(b"<?xpacket end")
    return body.rstrip() + b"\n" + mark + end if mark else packet.rstrip()


def _png_parts(scan: Scan, layout: XmpLayout, packet: bytes) -> Sequence[Part]:
    data = b"iTXt" + PNG_KEYWORD + b"\0\0\0\0" + packet  # not compressed, in no language
    chunk = struct.pack(">I", len(data) - 4) + data + struct.pack(">I", zlib.crc32(data))
    return _around(scan, layout, chunk)


def _webp_parts(scan: Scan, layout: XmpLayout, packet: bytes) -> Sequence[Part]:
    block = b"XMP " + struct.pack("<I", len(packet)) + packet + b"\0" * (len(packet) % 2)
    last = 8 + int.from_bytes(scan.read(4, 4), "little")
    start, end = layout.block or (last, last)
    if layout.extended is not None:
        after = layout.extended[1]
        header = bytearray(scan.read(layout.extended[0], 18))
        header[8] |= _HAS_XMP
        if layout.extended[0] != 12:
            raise ValueError("it is not a well-formed WebP file")
    else:
        after = 12
        header = bytearray(_extended_header(scan))
    body: list[Part] = [bytes(header), (after, start), block, (end, last)]
    length = sum(len(part) if isinstance(part, bytes) else part[1] - part[0] for part in body)
    riff = b"RIFF" + struct.pack("<I", length + 4) + b"WEBP"
    return [riff, *body, (last, scan.num_bytes)]


def _extended_header(scan: Scan) -> bytes:
    """A VP8X chunk for a file that had no use for one."""
    head = scan.read(0, 64)
    size = webp_size(head)
    if size is None or not all(0 < side <= 1 << 24 for side in size):
        raise ValueError("it is not a well-formed WebP file")
    flags = _HAS_XMP
    if head[12:16] == b"VP8L" and int.from_bytes(head[21:25], "little") & _VP8L_ALPHA:
        flags |= _HAS_ALPHA
    width, height = (struct.pack("<I", side - 1)[:3] for side in size)
    return b"VP8X" + struct.pack("<II", 10, flags) + width + height


_PARTS: Final = {"JPEG": _jpeg_parts, "PNG": _png_parts, "WEBP": _webp_parts}
