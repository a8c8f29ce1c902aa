"""Images that ImageMagick writes are read with the pixels it shows, or refused by their name.

Needs Debian's imagemagick: tests/data/images/install_debian.sh.
"""

from __future__ import annotations

import shutil
import subprocess
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from altogether_rt.data.images import IMAGE_ERROR_KINDS, ImageLimits, load_image
from altogether_rt.errors import ImageError

#: By this name it is ImageMagick for certain.
CONVERT = shutil.which("convert-im6.q16") or shutil.which("magick")

pytestmark = [
    pytest.mark.lean,
    pytest.mark.slow,
    pytest.mark.skipif(
        CONVERT is None, reason="needs ImageMagick: tests/data/images/install_debian.sh"
    ),
]

#: Of 255.
MAX_DIFFERENCE = 2

COLOUR = ["-type", "TrueColor"]
GREY = ["-colorspace", "Gray", "-type", "Grayscale"]
PALETTE = ["-type", "Palette", "-colors", "16"]
TWO = ["-type", "Bilevel"]
ALPHA = ["-type", "TrueColorMatte"]
GREY_ALPHA = ["-colorspace", "Gray", "-type", "GrayscaleMatte"]
TYPES = (COLOUR, GREY, PALETTE, TWO, ALPHA, GREY_ALPHA)

Variety = tuple[str, list[str]]  # the format, the options that write it


def pngs() -> list[Variety]:
    return [
        ("png", [*kind, "-depth", depth, "-interlace", interlace])
        for kind in TYPES
        for depth in ("1", "2", "4", "8", "16")
        for interlace in ("None", "PNG")
    ]


def tiffs() -> list[Variety]:
    depths = [
        ("tif", [*kind, "-depth", depth, "-compress", packed])
        for packed in ("None", "LZW", "Zip", "RLE", "LZMA", "ZSTD")
        for depth in ("1", "4", "8", "12", "16", "32")
        for kind in (COLOUR, GREY, ALPHA, GREY_ALPHA)
    ]
    layouts = [
        *(["-colorspace", "CMYK"], ["-interlace", "Plane"], ["-type", "Palette"]),
        ["-define", "quantum:polarity=min-is-white", "-colorspace", "Gray"],
        ["-define", "tiff:tile-geometry=16x16"],
        ["-define", "tiff:rows-per-strip=3"],
        ["-define", "quantum:format=floating-point", "-define", "quantum:depth=32"],
        ["-define", "tiff:alpha=associated", *ALPHA],
    ]
    others = [
        ("tif", ["-endian", order, "-depth", depth, "-compress", packed, *layout])
        for packed in ("None", "LZW", "Zip")
        for order in ("LSB", "MSB")
        for depth in ("8", "16")
        for layout in layouts
    ]
    fax = [
        ("tif", [*TWO, "-compress", packed, "-define", f"tiff:fill-order={order}"])
        for packed in ("Group4", "Fax")
        for order in ("lsb", "msb")
    ]
    return [*depths, *others, *fax]


def jpegs() -> list[Variety]:
    kinds = [
        *(["-sampling-factor", factor] for factor in ("1x1", "2x1", "2x2", "1x2")),
        *(GREY, ["-colorspace", "CMYK"], ["-define", "jpeg:optimize-coding=true"]),
    ]
    return [
        ("jpg", ["-quality", quality, "-interlace", interlace, *kind])
        for quality in ("50", "95")
        for interlace in ("None", "Plane")
        for kind in kinds
    ]


def upright() -> list[Variety]:
    names = "TopLeft TopRight BottomRight BottomLeft LeftTop RightTop RightBottom LeftBottom"
    return [
        (suffix, ["-orient", name, "-quality", "95", "-compress", packed])
        for name in names.split()
        for suffix, packed in (("jpg", "JPEG"), ("tif", "None"), ("tif", "LZW"))
    ]


def others() -> list[Variety]:
    varieties: list[Variety] = []
    for kind in TYPES[:5]:
        varieties += [(suffix, kind) for suffix in ("bmp", "bmp2", "bmp3")]
        varieties += [("gif", [*kind, "-interlace", how]) for how in ("None", "GIF")]
        varieties += [
            ("webp", [*kind, "-define", f"webp:lossless={how}"]) for how in ("true", "false")
        ]
        for suffix in ("ppm", "pgm", "pbm", "pnm", "pfm", "pam"):
            varieties += [(suffix, [*kind, "-depth", depth]) for depth in ("8", "16")]
        varieties += [(suffix, [*kind, "-compress", "None"]) for suffix in ("ppm", "pgm", "pbm")]
        varieties += [
            (suffix, [*kind, "-depth", depth, "-quality", "0"])
            for suffix in ("jp2", "j2k")
            for depth in ("8", "12", "16")
        ]
        # Not with alpha: ImageMagick takes white out of the flattened image, Pillow does not.
        if kind in (COLOUR, GREY, TWO):
            varieties += [("psd", [*kind, "-depth", depth]) for depth in ("8", "16")]
        unread = "tga ico cur pcx dcx sgi xpm xbm dds miff sun hdr dpx fits jxl svg"
        varieties += [(suffix, kind) for suffix in unread.split()]
    return varieties


