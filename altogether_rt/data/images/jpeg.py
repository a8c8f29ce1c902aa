"""JPEG (ITU-T T.81): its tables, its frame and its scans, with few of its application segments."""

from __future__ import annotations

import hashlib
from typing import BinaryIO, Final

from PIL import Image

from altogether_rt.data.images.files import Part, spliced
from altogether_rt.data.images.prepared import Prepared, Scan, merged

__all__ = ["complete_jpeg", "pixels_digest", "prepare_jpeg"]

_SOS: Final = 0xDA
_STANDALONE: Final = frozenset({0x01, *range(0xD0, 0xD9)})  # markers without a length
_FRAMES: Final = frozenset({*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC})
_NOT_READ: Final = {
    **dict.fromkeys((0xC3, 0xCB), "lossless JPEG"),
    **dict.fromkeys((0xC5, 0xC6, 0xC7, 0xCD, 0xCE, 0xCF), "hierarchical JPEG"),
    0xF7: "JPEG-LS",
}

#: Prefixes of the application segments that change what is shown: the first of each is kept.
_KEPT_SEGMENTS: Final = (
    (0xE0, b"JFIF\0"),
    (0xE1, b"Exif\0\0"),
    (0xE1, b"http://ns.adobe.com/xap/1.0/\0"),
    (0xEE, b"Adobe"),
)

#: Put in the place of an end marker to see whether the image depends on what is there. Bits of
#: either occur in no Huffman table as a run, and none of the bytes begins a marker.
_FILLERS: Final = (b"\x55" * 4096, b"\x9b\x2d" * 2048)
_EOI: Final = b"\xff\xd9"


def prepare_jpeg(scan: Scan) -> Prepared:
    """All that comes before the first scan, without comments and most application segments.

    A file may hold megabytes of them, and decoders keep them all. From the first thing that is not
    a segment on, the file is left as it is.
    """
    parts: list[Part] = [(0, 2)]
    kept: set[tuple[int, bytes]] = set()
    size: tuple[int, int] | None = None
    variety = ""
    offset = 2
    while (head := scan.read(offset, 40)) and len(head) >= 4 and head[0] == 0xFF:
        marker = head[1]
        if marker == 0xFF or marker in _STANDALONE:
            offset += 1 if marker == 0xFF else 2
            continue
        length = int.from_bytes(head[2:4], "big")
        if marker == _SOS or length < 2 or offset + 2 + length > scan.num_bytes:
            break
        if marker in _FRAMES and length >= 8:
            size = int.from_bytes(head[7:9], "big"), int.from_bytes(head[5:7], "big")
            variety = variety or _variety(marker, head[4], head[9])
        if not (0xE0 <= marker <= 0xEF or marker == 0xFE):
            parts.append((offset, offset + 2 + length))
        else:
            for segment in _KEPT_SEGMENTS:
                if segment[0] == marker and head[4:].startswith(segment[1]) and segment not in kept:
                    kept.add(segment)
                    parts.append((offset, offset + 2 + length))
        offset += 2 + length
    parts.append((offset, scan.num_bytes))
    return Prepared(parts=merged(parts), size=size, variety=variety)


def _variety(marker: int, precision: int, components: int) -> str:
    if marker in _NOT_READ:
        return _NOT_READ[marker]
    if precision != 8:
        return f"{precision}-bit JPEG"
    return "" if components in (1, 3, 4) else f"JPEG with {components} components"


def complete_jpeg(file: BinaryIO, draft: tuple[int, int] | None) -> Image.Image:
    """The image in a JPEG that lacks nothing but its end marker.

    If all of the data are there, then what follows them does not matter; if they are cut off, the
    decoder takes whatever follows for the rest of the image. So the file is decoded with an end
    marker after it, and with two other fillers before that marker: all must give the same pixels.
    Raises OSError ("truncated") if the file lacks more.
    """
    file.seek(-1, 2)
    end = file.tell() + (file.read(1) != b"\xff")  # half a marker
    digests = set()
    for filler in (b"", *_FILLERS):  # at full size: a draft does not use the last of the data
        image = Image.open(spliced(file, [(0, end), filler + _EOI]), formats=["JPEG"])
        image.load()
        digests.add(pixels_digest(image))
        if len(digests) > 1:
            raise OSError("image file is truncated")
    if draft is not None:
        image = Image.open(spliced(file, [(0, end), _EOI]), formats=["JPEG"])
        image.draft(None, draft)
        image.load()
    return image


def pixels_digest(image: Image.Image) -> bytes:
    """A hash of the pixels, a band of rows at a time."""
    width, height = image.size
    digest = hashlib.blake2b()
    rows = max(1, (1 << 20) // max(1, width))
    for top in range(0, height, rows):
        digest.update(image.crop((0, top, width, min(height, top + rows))).tobytes())
    return digest.digest()
