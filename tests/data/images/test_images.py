"""Images as the web has them: odd modes, lies, wreckage."""

from __future__ import annotations

import importlib.util
import os
import struct
import subprocess
import sys
import threading
import time
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from altogether_rt.data.images import (
    IMAGE_ERROR_KINDS,
    ImageLimits,
    load_image,
    open_image,
)
from altogether_rt.data.memory import PixelGate
from altogether_rt.errors import ImageError

#: Of the HEIC files of the data folder, those that can be read where the extra is installed.
NUM_READABLE_HEIC = 6 if importlib.util.find_spec("pillow_heif") else 0

pytestmark = pytest.mark.lean


def photo(width: int = 40, height: int = 24) -> Image.Image:
    """A picture whose corners differ: black top left, red right, green bottom."""
    x, y = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    return Image.fromarray(np.stack([x, y, np.zeros_like(x)], -1).astype(np.uint8))


def png_chunk(kind: bytes, body: bytes) -> bytes:
    crc = zlib.crc32(kind + body)
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", crc)


def png_header(width: int, height: int, depth: int = 8, colour: int = 2) -> bytes:
    head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", head)


def kind_of(path: Path, limits: ImageLimits | None = None) -> str:
    with pytest.raises(ImageError) as caught:
        load_image(path, limits)
    message = str(caught.value)
    assert message.endswith(".")
    assert "\n" not in message
    assert caught.value.kind in IMAGE_ERROR_KINDS
    return caught.value.kind


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "bmp", "tif", "ppm"])
def test_plain_rgb_is_exactly_what_pillow_gives(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    photo().save(path)
    loaded = load_image(path)
    assert loaded.mode == "RGB"
    np.testing.assert_array_equal(np.asarray(loaded), np.asarray(Image.open(path)))


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif", "avif"])
@pytest.mark.parametrize("orientation", range(2, 9))
def test_exif_orientation(tmp_path: Path, suffix: str, orientation: int) -> None:
    from PIL import ImageOps

    path = tmp_path / f"a.{suffix}"
    exif = Image.Exif()
    exif[0x0112] = orientation
    photo().save(path, exif=exif)
    loaded = load_image(path)
    assert loaded.size == ((24, 40) if orientation >= 5 else (40, 24))
    expected = ImageOps.exif_transpose(Image.open(path)).convert("RGB")
    np.testing.assert_array_equal(np.asarray(loaded), np.asarray(expected))
    assert loaded.getexif().get(0x0112) is None  # or somebody would turn it once more


@pytest.mark.parametrize(
    "exif", [b"Exif\x00\x00garbage", b"Exif\x00\x00MM\x00*\xff\xff\xff\xff", b"Exif\x00\x00"]
)
def test_broken_exif_does_not_fail_an_image(tmp_path: Path, exif: bytes) -> None:
    path = tmp_path / "a.jpg"
    photo().save(path, exif=exif)
    assert load_image(path).size == (40, 24)


def test_orientation_of_the_wrong_type(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    entry = struct.pack(">HHI4s", 0x0112, 2, 4, b"six\0")  # ASCII where a number belongs
    directory = struct.pack(">H", 1) + entry + bytes(4)
    photo().save(path, exif=b"Exif\0\0MM\0*" + struct.pack(">I", 8) + directory)
    assert Image.open(path).getexif()[0x0112] == "six"
    assert load_image(path).size == (40, 24)


def test_alpha_lies_on_white(tmp_path: Path) -> None:
    image = Image.new("RGBA", (3, 1), (200, 0, 100, 0))
    image.putpixel((1, 0), (200, 0, 100, 255))
    image.putpixel((2, 0), (200, 0, 100, 128))
    path = tmp_path / "a.png"
    image.save(path)
    clear, solid, half = np.asarray(load_image(path))[0].astype(int)
    assert tuple(clear) == (255, 255, 255)
    assert tuple(solid) == (200, 0, 100)
    np.testing.assert_allclose(half, (227, 127, 177), atol=1)


@pytest.mark.parametrize("mode", ["LA", "PA", "P", "L", "RGB", "1", "I;16"])
def test_every_kind_of_transparency(tmp_path: Path, mode: str) -> None:
    path = tmp_path / ("a.tif" if mode == "PA" else "a.png")
    image = Image.new({"LA": "L", "PA": "P"}.get(mode, mode), (2, 1), 0)
    others: dict[str, int | tuple[int, ...]] = {
        "LA": 9,
        "PA": 1,
        "P": 1,
        "L": 9,
        "RGB": (9, 9, 9),
        "1": 1,
        "I;16": 999,
    }
    image.putpixel((1, 0), others[mode])
    if image.mode == "P":
        image.putpalette([50, 60, 70, 9, 9, 9])
    if mode in ("LA", "PA"):
        image.putalpha(Image.fromarray(np.array([[0, 255]], np.uint8)))
        image.save(path)
    else:
        image.save(path, transparency=(0, 0, 0) if mode == "RGB" else 0)
    clear, solid = np.asarray(load_image(path))[0].tolist()
    assert clear == [255, 255, 255]
    assert solid == [{"1": 255, "I;16": 3}.get(mode, 9)] * 3


@pytest.mark.parametrize("suffix", ["png", "tif", "pgm"])
def test_16_bit_grey_is_scaled(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    values = np.array([[0, 256, 32768, 65535]], np.uint16)
    if suffix == "pgm":
        path.write_bytes(b"P5 4 1 65535\n" + values.astype(">u2").tobytes())
    else:
        Image.fromarray(values).save(path)
    grey = np.asarray(load_image(path))[0, :, 0]
    assert grey.tolist() == [0, 1, 128, 255]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.array([0.0, 0.5, 1.0, np.nan], np.float32), [0, 128, 255, 0]),
        (np.array([0.0, 128.0, 255.0, -3.0], np.float32), [0, 128, 255, 0]),
        (np.array([0.0, 5e4, 1e5, np.inf], np.float32), [0, 128, 255, 255]),
        (np.array([0, 32768, 65535, -9], np.int32), [0, 128, 255, 0]),
        (np.array([0, 500_000, 1_000_000, 1], np.int32), [0, 128, 255, 0]),
    ],
)
def test_floats_and_integers(tmp_path: Path, values: np.ndarray, expected: list[int]) -> None:
    path = tmp_path / "a.tif"
    Image.fromarray(values[None]).save(path)
    assert np.asarray(load_image(path))[0, :, 0].tolist() == expected


