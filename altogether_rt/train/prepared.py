"""Training images as the encoder takes them, prepared once and kept in a file.

The cache is a file of pixels, to which images are added as they are prepared, and a file with a
line for each of them: the stamp of the image and a hash of its pixels. Pixels are on the disk
before their line is, so a run that is killed keeps what it has prepared, and the next one goes on.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO, Final, Self

import numpy as np
from numpy.typing import NDArray

from altogether_rt.artifacts.files import write_whole
from altogether_rt.config import EncoderConfig
from altogether_rt.errors import AltogetherError, ImageError
from altogether_rt.machine.limits import available_cores
from altogether_rt.preprocess.pixels import Preprocessor
from altogether_rt.train.data import Dataset, OpenImage
from altogether_rt.train.log import Countdown

__all__ = ["PreparedImages", "prepare_images"]

#: Images between two writes to the disk.
_IMAGES_PER_FLUSH: Final = 256
#: Fewer images than this are prepared in this process: starting others takes longer.
_MIN_FOR_POOL: Final = 256
#: Unusable images named in the error; more of them are listed in a file.
_MAX_NAMED: Final = 20

_OPEN: Final = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(frozen=True)
class PreparedImages:
    """Pixels of a dataset's usable images, mapped from the cache."""

    indices: Sequence[int]  # of the images in the dataset, increasing
    bad: Mapping[int, ImageError]  # those that cannot be read
    _pixels: NDArray[np.uint8]  # (images in the cache, size, size, 3)
    _rows: NDArray[np.int64]  # of the images in the cache
    _hashes: Sequence[str]

    def __len__(self) -> int:
        return len(self.indices)

    def take(self, positions: Sequence[int] | slice) -> NDArray[np.uint8]:
        """Pixels of images by their position in `indices`, uint8 (B, size, size, 3)."""
        rows = self._rows[positions if isinstance(positions, slice) else list(positions)]
        return self._pixels[rows]

    def sha256(self) -> str:
        """Hash of all pixels, in order."""
        return hashlib.sha256("\n".join(self._hashes).encode()).hexdigest()


def prepare_images(
    dataset: Dataset,
    encoder: EncoderConfig,
    cache: Path,
    say: Callable[[str], None],
    *,
    skip_bad: bool = False,
) -> PreparedImages:
    """All images of `dataset` that can be read; what `cache` holds already is not read again.

    skip_bad: whether to go on without those that cannot be read. Raises AltogetherError, which
    names them, if there are such and `skip_bad` is not given, or if none can be read.
    """
    cache.mkdir(parents=True, exist_ok=True)
    stamps = [dataset.stamp(index) for index in range(len(dataset))]
    with _PixelFile(cache, encoder) as file:
        wanted = dict(zip(reversed(stamps), reversed(range(len(stamps))), strict=True))
        missing = sorted(index for stamp, index in wanted.items() if stamp not in file.rows)
        if missing and len(missing) < len(wanted):
            say(f"{len(wanted) - len(missing):,} of {len(wanted):,} images are prepared already")
        errors: dict[str, ImageError] = {}
        countdown = Countdown(say, "prepared", len(missing))
        for count, (index, result) in enumerate(_read_all(dataset, missing, encoder), 1):
            if isinstance(result, ImageError):
                errors[stamps[index]] = result
            else:
                file.add(stamps[index], result)
            countdown.advance(count)
    bad = {index: errors[stamp] for index, stamp in enumerate(stamps) if stamp in errors}
    _report_bad(dataset, bad, cache, say, skip_bad=skip_bad)
    indices = [index for index in range(len(stamps)) if index not in bad]
    return PreparedImages(
        indices,
        bad,
        file.pixels(),
        np.array([file.rows[stamps[index]] for index in indices], np.int64),
        [file.hashes[file.rows[stamps[index]]] for index in indices],
    )


def _read_all(
    dataset: Dataset, indices: Sequence[int], encoder: EncoderConfig
) -> Iterator[tuple[int, NDArray[np.uint8] | ImageError]]:
    read = partial(_read, Preprocessor(encoder))
    images = (dataset.image(index) for index in indices)
    with ExitStack() as stack:
        if len(indices) < _MIN_FOR_POOL:
            results: Iterator[NDArray[np.uint8] | ImageError] = map(read, images)
        else:
            pool = multiprocessing.get_context("spawn").Pool(available_cores())
            results = stack.enter_context(pool).imap(read, images, chunksize=64)
        yield from zip(indices, results, strict=True)


def _read(preprocessor: Preprocessor, image: OpenImage) -> NDArray[np.uint8] | ImageError:
    try:
        return preprocessor.pixels(image())
    except ImageError as error:
        return error


