"""Reads NumPy's files of strangers: what their headers claim is compared with what is there."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any, BinaryIO, Final

import numpy as np
from numpy.typing import NDArray

__all__ = ["map_npy", "read_npz"]

_MAX_MEMBERS: Final = 256
_MAX_HEADER_BYTES: Final = 4096
_KINDS: Final = "biuf"


def read_npz(path: Path, max_bytes: int) -> dict[str, NDArray[Any]]:
    """The arrays of a .npz file, by name, of at most `max_bytes` together when unpacked.

    Raises ValueError for anything but plain numbers in such a file, OSError if it cannot be read.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            if len(members) > _MAX_MEMBERS or sum(m.file_size for m in members) > max_bytes:
                raise ValueError("it is too large")
            arrays = {}
            for member in members:
                name = member.filename.removesuffix(".npy")
                if name in arrays or name == member.filename:
                    raise ValueError(f"it has an unexpected {member.filename!r:.80}")
                with archive.open(member) as file:
                    arrays[name] = _read(file, member.file_size)  # type: ignore[arg-type]
            return arrays
    except (OSError, ValueError):
        raise
    except Exception as error:  # zipfile, zlib and the header's tokenizer raise many kinds
        raise ValueError(str(error) or type(error).__name__) from error


def map_npy(path: Path) -> NDArray[Any]:
    """The array of a .npy file, mapped into memory: nothing is unpickled or read ahead.

    Raises ValueError if it is not one, or is shorter than its header says; OSError as `open`.
    """
    with path.open("rb") as file:
        shape, order, dtype = _header(file)
        offset = file.tell()
    expected = offset + _num_bytes(shape, dtype)
    if expected > path.stat().st_size:
        raise ValueError(f"it should have {expected} bytes")
    if 0 in shape:
        return np.empty(shape, dtype)
    return np.memmap(path, dtype, "r", offset, shape, order)


def _read(file: BinaryIO, size: int) -> NDArray[Any]:
    shape, order, dtype = _header(file)
    num_bytes = _num_bytes(shape, dtype)
    data = file.read(size)
    if num_bytes > len(data):
        raise ValueError("an array is shorter than its header says")
    array = np.frombuffer(data[:num_bytes], dtype)
    return array.reshape(shape, order=order)


def _header(file: BinaryIO) -> tuple[tuple[int, ...], Any, np.dtype[Any]]:
    try:
        version = np.lib.format.read_magic(file)
        read = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }.get(version)
        if read is None:
            raise ValueError(f"it has version {version} of the format")
        shape, fortran, dtype = read(file, max_header_size=_MAX_HEADER_BYTES)
    except (OSError, ValueError):
        raise
    except Exception as error:  # the header is parsed as Python: SyntaxError, TokenError, …
        raise ValueError(f"it has no valid header ({type(error).__name__})") from error
    if dtype.kind not in _KINDS or any(size < 0 for size in shape) or len(shape) > 8:
        raise ValueError(f"it holds {dtype!s:.40} of {len(shape)} dimensions")
    return shape, "F" if fortran else "C", dtype


def _num_bytes(shape: tuple[int, ...], dtype: np.dtype[Any]) -> int:
    total = dtype.itemsize
    for size in shape:
        total *= size  # Python's numbers do not overflow
    return total
