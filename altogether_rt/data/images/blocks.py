"""GIF, WebP, JPEG 2000 and Photoshop files: what their decoders will allocate, from the headers."""

from __future__ import annotations

import struct
from typing import Final

from altogether_rt.data.images.files import Part
from altogether_rt.data.images.prepared import MAX_METADATA_BYTES, Prepared, RefusedError, Scan
from altogether_rt.data.sniff import webp_size

__all__ = ["prepare_gif", "prepare_jpeg2000", "prepare_ppm", "prepare_psd", "prepare_webp"]

_MAX_JP2_HEADER_BYTES: Final = 16 * 1024 * 1024

#: Memory that OpenJPEG takes for each tile of a codestream and each of its components.
_TILE_BYTES, _TILE_COMPONENT_BYTES = 6_000, 1_100


def prepare_gif(scan: Scan) -> Prepared:
    """The screen and the first frame, without the comments before it."""
    head = scan.read(0, 13)
    if len(head) < 13:
        return Prepared()
    width, height, flags = struct.unpack("<HHB", head[6:11])
    offset = 13 + (3 << (flags & 7) + 1 if flags & 0x80 else 0)
    parts: list[Part] = [(0, offset)]
    while (block := scan.read(offset, 10)) and block[0] == 0x21:  # an extension
        start = offset
        is_control = block[1:2] == b"\xf9"
        offset += 2
        while (size := scan.read(offset, 1)) and size[0]:
            offset += 1 + size[0]
        offset += 1
        if is_control:
            parts.append((start, offset))
    if len(block) < 10 or block[0] != 0x2C:
        return Prepared()
    left, top, across, down = struct.unpack("<HHHH", block[1:9])
    parts.append((offset, scan.num_bytes))
    return Prepared(parts=parts, size=(max(width, left + across), max(height, top + down)))


def prepare_webp(scan: Scan) -> Prepared:
    """The file without profiles, and without EXIF and XMP that are larger than any camera's."""
    size = webp_size(scan.read(0, 64))
    parts: list[Part] = []
    dropped = 0  # flags of VP8X
    offset = 12
    while len(head := scan.read(offset, 8)) == 8:
        kind, length = struct.unpack("<4sI", head)
        end = min(offset + 8 + length + length % 2, scan.num_bytes)
        flag = {b"ICCP": 0x20, b"EXIF": 0x08, b"XMP ": 0x04}.get(kind, 0)
        if flag and length > MAX_METADATA_BYTES:
            dropped |= flag
        else:
            parts.append((offset, end))
        offset = end
    first = parts[0] if parts else b""
    if not dropped or isinstance(first, bytes):
        return Prepared(size=size)
    header = bytearray(scan.read(first[0], first[1] - first[0])[:32])
    if header[:4] == b"VP8X":
        header[8] &= ~dropped
        parts[0] = bytes(header)
    length = sum(len(part) if isinstance(part, bytes) else part[1] - part[0] for part in parts)
    riff = b"RIFF" + (length + 4).to_bytes(4, "little") + b"WEBP"
    return Prepared(parts=[riff, *parts], size=size)


def prepare_jpeg2000(scan: Scan) -> Prepared:
    """The size in the codestream, which is what is decoded, and the memory of its tiles."""
    offset = 0
    if scan.read(0, 4) != b"\xff\x4f\xff\x51":
        offset = _codestream(scan)
    # After SOC and SIZ: length, capabilities, extent, offset, tile's extent and offset, components
    siz = scan.unpack(">HHIIIIIIIIH", offset + 4)
    if siz is None or scan.read(offset, 4) != b"\xff\x4f\xff\x51":
        return Prepared()
    _, _, right, bottom, left, top, across, down, tile_left, tile_top, components = siz
    width, height = right - left, bottom - top
    if width < 1 or height < 1 or across < 1 or down < 1:
        return Prepared()
    depth = (scan.read(offset + 42, 1) or b"\0")[0] % 128 + 1
    if components > 1 and depth > 8:  # Pillow rounds its brightest values up to 256, which is 0
        raise RefusedError(
            "unsupported", f"is a JPEG 2000 image of {components} x {depth} bits, which is not read"
        )
    tiles = max(1, -(-(right - tile_left) // across)) * max(1, -(-(bottom - tile_top) // down))
    if tiles > 65535:
        raise RefusedError("damaged", f"claims {tiles:,} JPEG 2000 tiles")
    extra = tiles * (_TILE_BYTES + components * _TILE_COMPONENT_BYTES)
    extra += width * height * 8 * max(0, components - 4)
    return Prepared(
        size=(width, height),
        extra_bytes=extra if tiles > 1 or components > 4 else 0,
        variety="" if components <= 4 else f"JPEG 2000 with {components} components",
    )


def _codestream(scan: Scan) -> int:
    """The offset of the codestream in a JP2 file; where it ends if there is none."""
    offset = 0
    while len(head := scan.read(offset, 16)) >= 8:
        length, kind = struct.unpack(">I4s", head[:8])
        start = offset + 8
        if length == 1 and len(head) == 16:
            length, start = int.from_bytes(head[8:], "big"), offset + 16
        if kind == b"jp2c":
            return start
        if kind == b"jp2h" and length > _MAX_JP2_HEADER_BYTES:
            raise RefusedError("too_large", f"has {length:,} bytes of JPEG 2000 headers")
        if length < 8:
            break
        offset += length
    return scan.num_bytes


def prepare_ppm(scan: Scan) -> Prepared:
    """Nothing but the variety of floats that is not read."""
    if scan.read(0, 2) == b"PF":
        raise RefusedError("unsupported", "is a PFM image in colour, which is not read")
    return Prepared()


_PSD_MODES: Final = {
    0: "bitmap",
    1: "grey",
    2: "indexed",
    3: "RGB",
    4: "CMYK",
    7: "multichannel",
    8: "duotone",
    9: "LAB",
}


def prepare_psd(scan: Scan) -> Prepared:
    """The flattened image: header, colours and pixels, without resources and layers."""
    head = scan.unpack(">4sH6xHIIHH", 0)
    if head is None:
        return Prepared()
    _, version, channels, height, width, depth, mode = head
    if version != 1:
        raise RefusedError("unsupported", "is a Photoshop file of the large variety (PSB)")
    offset = 26
    ends = []
    for _ in range(3):  # colours, resources, layers
        length = scan.unpack(">I", offset)
        if length is None:
            return Prepared()
        offset += 4 + length[0]
        ends.append(offset)
    name = _PSD_MODES.get(mode, f"mode {mode}")
    return Prepared(
        parts=[(0, ends[0]), bytes(8), (ends[2], scan.num_bytes)],
        size=(width, height),
        variety=f"Photoshop file of {channels} x {depth}-bit {name}",
    )