@pytest.mark.parametrize("mode", ["CMYK", "YCbCr", "LAB", "L", "1", "P"])
def test_colour_spaces(tmp_path: Path, mode: str) -> None:
    path = tmp_path / "a.tif"
    if mode == "LAB":
        image = Image.new("LAB", (40, 24), (128, 128, 128))  # mid grey: a = b = 0
    else:
        image = Image.new("RGB", (40, 24), (128, 128, 128))
        image = image.quantize(4) if mode == "P" else image.convert(mode)
    image.save(path)
    loaded = load_image(path)
    assert loaded.mode == "RGB"
    pixel = np.asarray(loaded)[5, 5].astype(int)
    assert np.ptp(pixel) <= 2  # grey stays grey
    if mode not in ("1", "LAB"):
        assert abs(pixel[0] - 128) <= 3


@pytest.mark.parametrize("suffix", ["gif", "webp", "png", "tif"])
def test_first_frame(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "blue", "lime")]
    options: dict[str, Any] = {"lossless": True} if suffix == "webp" else {}
    frames[0].save(path, save_all=True, append_images=frames[1:], **options)
    assert tuple(np.asarray(load_image(path))[8, 8]) == (255, 0, 0)


def test_large_image_is_converted_band_by_band_without_seams(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    big = photo(3000, 1000).convert("RGBA")  # 3 bands
    big.putalpha(128)
    big.save(path)
    whole = Image.new("RGB", big.size, "white")
    whole.paste(big.convert("RGB"), mask=big.getchannel("A"))
    np.testing.assert_array_equal(np.asarray(load_image(path)), np.asarray(whole))


# Lies and wreckage


def test_content_decides_not_the_name(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    photo().save(path, "JPEG")
    assert load_image(path).size == (40, 24)


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"", "empty"),
        (b"\n", "not_an_image"),
        (b"<!doctype html><title>404</title>", "not_an_image"),
        (b"%PDF-1.7", "not_an_image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n", "unsupported"),
        (b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg"/>', "unsupported"),
        (b"\x00\x00\x01\x00\x01\x00\x10\x10", "unsupported"),  # .ico
        (b"\xff\xd8\xff", "damaged"),
        (b"\x89PNG\r\n\x1a\n", "damaged"),
        (b"GIF89a\x00\x00\x01\x00\x00\x00\x00,\x00\x00\x00\x00\x00\x00\x01\x00\x00", "damaged"),
        (b"RIFF\x00\x00\x00\x00WEBPVP8 garbage", "damaged"),
        (b"\x00\x00\x00\x18ftypavif" + bytes(40), "damaged"),
        (b"8BPS\x00\x01" + bytes(10), "damaged"),
        (b"II*\x00" + b"\xff" * 20, "damaged"),
    ],
)
def test_what_is_no_image(tmp_path: Path, content: bytes, kind: str) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(content)
    assert kind_of(path) == kind


