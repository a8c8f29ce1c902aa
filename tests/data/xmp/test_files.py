"""XMP in image files: written and read again, pixels the same, and what cannot hold it."""

from __future__ import annotations

import io
import json
import os
import random
import shutil
import stat
import struct
import subprocess
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from altogether_rt.data.file_hash import file_hash
from altogether_rt.data.xmp import files as module
from altogether_rt.data.xmp.files import read_alt_texts, write_alt_text
from altogether_rt.errors import ImageError

pytestmark = pytest.mark.lean

TEXT = 'A <red> & "blue" bôat, 日本 🙂.'
EXIF = b"Exif\0\0MM\0*\0\0\0\x08\0\0\0\0\0\0"
XMP = (
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF '
    b'xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description rdf:about="" '
    b'xmlns:xmp="http://ns.adobe.com/xap/1.0/" xmp:Rating="4"/></rdf:RDF></x:xmpmeta>'
)

KINDS: dict[str, dict[str, Any]] = {
    "plain.jpg": {},
    "exif.jpg": {"exif": EXIF, "progressive": True},
    "xmp.jpg": {"xmp": XMP + b" " * 2000, "comment": b"kept", "icc_profile": b"p" * 500},
    "plain.png": {},
    "alpha.png": {"mode": "RGBA"},
    "lossy.webp": {},
    "lossless.webp": {"lossless": True},
    "alpha.webp": {"lossless": True, "mode": "RGBA"},
    "lossy-alpha.webp": {"mode": "RGBA"},
    "xmp.webp": {"xmp": XMP, "exif": EXIF},
    "moving.webp": {"save_all": True, "duration": 40},
}


def make(folder: Path, kind: str) -> Path:
    options = dict(KINDS[kind])
    mode = options.pop("mode", "RGB")
    pixels = np.random.default_rng(0).integers(0, 255, (33, 47, len(mode)), np.uint8)
    image = Image.fromarray(pixels)
    if options.get("save_all"):
        options["append_images"] = [image.rotate(90)]
    path = folder / kind
    image.save(path, **options)
    return path


def pixels_of(path: Path) -> bytes:
    with Image.open(path) as image:
        return image.convert("RGBA").tobytes()


@pytest.mark.parametrize("kind", KINDS)
def test_round_trip(tmp_path: Path, kind: str) -> None:
    path = make(tmp_path, kind)
    path.chmod(0o640)
    pixels, digest = pixels_of(path), file_hash(path)
    for text, written in ((TEXT, True), (TEXT, False), ("second", True)):
        assert write_alt_text(path, path, text) is written
        texts = read_alt_texts(path)
        assert texts is not None
        assert (texts.alt, texts.is_ours, texts.own_alt) == (text, True, "")
        assert pixels_of(path) == pixels
        assert file_hash(path) == digest
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert os.listdir(tmp_path) == [kind]
    with Image.open(path) as image:
        image.load()
        if "xmp" in KINDS[kind]:
            assert b'xmp:Rating="4"' in image.info["xmp"]
        if "exif" in KINDS[kind]:
            assert image.info["exif"]
        assert getattr(image, "n_frames", 1) == (2 if kind == "moving.webp" else 1)


@pytest.mark.skipif(shutil.which("exiftool") is None, reason="exiftool is not installed")
def test_exiftool_reads_what_was_written(tmp_path: Path) -> None:
    for kind in KINDS:
        write_alt_text(make(tmp_path, kind), tmp_path / kind, TEXT)
    command = ["exiftool", "-j", "-G1", "-validate", "-AltTextAccessibility", "-Rating", "-error"]
    done = subprocess.run(
        [*command, *map(str, tmp_path.iterdir())], capture_output=True, check=True
    )
    found = {Path(one["SourceFile"]).name: one for one in json.loads(done.stdout)}
    assert set(found) == set(KINDS)
    for kind, one in found.items():
        assert one["XMP-iptcCore:AltTextAccessibility"] == TEXT
        assert ("XMP-xmp:Rating" in one) == ("xmp" in KINDS[kind])
        assert "ExifTool:Error" not in one


@pytest.mark.skipif(shutil.which("exiftool") is None, reason="exiftool is not installed")
def test_what_exiftool_wrote_is_read_and_added_to(tmp_path: Path) -> None:
    for kind in ("plain.jpg", "plain.png", "lossless.webp"):
        path = make(tmp_path, kind)
        edit = [f"-XMP-iptcCore:AltTextAccessibility={TEXT}", "-XMP-dc:Description=more"]
        subprocess.run(["exiftool", "-q", "-overwrite_original", *edit, str(path)], check=True)
        texts = read_alt_texts(path)
        assert texts is not None
        assert (texts.own_alt, texts.description) == (TEXT, "more")
        assert write_alt_text(path, path, "ours")
        texts = read_alt_texts(path)
        assert texts is not None
        assert (texts.alt, texts.own_alt, texts.description) == ("ours", TEXT, "more")


