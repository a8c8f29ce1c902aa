"""PNG (W3C PNG third edition): what its image data need, and nothing else."""

from __future__ import annotations

import struct
import zlib
from typing import Final

from altogether_rt.data.images.files import Part
from altogether_rt.data.images.prepared import (
    MAX_METADATA_BYTES,
    Prepared,
    RefusedError,
    Scan,
    merged,
)

__all__ = ["prepare_png"]

_SIGNATURE_BYTES: Final = 8
_END: Final = b"\0\0\0\0IEND\xaeB`\x82"

#: Maximum size of a chunk whose checksum is verified only to be able to report it.
_MAX_VERIFIED_BYTES: Final = 1 << 20

#: Text chunks that Pillow looks for an orientation in, by their first bytes.
_TEXTS: Final = (b"Raw profile type exif\0", b"XML:com.adobe.xmp\0")

_ANCILLARY = 0x20  # this bit of a chunk's first letter


def prepare_png(scan: Scan) -> Prepared:
    """The header, the palette, the transparency, the pixels, and small EXIF and XMP.

    Text, profiles and animation are left out: they cannot fail or cost memory. Damaged chunks that
    viewers pass over are noted.
    """
    parts: list[Part] = [(0, _SIGNATURE_BYTES)]
    notes: dict[str, None] = {}
    colour = -1
    size = None
    has_pixels = False
    offset = _SIGNATURE_BYTES
    while (head := scan.read(offset, 8)) and len(head) == 8:
        length, kind = struct.unpack(">I4s", head)
        if not kind.isalpha():
            break  # not a chunk: what the file has from here on is lost
        end = offset + 12 + length
        if kind == b"CgBI":
            raise RefusedError("unsupported", "is a PNG in Apple's own variety (CgBI)")
        if kind == b"IEND":
            break
        if kind in (b"IHDR", b"PLTE", b"IDAT"):
            if kind == b"IHDR" and size is None and (header := scan.read(offset + 8, 13)):
                size, colour = _header(header)
            has_pixels = has_pixels or kind == b"IDAT"
            parts.extend(_whole_chunk(offset, kind, length, scan.num_bytes))
        elif kind[0] & _ANCILLARY:
            problem, keep = _ancillary(scan, kind, offset, length, colour)
            if problem:
                notes[problem] = None
            if keep:
                parts.append((offset, end))
        if end > scan.num_bytes:
            break
        offset = end
    if not (head[4:] == b"IEND" and offset + 12 <= scan.num_bytes) and has_pixels:
        notes["it ends without an IEND chunk"] = None
    if has_pixels:
        own = scan.read(offset, len(_END)) == _END  # a file that is as it should be is not copied
        parts.append((offset, offset + len(_END)) if own else _END)
    return Prepared(parts=merged(parts), size=size, notes=tuple(notes))


def _whole_chunk(offset: int, kind: bytes, length: int, num_bytes: int) -> list[Part]:
    """The chunk; if the file ends within it, as much as there is, in a chunk of that length.

    The pixels may be complete all the same. If they are not, the decoder misses them.
    """
    end = offset + 12 + length
    if end <= num_bytes:
        return [(offset, end)]
    data = (offset + 8, min(offset + 8 + length, num_bytes))
    return [struct.pack(">I4s", data[1] - data[0], kind), data, bytes(4)]


def _header(header: bytes) -> tuple[tuple[int, int] | None, int]:
    """((width, height), colour type)"""
    if len(header) < 13:
        return None, -1
    width, height, _, colour = struct.unpack(">IIBB", header[:10])
    return (width, height), colour


def _ancillary(scan: Scan, kind: bytes, offset: int, length: int, colour: int) -> tuple[str, bool]:
    """(what is wrong with a chunk, or "", whether the decoder needs it)"""
    if offset + 12 + length > scan.num_bytes:
        return f"its {kind.decode()} chunk is cut off", False
    if length > _MAX_VERIFIED_BYTES:
        return "", False
    data = scan.read(offset + 8, length + 4)
    if zlib.crc32(kind + data[:length]) != int.from_bytes(data[length:], "big"):
        return f"its {kind.decode()} chunk has a wrong checksum", False
    if kind == b"tRNS":
        valid = {0: length == 2, 2: length == 6, 3: 0 < length <= 256}.get(colour, False)
        return ("", True) if valid else ("its tRNS chunk has a wrong length", False)
    if length > MAX_METADATA_BYTES:
        return "", False
    if kind == b"pHYs" and length != 9:
        return "its pHYs chunk has a wrong length", False
    return "", kind == b"eXIf" or _is_small_text(kind, data[:length])


def _is_small_text(kind: bytes, data: bytes) -> bool:
    """Whether it is a text of `_TEXTS` that stays small when it is decompressed."""
    if kind not in (b"tEXt", b"zTXt", b"iTXt") or not data.startswith(_TEXTS):
        return False
    start = data.index(b"\0") + 1
    if kind == b"iTXt":
        return data[start : start + 1] == b"\0"  # not compressed
    if kind == b"tEXt":
        return True
    unpacker = zlib.decompressobj()
    try:
        unpacker.decompress(data[start + 1 :], MAX_METADATA_BYTES * 4)
    except zlib.error:
        return False
    return data[start : start + 1] == b"\0" and not unpacker.unconsumed_tail