@pytest.mark.parametrize("suffix", ["jpg", "png", "gif", "tif", "bmp", "ppm"])
def test_truncated(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert kind_of(path) in ("truncated", "damaged")


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "gif", "tif", "avif", "jp2", "bmp"])
def test_bit_flips_never_crash(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    photo(64, 64).save(path)
    whole = path.read_bytes()
    rng = np.random.default_rng(1)
    for _ in range(40):
        flipped = bytearray(whole)
        for at in rng.integers(0, len(whole), 6):
            flipped[at] ^= 1 << int(rng.integers(8))
        path.write_bytes(flipped)
        try:
            outcome = load_image(path, ImageLimits(max_pixels=1_000_000)).mode
        except ImageError as error:
            outcome = error.kind
        assert outcome in ("RGB", *IMAGE_ERROR_KINDS)


def test_header_that_claims_an_absurd_size(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(png_header(60000, 60000))
    assert kind_of(path) in ("damaged", "too_large")
    path.write_bytes(png_header(60000, 60000) + png_chunk(b"IDAT", b"x"))
    assert kind_of(path) == "too_large"


def test_bomb_costs_no_memory(tmp_path: Path) -> None:
    row = b"\x00" + bytes(30000 // 8)
    packed = zlib.compress(row * 30000, 9)
    path = tmp_path / "bomb.png"
    path.write_bytes(
        png_header(30000, 30000, 1, 0) + png_chunk(b"IDAT", packed) + png_chunk(b"IEND", b"")
    )
    program = (
        "import sys\n"
        "from altogether_rt.bench.timing import peak_memory_bytes\n"
        "from altogether_rt.data.images import load_image\n"
        "from altogether_rt.errors import ImageError\n"
        "before = peak_memory_bytes()\n"
        "try: load_image(sys.argv[1])\n"
        "except ImageError as error: print(error.kind)\n"
        "print(peak_memory_bytes() - before)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(path)], capture_output=True, text=True, check=True
    )
    kind, grown_bytes = done.stdout.split()
    assert kind == "too_large"
    assert int(grown_bytes) < 50_000_000
    assert done.stderr == ""


def test_pixel_limit(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    photo(40, 24).save(path)
    assert load_image(path, ImageLimits(max_pixels=960)).size == (40, 24)
    assert kind_of(path, ImageLimits(max_pixels=959)) == "too_large"


@pytest.mark.parametrize("lossless", [False, True])
@pytest.mark.parametrize("alpha", [False, True])
def test_webp_claims_are_checked_before_its_decoder(
    tmp_path: Path, lossless: bool, alpha: bool
) -> None:
    path = tmp_path / "a.webp"
    image = photo(400, 240)
    if alpha:
        image.putalpha(100)
    image.save(path, lossless=lossless)
    assert load_image(path, ImageLimits(max_pixels=144_000)).size == (400, 240)
    assert kind_of(path, ImageLimits(max_pixels=143_000)) == "too_large"


def test_byte_limit(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    photo().save(path)
    assert kind_of(path, ImageLimits(max_bytes=20)) == "too_large"
    sparse = tmp_path / "b.webp"
    with sparse.open("wb") as file:
        file.write(b"RIFF\xff\xff\xff\x7fWEBPVP8 ")
        file.truncate(200 * 1024 * 1024)
    assert kind_of(sparse) == "too_large"


def test_only_regular_files_are_opened(tmp_path: Path) -> None:
    fifo = tmp_path / "a.jpg"
    os.mkfifo(fifo)
    assert kind_of(fifo) == "not_a_file"  # to open it would wait for ever
    assert kind_of(tmp_path) == "not_a_file"
    assert kind_of(Path("/dev/null")) == "not_a_file"
    assert kind_of(tmp_path / "absent.jpg") == "not_a_file"
    (tmp_path / "loop.jpg").symlink_to("loop.jpg")
    assert kind_of(tmp_path / "loop.jpg") == "unreadable"
    assert kind_of(Path("a\0b.jpg")) == "unreadable"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_unreadable(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    photo().save(path)
    path.chmod(0)
    assert kind_of(path) == "unreadable"


def test_heic_names_its_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    path = tmp_path / "a.heic"
    path.write_bytes(b"\x00\x00\x00\x18ftypheic\x00\x00\x00\x00mif1heic" + bytes(40))
    with pytest.raises(ImageError, match=r"altogether-rt\[heic\]") as caught:
        load_image(path)
    assert caught.value.kind == "unsupported"


def test_heic(tmp_path: Path) -> None:
    pillow_heif = pytest.importorskip("pillow_heif")
    path = tmp_path / "a.heic"
    pillow_heif.from_pillow(photo(64, 32)).save(path)
    np.testing.assert_allclose(
        np.asarray(load_image(path)).astype(int), np.asarray(photo(64, 32)), atol=30
    )
    assert "HEIF" not in Image.OPEN  # Pillow's own table of formats is left alone


def test_no_warning_leaks_from_any_thread(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "a.jpg"
    photo().save(path, exif=b"Exif\x00\x00MM\x00*\x00\x00\x00\x08\xff\xff")
    filters = list(warnings.filters)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        threads = [
            threading.Thread(target=lambda: [load_image(path) for _ in range(30)]) for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert [str(warning.message) for warning in caught] == []
    assert list(warnings.filters) == filters
    assert capfd.readouterr().err == ""


def test_gate_bounds_what_is_decoded_at_once() -> None:
    gate = PixelGate(10)
    peak = held = 0
    lock = threading.Lock()

    def decode(pixels: int) -> None:
        nonlocal peak, held
        with gate.hold(pixels):
            with lock:
                held += min(pixels, 10)
                peak = max(peak, held)
            time.sleep(0.002)
            with lock:
                held -= min(pixels, 10)

    sizes = [3, 4, 10, 99, 1, 5, 6] * 3
    threads = [threading.Thread(target=decode, args=(size,)) for size in sizes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert 5 < peak <= 10
    assert held == 0


def test_gate_is_left_when_decoding_fails(tmp_path: Path) -> None:
    gate = PixelGate(1_000)
    path = tmp_path / "a.png"
    photo().save(path)
    path.write_bytes(path.read_bytes()[:-60])
    with pytest.raises(ImageError), open_image(path, ImageLimits(), gate):
        pass
    with gate.hold(1_000):  # would wait for ever
        pass


def test_odd_files(shared_data: Path) -> None:
    folder = shared_data / "odd"
    outcome: dict[str, tuple[int, int] | str] = {}
    for path in sorted(folder.iterdir()):
        try:
            outcome[path.name] = load_image(path).size
        except ImageError as error:
            outcome[path.name] = error.kind
    assert outcome["made_bomb_30000x30000_1bit.png"] == "too_large"
    assert outcome["pil_decompression_bomb.gif"] == "too_large"
    assert outcome["made_truncated_half.jpg"] == "truncated"
    assert outcome["made_html_404.jpg"] == "not_an_image"
    assert outcome["made_svg_named.png"] == "unsupported"
    assert outcome["exif_landscape_6.jpg"] == (1800, 1200)
    assert outcome["exif_portrait_8.jpg"] == (1200, 1800)
    assert outcome["pil_rot1mir0.avif"] == (640, 427)
    assert outcome["pil_hopper_bad_exif.jpg"] == (500, 500)
    assert outcome["made_cmyk.jpg"] == (640, 427)
    assert sum(isinstance(value, tuple) for value in outcome.values()) == 41 + NUM_READABLE_HEIC
