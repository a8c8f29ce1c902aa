"""Identifies a file by its name and its first bytes, before any decoder reads it.

The name is only a hint (crawls are full of HTML named .jpg); the bytes decide which decoder runs.
"""

from __future__ import annotations

import re
from typing import Final

__all__ = [
    "IMAGE_SUFFIXES",
    "SNIFF_BYTES",
    "UNSUPPORTED",
    "has_image_suffix",
    "sniff_format",
    "unsupported_name",
    "webp_size",
]

#: Number of first bytes of a file that `sniff_format` needs.
SNIFF_BYTES: Final = 64

_READABLE_SUFFIXES = (
    "jpg jpeg jpe jfif png apng webp avif avifs gif bmp dib tif tiff ppm pgm pbm pnm pfm "
    "jp2 j2k j2c jpc jpf jpx jpm psd heic heics heif heifs hif"
)
#: Suffixes of images that no decoder here reads: they get an error row.
_UNREADABLE_SUFFIXES = (
    "svg svgz eps ico icns cur tga dds jxl pcx xbm xpm sgi ras qoi exr hdr wmf emf fli flc "
    "wbmp pct pict xwd cr2 cr3 nef arw orf rw2 raf pef"
)
#: Lower-case suffixes, with the dot, that make a file an input regardless of its bytes.
IMAGE_SUFFIXES: Final = frozenset(
    "." + suffix for suffix in (_READABLE_SUFFIXES + " " + _UNREADABLE_SUFFIXES).split()
)

#: Result of `sniff_format` for an image in a format that is recognised but not read.
UNSUPPORTED: Final = "unsupported"

_MAGIC: tuple[tuple[bytes, str], ...] = (
    (rb"\xff\xd8\xff", "JPEG"),
    (rb"\x89PNG\r\n\x1a\n", "PNG"),
    (rb"GIF8[79]a", "GIF"),
    (rb"RIFF.{4}WEBP", "WEBP"),
    (rb"II\*\x00|MM\x00\*|II\+\x00|MM\x00\+", "TIFF"),
    (rb"BM.{4}\x00{4}", "BMP"),  # the size, then two fields that are always zero
    (rb"P[1-6]\s+[\d#]|P[fF]\s+\d", "PPM"),
    (rb"\xff\x4f\xff\x51|\x00\x00\x00\x0cjP  \r\n\x87\n", "JPEG2000"),
    (rb"8BPS\x00[\x01\x02]", "PSD"),
    (rb"\xff\x0a|\x00\x00\x00\x0cJXL |%!PS|\xc5\xd0\xd3\xc6|icns|DDS |qoif", UNSUPPORTED),
    (rb"\x00\x00[\x01\x02]\x00[^\x00]\x00|.{4}[\x11\x12]\xaf|\x59\xa6\x6a\x95", UNSUPPORTED),
    (rb"\s*(<\?xml[^>]*>\s*)?<svg", UNSUPPORTED),
)
#: Formats that are recognised so that they can be named; "an" or "a" belongs to the name.
_NAMES: tuple[tuple[bytes, str], ...] = (
    (rb"\xff\x0a|\x00\x00\x00\x0cJXL ", "a JPEG XL image"),
    (rb"%!PS|\xc5\xd0\xd3\xc6", "a PostScript file"),
    (rb"icns", "an Apple icon"),
    (rb"DDS ", "a DDS texture"),
    (rb"qoif", "a QOI image"),
    (rb"\x00\x00\x01\x00[^\x00]\x00", "a Windows icon"),
    (rb"\x00\x00\x02\x00[^\x00]\x00(?!.{10}[\x08\x0f\x10\x18\x20])", "a Windows cursor"),
    (rb".{4}[\x11\x12]\xaf", "an FLI animation"),
    (rb"\x59\xa6\x6a\x95", "a Sun raster image"),
    (rb"\x0a[\x00-\x05]\x01[\x01\x02\x04\x08]", "a PCX image"),
    (rb"\xb1\x68\xde\x3a", "a DCX image"),
    (rb"\x01\xda[\x00\x01][\x01\x02]", "an SGI image"),
    (rb"\s*/\* XPM \*/", "an XPM image"),
    (rb"#define \S+_width \d", "an XBM image"),
    (rb"#\?(RADIANCE|RGBE)", "a Radiance HDR image"),
    (rb"\x76\x2f\x31\x01", "an OpenEXR image"),
    (rb"SDPX|XPDS", "a DPX image"),
    (rb"\x80\x2a\x5f\xd7", "a Cineon image"),
    (rb"SIMPLE  =", "a FITS image"),
    (rb"id=ImageMagick", "a MIFF image"),
    (rb"P7\s", "a PAM image"),
    (rb"gimp xcf", "a GIMP image"),
    (rb"\xd7\xcd\xc6\x9a|\x01\x00\x09\x00\x00\x03", "a Windows metafile"),
    (rb"\x01\x00\x00\x00.{36} EMF", "an enhanced metafile"),
    (rb"II\xbc[\x00\x01]", "a JPEG XR image"),
    (rb".{128}DICM", "a DICOM image"),
    (rb"\x8aMNG\r\n|\x8bJNG\r\n", "an MNG or JNG image"),
    (rb"\x97JB2\r\n", "a JBIG2 image"),
    (rb"VIEW|\xab\x01", "a VIFF image"),
    (rb".{4}\0\0\0\x07\0\0\0[\0-\x02]\0\0\0[\x01-\x20]", "an X window dump"),
    (rb".{522}\x00\x11\x02\xff\x0c\x00", "a QuickDraw picture"),
    (
        # What may come before the root element, without going back over any of it.
        rb"(?:\xef\xbb\xbf)?(?>\s+|<\?.*?\?>|<!--.*?-->|<!DOCTYPE\s+svg\b[^\[>]*(?:\[.*?\]\s*)?>)*+"
        rb"<(?:\w+:)?svg\b",
        "an SVG drawing",
    ),
    (  # no identification, colour maps or none, a kind that exists, 8 to 32 bits a pixel
        rb".(?:\x00[\x02\x03\x0a\x0b]\x00{2}..[\x00\x08\x0f\x10\x18\x20]"
        rb"|\x01[\x01\x09].{4}[\x0f\x10\x18\x20]).{8}[\x08\x0f\x10\x18\x20].",
        "a TGA image",
    ),
)
_NAMED = tuple((re.compile(pattern, re.DOTALL), name) for pattern, name in _NAMES)