def test_compressed_xmp_in_a_png(tmp_path: Path) -> None:
    path = make(tmp_path, "plain.png")
    data = path.read_bytes()

    def with_text(packed: bytes) -> bytes:
        body = b"iTXtXML:com.adobe.xmp\0\1\0\0\0" + packed
        chunk = struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
        return data[:-12] + chunk + data[-12:]  # behind the pixels

    path.write_bytes(with_text(zlib.compress(XMP)))
    assert write_alt_text(path, path, TEXT)
    texts = read_alt_texts(path)
    assert texts is not None
    assert texts.alt == TEXT
    assert b'xmp:Rating="4"' in path.read_bytes()
    for packed, reason in ((zlib.compress(b" " * (1 << 26)), "larger than"), (b"no", "decompress")):
        path.write_bytes(with_text(packed))
        with pytest.raises(ValueError, match=reason):
            read_alt_texts(path)


def test_formats_that_are_only_read(tmp_path: Path) -> None:
    with_alt = XMP.replace(
        b"/></rdf:RDF>",
        b'><a:AltTextAccessibility xmlns:a="http://iptc.org/std/Iptc4xmpCore/1.0/xmlns/">a boat'
        b"</a:AltTextAccessibility></rdf:Description></rdf:RDF>",
    )
    image = Image.new("RGB", (9, 9))
    for name, options in (("a.tif", {"tiffinfo": {700: with_alt}}), ("b.avif", {"xmp": with_alt})):
        path = tmp_path / name
        image.save(path, **options)
        before = path.read_bytes()
        texts = read_alt_texts(path)
        assert texts is not None
        assert texts.alt == "a boat"
        with pytest.raises(ValueError, match="JPEG, PNG and WebP"):
            write_alt_text(path, path, TEXT)
        assert path.read_bytes() == before


@pytest.mark.parametrize("caption", ["x" * 70_000, "  \n"])
def test_captions_that_do_not_fit(tmp_path: Path, caption: str) -> None:
    path = make(tmp_path, "xmp.jpg")
    before = path.read_bytes()
    with pytest.raises(ValueError, match=r"no room|is empty"):
        write_alt_text(path, path, caption)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["xmp.jpg"]


@pytest.mark.parametrize("step", ["_check", "_copy"])
def test_the_original_stays_if_anything_fails(
    tmp_path: Path, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make(tmp_path, "xmp.jpg")
    before = path.read_bytes()

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, step, fail)
    with pytest.raises(OSError, match="No space"):
        write_alt_text(path, path, TEXT)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["xmp.jpg"]


@pytest.mark.parametrize("kind", ["xmp.jpg", "plain.png", "xmp.webp", "lossy.webp"])
def test_damaged_files_are_refused_or_keep_their_pixels(tmp_path: Path, kind: str) -> None:
    """Bytes are changed, cut out and put in; whatever is written shows what was shown before."""
    check_mutations(tmp_path, kind, 60)


def check_mutations(folder: Path, kind: str, count: int) -> None:
    rng = random.Random(kind)
    path = make(folder, kind)
    write_alt_text(path, path, TEXT)
    whole = path.read_bytes()
    for _ in range(count):
        data = bytearray(whole)
        for _ in range(rng.randrange(1, 4)):
            at = rng.randrange(min(len(data), 3000)) if rng.random() < 0.7 else len(data) - 1
            change = rng.randrange(3)
            if change == 0:
                data[at] = rng.randrange(256)
            elif change == 1:
                del data[at : at + rng.randrange(1, 30)]
            else:
                data[at:at] = rng.randbytes(rng.randrange(1, 30))
        path.write_bytes(data)
        shown = _shown(bytes(data))
        try:
            write_alt_text(path, path, "another")
        except (ValueError, ImageError):
            assert path.read_bytes() == data
            continue
        after = _shown(path.read_bytes())
        assert after == shown or shown is None  # writing mends a damaged block of XMP


def _shown(data: bytes) -> bytes | None:
    try:
        with Image.open(io.BytesIO(data)) as image:
            return image.convert("RGBA").tobytes()
    except Exception:
        return None


if __name__ == "__main__":
    import sys
    import tempfile

    with tempfile.TemporaryDirectory() as name:
        for one in KINDS:
            check_mutations(Path(name), one, int(sys.argv[1]) // len(KINDS))