def _report_bad(
    dataset: Dataset,
    bad: Mapping[int, ImageError],
    cache: Path,
    say: Callable[[str], None],
    *,
    skip_bad: bool,
) -> None:
    if not bad:
        return
    if len(bad) == len(dataset) and all(error.kind == "not_a_file" for error in bad.values()):
        raise AltogetherError(
            f"none of the {len(bad):,} images is there: {dataset.key(next(iter(bad)))} is the "
            "first; file names are relative to the file's folder, or to --images DIR."
        )
    lines = [_named(dataset.key(index), error) for index, error in bad.items()]
    named = "; ".join(lines[:_MAX_NAMED])
    if len(lines) > _MAX_NAMED:
        path = cache / "bad-images.txt"
        write_whole(path, "\n".join(lines) + "\n")
        named += f"; and {len(lines) - _MAX_NAMED} more, all listed in {path}"
    count = f"{len(bad):,} of {len(dataset):,} images"
    if len(bad) == len(dataset):
        raise AltogetherError(f"none of the {len(bad):,} images can be trained on: {named}.")
    if not skip_bad:
        raise AltogetherError(
            f"{count} cannot be trained on: {named}: mend them, or leave them out with --skip-bad; "
            "what is prepared is kept."
        )
    say(f"{count} cannot be read and are left out: {named}.")


def _named(key: str, error: ImageError) -> str:
    """`folder/a.jpg is cut off …`: errors begin with the last part of the path."""
    reason = str(error).removesuffix(".")
    folder, slash, name = key.rpartition("/")
    return f"{folder}{slash}{reason}" if reason.startswith(name) else f"{key}: {reason}"


class _PixelFile:
    """The cache of one encoder's images; a context manager, which is left before `pixels`."""

    def __init__(self, folder: Path, encoder: EncoderConfig) -> None:
        size = encoder.image_size
        self._shape = (size, size, 3)
        name = f"pixels-{size}-{encoder.resize}-{encoder.interpolation}"
        self._pixel_path = folder / f"{name}.raw"
        self._index_path = folder / f"{name}.jsonl"
        self.rows: dict[str, int] = {}  # by stamp
        self.hashes: list[str] = []  # by row
        self._pending: list[tuple[str, NDArray[np.uint8]]] = []

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self._pixel_file = stack.enter_context(_open(self._pixel_path))
            self._index_file = stack.enter_context(_open(self._index_path))
            self._read_index()
            self._files = stack.pop_all()
        return self

    def _read_index(self) -> None:
        """Keep the lines whose pixels are there, and cut off what a killed run left behind."""
        num_bytes = int(np.prod(self._shape))
        num_rows = os.fstat(self._pixel_file.fileno()).st_size // num_bytes
        end = 0
        for line in self._index_file:
            try:
                stamp, digest = json.loads(line) if line.endswith(b"\n") else (None, None)
            except (ValueError, TypeError):
                break
            if not (isinstance(stamp, str) and isinstance(digest, str)):
                break
            if len(self.hashes) == num_rows:
                break
            self.rows[stamp] = len(self.hashes)
            self.hashes.append(digest)
            end += len(line)
        self._index_file.truncate(end)
        self._index_file.seek(end)
        self._pixel_file.truncate(num_bytes * len(self.hashes))
        self._pixel_file.seek(num_bytes * len(self.hashes))

    def add(self, stamp: str, pixels: NDArray[np.uint8]) -> None:
        """Add the pixels of an image, uint8 (size, size, 3)."""
        assert pixels.shape == self._shape
        self._pending.append((stamp, pixels))
        if len(self._pending) == _IMAGES_PER_FLUSH:
            self._flush()

    def _flush(self) -> None:
        lines = []
        for stamp, pixels in self._pending:
            data = np.ascontiguousarray(pixels).tobytes()
            self._pixel_file.write(data)
            digest = hashlib.blake2b(data, digest_size=16).hexdigest()
            self.rows[stamp] = len(self.hashes)
            self.hashes.append(digest)
            lines.append(json.dumps([stamp, digest]) + "\n")
        self._pending = []
        _sync(self._pixel_file)
        self._index_file.write("".join(lines).encode())
        _sync(self._index_file)

    def pixels(self) -> NDArray[np.uint8]:
        """Pixels of all images in the file, uint8 (N, size, size, 3)."""
        shape = (len(self.hashes), *self._shape)
        return np.memmap(self._pixel_path, np.uint8, "r", shape=shape)

    def __exit__(self, *_: object) -> None:
        with self._files:
            self._flush()


def _open(path: Path) -> BinaryIO:
    return os.fdopen(os.open(path, _OPEN, 0o666), "r+b")  # less the umask


def _sync(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())