def draw(folder: Path) -> tuple[Path, Path]:
    """Gradients in RGB and RGBA, every edge different."""
    y, x = np.mgrid[0:23, 0:37]
    bands = [x * 255 // 36, y * 255 // 22, (x * 7 + y * 11) % 256, 255 - (x + y) * 255 // 58]
    pixels = np.stack(bands, -1).astype(np.uint8)
    Image.fromarray(np.ascontiguousarray(pixels[..., :3])).save(folder / "rgb.png")
    Image.fromarray(pixels).save(folder / "rgba.png")
    return folder / "rgb.png", folder / "rgba.png"


def convert(steps: list[list[str]], folder: Path) -> None:
    """Run all steps in one process; one that fails does not stop the others."""
    assert CONVERT is not None
    words = [word for step in steps for word in ("(", *step, "+delete", ")")]
    subprocess.run(
        [CONVERT, "-respect-parentheses", *words, "null:"], cwd=folder, capture_output=True
    )


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[Path, list[str], Path]]:
    """(file, the options that wrote it, what ImageMagick shows) for each that it could write."""
    folder = tmp_path_factory.mktemp("varieties")
    rgb, rgba = draw(folder)
    files: list[tuple[Path, list[str], Path]] = []
    writing, reading = [], []
    flat = ["-auto-orient", "-background", "white", "-alpha", "remove", "-alpha", "off"]
    flat += ["-colorspace", "sRGB", "-type", "TrueColor", "-depth", "8", "-write"]
    for number, (coder, options) in enumerate([*pngs(), *tiffs(), *jpegs(), *upright(), *others()]):
        suffix = coder.rstrip("23") if coder.startswith("bmp") else coder
        path, shown = folder / f"{number:03d}.{suffix}", folder / f"{number:03d}.shown"
        source = rgba if "Matte" in " ".join(options) else rgb
        writing.append([str(source), *options, "-write", f"{coder}:{path}"])
        reading.append([f"{path}[0]", *flat, f"ppm:{shown}"])
        files.append((path, [coder, *options], shown))
    convert(writing, folder)
    there = [path.exists() for path, _, _ in files]
    convert([step for step, is_there in zip(reading, there, strict=True) if is_there], folder)
    return [file for file, is_there in zip(files, there, strict=True) if is_there]


def test_pixels_are_those_that_imagemagick_shows(
    written: list[tuple[Path, list[str], Path]],
) -> None:
    assert len(written) >= 300
    outcomes: Counter[str] = Counter()
    wrong = []
    for path, options, shown in written:
        try:
            ours = np.asarray(load_image(path)).astype(int)
        except ImageError as error:
            outcomes[error.kind] += 1
            if error.kind != "unsupported" or "not read" not in str(error):
                wrong.append((*options, str(error)))
            continue
        theirs = np.asarray(Image.open(shown).convert("RGB")).astype(int)
        if ours.shape != theirs.shape or abs(ours - theirs).max() > MAX_DIFFERENCE:
            wrong.append((*options, "other pixels"))
        outcomes["read"] += 1
    print(dict(outcomes))
    assert wrong == []
    assert outcomes["read"] >= 300


def outcome(path: Path, limits: ImageLimits) -> str:
    """The mode of the image, or the kind of the error."""
    try:
        return load_image(path, limits).mode
    except ImageError as error:
        return error.kind


def test_mutations_end_in_pixels_or_in_a_kind_of_error(
    written: list[tuple[Path, list[str], Path]],
) -> None:
    rng = np.random.default_rng(20261126)
    limits = ImageLimits(max_pixels=2_000_000)
    outcomes: Counter[str] = Counter()
    for path, _, _ in written:
        whole = path.read_bytes()
        target = path.with_name(f"mutated{path.suffix}")
        for _ in range(6):
            data = bytearray(whole)
            for offset in rng.integers(0, len(data), rng.integers(1, 8)):
                data[offset] = rng.integers(256)
            if rng.random() < 0.3:
                del data[int(rng.integers(len(data))) :]
            target.write_bytes(data)
            outcomes[outcome(target, limits)] += 1
    print(dict(outcomes))
    assert set(outcomes) <= {"RGB", *IMAGE_ERROR_KINDS}
    assert outcomes["RGB"] > 100
    assert outcomes["damaged"] > 100
