"""AVIF and HEIF are refused by the size of their coded frames, before a decoder allocates it."""

from __future__ import annotations

import io
import random
import struct
from typing import Any

import pytest
from PIL import Image

from altogether_rt.data.images import ImageLimits, open_image, opening
from altogether_rt.data.images.frame_sizes import hevc_sizes
from altogether_rt.data.images.heif import prepare_heif
from altogether_rt.data.images.prepared import Prepared, RefusedError, Scan
from altogether_rt.errors import ImageError

pytestmark = pytest.mark.lean

SIZE = (600, 400)
#: Room for what is declared in a lie, and not for what is coded.
LIMITS = ImageLimits(max_pixels=10_000)


def picture(size: tuple[int, int] = SIZE) -> Image.Image:
    return Image.linear_gradient("L").resize(size).convert("RGB")


def avif(size: tuple[int, int] = SIZE, mode: str = "RGB", **options: Any) -> bytes:
    file = io.BytesIO()
    picture(size).convert(mode).save(file, "AVIF", speed=10, **options)
    return file.getvalue()


def heif(size: tuple[int, int] = SIZE) -> bytes:
    pillow_heif = pytest.importorskip("pillow_heif")
    file = io.BytesIO()
    pillow_heif.from_pillow(picture(size)).save(file)
    return file.getvalue()


def declared(data: bytes, width: int, height: int) -> bytes:
    """The file with another size in its every `ispe`, and in its tracks' headers."""
    lie = bytearray(data)
    at = -1
    while (at := data.find(b"ispe", at + 1)) >= 0:
        struct.pack_into(">II", lie, at + 8, width, height)
    at = -1
    while (at := data.find(b"tkhd", at + 1)) >= 0:
        length = struct.unpack_from(">I", data, at - 4)[0]
        struct.pack_into(">II", lie, at - 4 + length - 8, width << 16, height << 16)
    at = data.find(b"stsd")
    if at >= 0:
        struct.pack_into(">HH", lie, at + 4 + 8 + 8 + 24, width, height)
    return bytes(lie)


def read(data: bytes, limits: ImageLimits | None = None) -> None:
    with open_image(data, limits):
        pass


def prepared(data: bytes) -> Prepared:
    return prepare_heif(Scan(io.BytesIO(data), len(data)))


@pytest.mark.parametrize("size", [(1, 1), (64, 48), (333, 777), (4096, 3)])
@pytest.mark.parametrize(
    "options", [{}, {"subsampling": "4:4:4"}, {"mode": "RGBA"}, {"save_all": True}]
)
def test_avif(size: tuple[int, int], options: dict[str, str]) -> None:
    """The coded size, where the declared one says nothing; AV1 codes the very size."""
    several: dict[str, Any] = {"append_images": [picture(size)]} if "save_all" in options else {}
    data = avif(size, **options, **several)
    assert prepared(data).size == size
    assert prepared(declared(data, 1, 1)).size == size


@pytest.mark.parametrize("size", [(64, 48), (333, 777)])
def test_heif(size: tuple[int, int]) -> None:
    """HEVC codes whole blocks, of up to 64 pixels."""
    data = heif(size)
    found = prepared(declared(data, 1, 1)).size
    assert found is not None
    assert all(0 <= coded - shown < 64 for coded, shown in zip(found, size, strict=True))


@pytest.mark.parametrize("kind", ["avif", "avif sequence", "heif"])
def test_a_frame_larger_than_declared_is_refused_before_decoding(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if kind == "heif":
        data = heif()
    else:
        options: dict[str, Any] = {"save_all": True, "append_images": [picture()]}
        data = avif(**options) if kind == "avif sequence" else avif()
    lie = declared(data, 8, 8)

    def fail(*_: object) -> None:
        raise AssertionError("a decoder was started")

    with monkeypatch.context() as patch:
        patch.setattr(opening, "_read_header", fail)
        with pytest.raises(ImageError, match="pixels; the limit for") as caught:
            read(lie, LIMITS)
    assert caught.value.kind == "too_large"
    read(data)


def test_a_larger_size_than_is_coded_counts_too() -> None:
    with pytest.raises(ImageError, match="30000 x 30000 pixels; the limit for AVIF"):
        read(declared(avif((64, 48)), 30_000, 30_000))


def test_a_frame_of_av1_without_a_header_is_damaged() -> None:
    data = bytearray(avif((64, 48)))
    at = data.find(b"mdat") + 4
    data[at:] = b"\x12\0" * ((len(data) - at) // 2) + b"\0" * ((len(data) - at) % 2)
    with pytest.raises(RefusedError, match="without a sequence header"):
        prepared(bytes(data))
    with pytest.raises(ImageError) as caught:
        read(bytes(data))
    assert caught.value.kind == "damaged"


def test_parameter_sets_within_the_frame_count() -> None:
    """A file may hold a parameter set there that is larger than the one in its header."""
    data = heif((64, 48))
    at = data.index(b"hvcC") + 4
    arrays = data[at + 22]
    offset, sps = at + 23, b""
    for _ in range(arrays):
        kind, length = data[offset] & 63, struct.unpack_from(">H", data, offset + 3)[0]
        if kind == 33:
            sps = data[offset + 5 : offset + 5 + length]
        offset += 5 + length
    units = struct.pack(">I", 3) + b"\x40\x01\x0c" + struct.pack(">I", len(sps)) + sps
    (size,) = hevc_sizes(Scan(io.BytesIO(units), len(units)), 4)
    assert size == prepared(data).size


@pytest.mark.parametrize("kind", ["avif", "heif"])
def test_mutated_files_are_read_or_refused(kind: str) -> None:
    data = avif((64, 48)) if kind == "avif" else heif((64, 48))
    draw = random.Random(5)
    num_read = 0
    for _ in range(400):
        changed = bytearray(data)
        for _ in range(draw.randint(1, 6)):
            changed[draw.randrange(12, len(data))] = draw.randrange(256)
        try:
            read(bytes(changed), ImageLimits(max_pixels=1_000_000))
            num_read += 1
        except ImageError:
            pass
    assert 0 < num_read < 400


def test_boxes_that_hold_themselves_or_nothing_end() -> None:
    ftyp = b"\0\0\0\x10ftypavif\0\0\0\0"
    for box in (
        b"\0\0\0\0meta\0\0\0\0" * 1000,
        (b"\0\0\0\1meta" + b"\xff" * 8) * 100,
        b"\0\0\0\x08free" * 5000,
        b"\0\0\0\x02meta" * 10,
        b"\0\0\0\x14iloc\x02\0\0\0\xff\xff\xff\xff\xff\xff" + b"\xff" * 2000,
        b"\0\0\0\x00hvcC" + b"\xff" * 5000,
        b"\0\0\0\x00av1C" + b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff" * 500,
    ):
        assert prepared(ftyp + box).parts is None  # it ends, and raises nothing
