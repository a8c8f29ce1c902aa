"""What libraries print about files does not come to the terminal."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from altogether_rt.data.quiet import silence_libtiff

pytestmark = pytest.mark.lean

_CODE = """
import sys
from concurrent.futures import ThreadPoolExecutor
from altogether_rt.data.images import load_image
from altogether_rt.data.images import opening
from altogether_rt.errors import ImageError
if sys.argv[2] == "loud":
    opening.silence_libtiff = lambda: None
def read(_):
    try:
        load_image(sys.argv[1])
    except ImageError as error:
        return error.kind
with ThreadPoolExecutor(4) as pool:
    print(*set(pool.map(read, range(20))))
"""


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    """A TIFF whose strips are no data of their compression."""
    file = io.BytesIO()
    Image.effect_noise((64, 64), 50).save(file, "TIFF", compression="tiff_lzw")
    data = bytearray(file.getvalue())
    data[8:600] = b"\xff" * 592
    path = tmp_path / "broken.tif"
    path.write_bytes(data)
    return path


def run(broken: Path, mode: str) -> tuple[str, str]:
    done = subprocess.run(
        [sys.executable, "-c", _CODE, str(broken), mode], capture_output=True, text=True, check=True
    )
    return done.stdout.strip(), done.stderr


def test_libtiff_prints_nothing_and_errors_stay_the_same(broken: Path) -> None:
    if not silence_libtiff():
        pytest.skip("needs /proc/self/maps")
    kind, printed = run(broken, "quiet")
    assert kind in ("damaged", "truncated")
    assert printed == ""
    assert run(broken, "loud") != (kind, ""), "otherwise the test shows nothing"