_FORMATS = tuple((re.compile(pattern, re.DOTALL), name) for pattern, name in _MAGIC)
_AVIF_BRANDS = frozenset({b"avif", b"avis"})
_HEIF_BRANDS = frozenset(
    {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1"}
)


def has_image_suffix(name: str) -> bool:
    """Whether the name has an image suffix, in upper or lower case: `photo.JPEG`."""
    dot = name.rfind(".")
    return dot >= 0 and name[dot:].lower() in IMAGE_SUFFIXES


def sniff_format(head: bytes) -> str | None:
    """The format of a file, by its first SNIFF_BYTES bytes or the whole file if it is shorter.

    Pillow's name of the format ("JPEG"), "HEIF", UNSUPPORTED for an image that is not read here, or
    None if it is not an image.
    """
    if head[4:8] == b"ftyp":
        length = min(int.from_bytes(head[:4], "big"), len(head))
        brands = {head[8:12]} | {head[at : at + 4] for at in range(16, length, 4)}
        if brands & _AVIF_BRANDS:
            return "AVIF"
        return "HEIF" if brands & _HEIF_BRANDS else None
    return next((name for pattern, name in _FORMATS if pattern.match(head)), None)


#: Formats with too little of a signature to go by it alone: it must be there, and the suffix.
_NAMED_WITH_SUFFIX = tuple(
    (suffixes, re.compile(pattern, re.DOTALL), name)
    for suffixes, pattern, name in (
        ((".wbmp",), rb"\0\0[\x80-\xff]{0,4}[\0-\x7f][\x80-\xff]{0,4}[\0-\x7f].", "a WBMP image"),
        ((".pct", ".pict"), rb".{522}\x11\x01", "a QuickDraw picture"),
    )
)


def unsupported_name(head: bytes, file_name: str = "") -> str | None:
    """The format of an image that no decoder here reads: "an SVG drawing".

    head: the first 4,096 bytes of the file. None if it is not recognised.
    """
    by_bytes = next((name for pattern, name in _NAMED if pattern.match(head)), None)
    return by_bytes or next(
        (
            name
            for suffixes, pattern, name in _NAMED_WITH_SUFFIX
            if file_name.lower().endswith(suffixes) and pattern.match(head)
        ),
        None,
    )


def webp_size(head: bytes) -> tuple[int, int] | None:
    """Width and height that a WebP file claims (RFC 9649), or None if it claims none."""
    if len(head) < 30:
        return None
    kind = head[12:16]
    if kind == b"VP8X":  # 24 bits each, less one
        return _le(head[24:27]) + 1, _le(head[27:30]) + 1
    if kind == b"VP8L":  # 14 bits each, less one, after the signature byte
        bits = _le(head[21:25])
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if kind == b"VP8 ":  # 14 bits each and 2 of scaling, after frame tag and start code
        return _le(head[26:28]) & 0x3FFF, _le(head[28:30]) & 0x3FFF
    return None


def _le(raw: bytes) -> int:
    return int.from_bytes(raw, "little")
