"""Formats that are not read are named, where a file is one for certain."""

from __future__ import annotations

from pathlib import Path

import pytest

from altogether_rt.data.images import load_image
from altogether_rt.data.sniff import has_image_suffix, unsupported_name
from altogether_rt.errors import ImageError

pytestmark = pytest.mark.lean

#: As ImageMagick 6 writes 8 x 8 red pixels.
WBMP = b"\0\0\x08\x08" + bytes(8)
XWD = bytes.fromhex(
    "00000065000000070000000200000018000000080000000800000000000000010000002000000001"
)
PICT = bytes(512) + bytes.fromhex("020000000000000800080011 02ff0c00fffe000000000000")
PICT_1 = bytes(512) + bytes.fromhex("0200000000000008000811010100")


@pytest.mark.parametrize(
    ("name", "data", "found"),
    [
        ("a.wbmp", WBMP, "a WBMP image"),
        ("A.WBMP", WBMP, "a WBMP image"),
        ("a.bin", WBMP, None),  # two zeros may be anything
        ("a.wbmp", b"<html>", None),
        ("a.xwd", XWD, "an X window dump"),
        ("a.bin", XWD, "an X window dump"),
        ("a.xwd", b"\0" * 100, None),
        ("a.pct", PICT, "a QuickDraw picture"),
        ("a.bin", PICT, "a QuickDraw picture"),
        ("a.pict", PICT_1, "a QuickDraw picture"),
        ("a.bin", PICT_1, None),
        ("a.pict", b"\0" * 600, None),
    ],
)
def test_names(tmp_path: Path, name: str, data: bytes, found: str | None) -> None:
    assert unsupported_name(data, name) == found
    (tmp_path / name).write_bytes(data)
    with pytest.raises(ImageError) as caught:
        load_image(tmp_path / name)
    assert caught.value.kind == ("unsupported" if found else "not_an_image")
    assert found is None or found in str(caught.value)


def test_they_are_images_by_their_names() -> None:
    assert all(has_image_suffix(f"a.{suffix}") for suffix in ("wbmp", "pct", "PICT", "xwd"))
