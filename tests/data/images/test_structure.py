"""Metadata never costs an image; what a file claims is weighed before it is decoded."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw, TiffImagePlugin

from altogether_rt.data.images import ImageLimits, image_notes, open_image
from altogether_rt.errors import ImageError

pytestmark = pytest.mark.lean

LONG = b"\xff\xff\xff\x7f"


def photo() -> Image.Image:
    image = Image.new("RGB", (64, 48), (200, 120, 40))
    ImageDraw.Draw(image).ellipse((9, 5, 50, 40), fill=(10, 90, 250))
    return image


def packed(image: Image.Image, image_format: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, image_format, **options)
    return file.getvalue()


def chunk(kind: bytes, body: bytes, crc: int | None = None) -> bytes:
    checked = zlib.crc32(kind + body) if crc is None else crc
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", checked)


def read(data: bytes, **options: Any) -> tuple[np.ndarray, tuple[str, ...]]:
    with open_image(data, **options) as image:
        return np.asarray(image), image_notes(image)


def kind_of(data: bytes, limits: ImageLimits | None = None) -> str:
    with pytest.raises(ImageError) as caught, open_image(data, limits):
        pass
    return caught.value.kind


@pytest.mark.parametrize(
    ("extra", "note"),
    [
        (chunk(b"tEXt", b"Comment\0" + b"x" * 5_000_000), ""),
        (chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(90_000_000))), ""),
        (chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(bytes(9_000_000))), ""),
        (chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(bytes(9_000_000))), ""),
        (chunk(b"iCCP", b"icc\0\0" + zlib.compress(bytes(9_000_000))), ""),
        (chunk(b"iCCP", b"icc\0\7?"), ""),
        (chunk(b"pHYs", b"\0\0"), "its pHYs chunk has a wrong length"),
        (chunk(b"tRNS", b"\0"), "its tRNS chunk has a wrong length"),
        (chunk(b"gAMA", b"\0\0\1\0", crc=7), "its gAMA chunk has a wrong checksum"),
        (chunk(b"eXIf", b"MM\0*garbage"), ""),
    ],
)
def test_png_chunks_never_cost_an_image(extra: bytes, note: str) -> None:
    data = packed(photo(), "PNG")
    pixels, notes = read(data[:33] + extra + data[33:])
    np.testing.assert_array_equal(pixels, np.asarray(photo()))
    assert notes == ((note,) if note else ())


@pytest.mark.parametrize("cut", [1, 8, 12, 14])
def test_png_without_its_end_is_read_and_noted(cut: int) -> None:
    pixels, notes = read(packed(photo(), "PNG")[:-cut])
    np.testing.assert_array_equal(pixels, np.asarray(photo()))
    assert notes == ("it ends without an IEND chunk",)
    assert kind_of(packed(photo(), "PNG")[:-60]) == "truncated"


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("draft_side", [None, 8])
def test_jpeg_lacks_its_end_marker_or_more(progressive: bool, draft_side: int | None) -> None:
    whole = packed(photo(), "JPEG", progressive=progressive)
    expected, none = read(whole, draft_side=draft_side)
    assert none == ()
    for cut in (1, 2):
        pixels, notes = read(whole[:-cut], draft_side=draft_side)
        np.testing.assert_array_equal(pixels, expected)
        assert notes == ("it ends without an end marker",)
    for cut in (4, 6, 20, 100):
        with pytest.raises(ImageError) as caught, open_image(whole[:-cut], draft_side=draft_side):
            pass
        assert caught.value.kind == "truncated"


def test_jpeg_segments_are_left_out_but_orientation_is_kept() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    whole = packed(photo(), "JPEG", exif=exif, quality=95)
    comment = b"\xff\xfe\xff\xff" + bytes(65533)
    profile = b"\xff\xe2\xff\xff" + bytes(65533)
    pixels, _ = read(whole[:2] + comment * 200 + profile * 200 + whole[2:])
    np.testing.assert_array_equal(pixels, read(whole)[0])
    assert pixels.shape == (64, 48, 3)
    assert kind_of(whole[:2] + b"\xff\xfe\0\2" * 1_000_001 + whole[2:]) == "too_large"


def tiff(tags: dict[int, tuple[int, int, int]], body: bytes) -> bytes:
    """tags: tag → (type, count, value or offset); the body begins at offset 8."""
    entries = b"".join(
        struct.pack("<HHI", tag, kind, count)
        + (struct.pack("<HH", value, 0) if kind == 3 else struct.pack("<I", value))
        for tag, (kind, count, value) in sorted(tags.items())
    )
    start = struct.pack("<I", 8 + len(body))
    return b"II*\0" + start + body + struct.pack("<H", len(tags)) + entries + bytes(4)


GREY = {
    256: (4, 1, 16),
    257: (4, 1, 16),
    258: (3, 1, 8),
    259: (3, 1, 1),
    262: (3, 1, 1),
    273: (4, 1, 8),
    277: (3, 1, 1),
    278: (4, 1, 16),
    279: (4, 1, 256),
}


def test_tiff_tags_cost_what_the_image_needs() -> None:
    ramp = bytes(range(256))
    plain, _ = read(tiff(GREY, ramp))
    assert plain[..., 0].tobytes() == ramp
    many = 500_000
    strips = tiff({**GREY, 273: (4, many, 8 + 256)}, ramp + struct.pack("<I", 8) + LONG * many)
    assert read(strips)[0].tobytes() == plain.tobytes()
    for tag, count in ((274, many), (34665, 1), (700, many), (37724, many), (258, many)):
        kept = ramp + (struct.pack("<I", 8) * many if tag == 258 else LONG * many)
        assert read(tiff({**GREY, tag: (4, count, 8 + 256)}, kept))[0].tobytes() == plain.tobytes()


def test_tiff_tiles_larger_than_the_image() -> None:
    tiles = {key: value for key, value in GREY.items() if key not in (273, 278, 279)}
    tiles |= {322: (4, 1, 60_000), 323: (4, 1, 60_000), 324: (4, 1, 8), 325: (4, 1, 256)}
    assert kind_of(tiff({**tiles, 259: (3, 1, 8)}, bytes(256))) == "too_large"


def test_tiff_strips_of_one_row_are_weighed() -> None:
    tags = {**GREY, 256: (4, 1, 1), 257: (4, 1, 6_000_000), 278: (4, 1, 1)}
    assert kind_of(tiff(tags, bytes(256))) == "too_large"


@pytest.mark.parametrize(
    ("bits", "photometric", "values", "expected"),
    [
        (16, 1, [0, 256, 65535], [0, 1, 255]),
        (16, 0, [0, 256, 65535], [255, 254, 0]),
        (32, 1, [0, 1 << 31, (1 << 32) - 1], [0, 128, 255]),
    ],
)
def test_tiff_depths_are_scaled_to_white(
    bits: int, photometric: int, values: list[int], expected: list[int]
) -> None:
    body = np.array(values, "<u2" if bits == 16 else "<u4").tobytes()
    tags = {**GREY, 256: (4, 1, 3), 257: (4, 1, 1), 258: (3, 1, bits), 262: (3, 1, photometric)}
    pixels, _ = read(tiff({**tags, 278: (4, 1, 1), 279: (4, 1, len(body))}, body))
    assert pixels[0, :, 0].tolist() == expected


def test_12_bit_tiff_is_not_black() -> None:
    body = bytes([0x00, 0x0F, 0xFF, 0x80, 0x08, 0x00])  # 0, 4095, 2048, 2048: two in three bytes
    tags = {**GREY, 256: (4, 1, 4), 257: (4, 1, 1), 258: (3, 1, 12), 278: (4, 1, 1)}
    pixels, _ = read(tiff({**tags, 279: (4, 1, 6)}, body))
    assert pixels[0, :, 0].tolist() == [0, 255, 128, 128]


@pytest.mark.parametrize(
    ("tags", "words"),
    [
        ({258: (3, 1, 24)}, "1 x 24-bit grey"),
        ({262: (3, 1, 32803)}, "colour filter array"),
        ({259: (3, 1, 34887)}, "compression 34887"),
        ({258: (3, 1, 16), 277: (3, 1, 3), 262: (3, 1, 2), 284: (3, 1, 2)}, "planes apart"),
    ],
)
def test_tiff_varieties_are_named(tags: dict[int, Any], words: str) -> None:
    with (
        pytest.raises(ImageError, match=words) as caught,
        open_image(tiff(GREY | tags, bytes(256))),
    ):
        pass
    assert caught.value.kind == "unsupported"


def test_multipage_tiff_reads_its_first_page() -> None:
    file = io.BytesIO()
    photo().save(
        file, "TIFF", save_all=True, append_images=[Image.new("L", (9, 9))], compression="tiff_lzw"
    )
    assert TiffImagePlugin.TiffImageFile(io.BytesIO(file.getvalue())).n_frames == 2
    np.testing.assert_array_equal(read(file.getvalue())[0], np.asarray(photo()))


def test_gif_frame_larger_than_its_screen() -> None:
    screen = b"GIF89a" + struct.pack("<HHBBB", 4, 4, 0x80, 0, 0) + bytes(6)
    dispose = b"\x21\xf9\4\x08\0\0\0\0"
    frame = b"," + struct.pack("<HHHHB", 0, 0, 60_000, 60_000, 0) + b"\2\1\0\0;"
    assert kind_of(screen + dispose + frame) == "too_large"


def test_jpeg_2000_codestream_larger_than_its_header() -> None:
    data = bytearray(packed(photo(), "JPEG2000"))
    siz = data.index(b"\xff\x51")
    for at in (siz + 6, siz + 22):  # the image's extent, the tiles' extent
        data[at : at + 8] = struct.pack(">II", 60_000, 60_000)
    assert kind_of(bytes(data)) == "too_large"
    data[siz + 22 : siz + 30] = struct.pack(">II", 1, 1)
    assert kind_of(bytes(data)) == "damaged"


def test_webp_metadata_is_left_out() -> None:
    data = packed(photo(), "WEBP", lossless=True, exif=b"Exif\0\0" + bytes(5_000_000))
    np.testing.assert_array_equal(read(data)[0], np.asarray(photo()))


def test_thin_images_are_weighed_by_their_rows() -> None:
    def png(width: int, height: int) -> bytes:
        head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
        return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", b"x")

    assert kind_of(png(1, 7_000_000)) == kind_of(png(7_000_000, 1)) == "too_large"
    assert kind_of(png(1, 6_000_000)) == "truncated"


MEMORY_PROGRAM = """
import resource, sys
from altogether_rt.data.images import load_image
from altogether_rt.errors import ImageError
load_image(sys.argv[1])  # imports
resource.setrlimit(resource.RLIMIT_AS, (int(sys.argv[3]), -1))
for path in sys.argv[4:]:
    try: load_image(path)
    except ImageError as error: print(error.kind)
    else: print("read")
"""


def test_want_of_memory_is_not_damage(tmp_path: Path) -> None:
    small = tmp_path / "small.png"
    photo().save(small)
    paths = []
    for image_format in ("png", "jpg", "tif", "bmp", "gif", "webp", "jp2"):
        paths.append(tmp_path / f"large.{image_format}")
        Image.new("RGB", (5500, 5000), (9, 9, 9)).resize((4000, 3500)).save(paths[-1])
    command = [sys.executable, "-c", MEMORY_PROGRAM, str(small), "", str(220 << 20)]
    done = subprocess.run([*command, *map(str, paths)], capture_output=True, text=True, check=True)
    kinds = done.stdout.split()
    assert len(kinds) == len(paths)
    assert set(kinds) <= {"too_large", "read"}
    assert "too_large" in kinds
