"""A folder of images and their alt-texts → a file of captions: the work of `caption`.

    scan ─▶ decode (threads, a bounded number ahead) ─▶ captioner ─▶ rows, in input order

Decoding overlaps with captioning; memory does not grow with the folder, save for its file names.
"""

from __future__ import annotations

import os
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from altogether_rt.data.alts import Alts, AltTable, read_alts
from altogether_rt.data.folder import FolderScan, scan_folder
from altogether_rt.data.images import ImageLimits, PixelGate, free_large_images, open_image
from altogether_rt.data.problems import Problems
from altogether_rt.data.rows import Row, RunStamp, caption_row, error_row
from altogether_rt.data.sidecars import Sidecars
from altogether_rt.data.sinks import JsonlSink
from altogether_rt.errors import AltogetherError, ImageError
from altogether_rt.generation.params import Caption, CaptionParams, CaptionRequest

__all__ = ["CaptionJob", "CaptionSummary", "Inputs", "caption_folder", "find_alts", "read_inputs"]

#: Decoded images (150 kB each at 224 px) that may wait for the captioner.
_DECODED_AHEAD = 32


class _Preprocessor(Protocol):
    def pixels(self, image: Image.Image) -> NDArray[np.uint8]: ...


class SupportsCaptions(Protocol):
    """What the pipeline needs of a `Captioner`."""

    @property
    def bundle_id(self) -> str: ...
    @property
    def preprocessor(self) -> _Preprocessor: ...
    def stream(
        self, requests: Iterable[CaptionRequest], params: CaptionParams | None = None
    ) -> Iterator[Caption]: ...


@dataclass(frozen=True)
class CaptionJob:
    """What to caption and where to."""

    folder: Path
    out: Path
    alts: Path | None = None
    recursive: bool = True
    limit: int | None = None  # the first so many images
    sidecar: str | None = None  # ending of the text files beside the images
    overwrite: bool = False
    retry_errors: bool = False
    limits: ImageLimits = field(default_factory=ImageLimits)


@dataclass(frozen=True)
class Inputs:
    """What a job found."""

    scan: FolderScan
    names: list[str]  # the images to caption, in order
    alts: AltTable
    alts_without_image: Problems


@dataclass
class CaptionSummary:
    """What a run did."""

    captioned: int = 0
    skipped: int = 0  # had a row already
    failed: Counter[str] = field(default_factory=Counter)  # by class of error
    seconds: float = 0.0
    sidecars_kept: Problems = field(default_factory=Problems)

    @property
    def num_failed(self) -> int:
        return sum(self.failed.values())


def find_alts(path: Path, folder: Path) -> Path:
    """An alt-text file as the user named it: from here or, failing that, within the folder."""
    for candidate in (path, folder / path):
        if candidate.is_file():
            return candidate
    raise AltogetherError(f"there is no alt-text file {path}, neither here nor in {folder}.")


def read_inputs(job: CaptionJob) -> Inputs:
    """Scans the folder and reads the alt-texts; quick, and before any model is loaded.

    Raises AltogetherError if there is nothing to caption, or a file that cannot be read.
    """
    scan = scan_folder(job.folder, recursive=job.recursive)
    if not scan.names:
        deeper = "" if job.recursive else " itself (its subfolders were left out)"
        raise AltogetherError(f"there are no images in {job.folder}{deeper}.")
    alts, without_image = AltTable(), Problems()
    if job.alts is not None:
        path = find_alts(job.alts, scan.root)
        if job.out.exists() and os.path.samefile(path, job.out):
            raise AltogetherError(f"--out is the alt-text file {path}: choose another.")
        alts = read_alts(path, scan.root)
        without_image = alts.without_image(scan.names)
    return Inputs(scan, scan.names[: job.limit], alts, without_image)


def caption_folder(
    job: CaptionJob,
    inputs: Inputs,
    captioner: SupportsCaptions,
    params: CaptionParams,
    on_start: Callable[[int], None] = lambda todo: None,
    on_row: Callable[[Row], None] = lambda row: None,
) -> CaptionSummary:
    """Captions what has no row yet. `on_start` is given the number of images to do.

    Raises AltogetherError if the output belongs to another run. Whatever stops it, the rows
    finished so far are kept, and calling it again goes on behind them.
    """
    start = time.monotonic()
    stamp = RunStamp(captioner.bundle_id, params)
    summary = CaptionSummary()
    sidecars = None
    if job.sidecar is not None:
        sidecars = Sidecars(inputs.scan.root, job.sidecar, job.overwrite)
        summary.sidecars_kept = sidecars.kept
    with JsonlSink(job.out) as sink:
        done = sink.recover(
            _row_check(inputs, stamp), overwrite=job.overwrite, retry_errors=job.retry_errors
        )
        if sidecars is not None and done:
            _write_sidecars(sidecars, sink.rows(), set(inputs.names))
        todo = [name for name in inputs.names if name not in done]
        summary.skipped = len(inputs.names) - len(todo)
        on_start(len(todo))

        def finish_row(row: Row) -> None:
            if "error" in row:
                summary.failed[row["error"]["class"]] += 1
            else:
                summary.captioned += 1
                if sidecars is not None:  # before the row, which says that all is done
                    sidecars.write(row["file_name"], row["caption"])
            sink.write(row)
            on_row(row)

        work = _Work(inputs.scan.root, inputs.alts, captioner, stamp, job.limits)
        _caption_all(todo, work, finish_row)
        sink.finish()
    summary.seconds = time.monotonic() - start
    return summary


def _row_check(inputs: Inputs, stamp: RunStamp) -> Callable[[Row], str | None]:
    """Says why a row that is already there cannot stand beside those of this run."""
    expected = stamp.fields()
    names = set(inputs.scan.names)

    def check(row: Row) -> str | None:
        name = row["file_name"]
        if name in names and row.get("alt") != inputs.alts.get(name).json:
            return f"written from other alt-texts ({name} for one)"
        if "error" in row:
            return None
        if row.get("bundle") != expected["bundle"]:
            return f"of bundle {row.get('bundle')}, and this one is {expected['bundle']}"
        if row.get("params") != expected["params"]:
            return "written with other parameters"
        return None

    return check


def _write_sidecars(sidecars: Sidecars, rows: Iterable[Row], names: set[str]) -> None:
    """For captions of an earlier run, which may have been killed or not asked for them."""
    for row in rows:
        if "error" not in row and row["file_name"] in names:
            sidecars.write(row["file_name"], row["caption"])


@dataclass(frozen=True)
class _Work:
    """What every image of a run is treated with."""

    root: Path
    alts: AltTable
    captioner: SupportsCaptions
    stamp: RunStamp
    limits: ImageLimits


def _caption_all(names: list[str], work: _Work, finish_row: Callable[[Row], None]) -> None:
    """Calls `finish_row` once for each name, in order."""
    if not names:
        return
    order = _InOrder(work.stamp, finish_row)

    def requests(
        decoded: Iterable[tuple[str, NDArray[np.uint8] | ImageError]],
    ) -> Iterator[CaptionRequest]:
        for name, pixels in decoded:
            alts = work.alts.get(name)
            if isinstance(pixels, ImageError):
                order.add(error_row(name, alts, pixels))
            else:
                order.add(_Waiting(name, alts))
                yield CaptionRequest(pixels, alts.texts)

    with closing(_decode_ahead(names, work)) as decoded:
        for caption in work.captioner.stream(requests(decoded), work.stamp.params):
            order.resolve(caption)


def _decode_ahead(
    names: list[str], work: _Work
) -> Generator[tuple[str, NDArray[np.uint8] | ImageError], None, None]:
    """Each name with its pixels, or with what is wrong; decoded by threads, in order."""
    free_large_images()
    gate = PixelGate(work.limits.max_pixels)

    def decode(name: str) -> NDArray[np.uint8] | ImageError:
        try:
            with open_image(work.root / name, work.limits, gate) as image:
                return work.captioner.preprocessor.pixels(image)
        except ImageError as error:
            return error
        except MemoryError:
            return ImageError("too_large", f"{name} does not fit into memory.")

    pool = ThreadPoolExecutor(min(4, os.cpu_count() or 1), thread_name_prefix="decode")
    try:
        ahead: deque[tuple[str, Future[NDArray[np.uint8] | ImageError]]] = deque()
        for name in names:
            ahead.append((name, pool.submit(decode, name)))
            if len(ahead) >= _DECODED_AHEAD:
                first, future = ahead.popleft()
                yield first, future.result()
        while ahead:
            first, future = ahead.popleft()
            yield first, future.result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


@dataclass(frozen=True)
class _Waiting:
    name: str
    alts: Alts


class _InOrder:
    """Rows leave in the order in which their images came, though captions take longer than errors.

    The captioner may draw requests from a thread of its own: hence the lock.
    """

    def __init__(self, stamp: RunStamp, finish_row: Callable[[Row], None]) -> None:
        self._stamp = stamp
        self._finish_row = finish_row
        self._queue: deque[Row | _Waiting] = deque()
        self._lock = threading.Lock()

    def add(self, entry: Row | _Waiting) -> None:
        """A finished row, or an image whose caption is to come."""
        with self._lock:
            self._queue.append(entry)
            self._release()

    def resolve(self, caption: Caption) -> None:
        """The caption of the first image that waits has come."""
        with self._lock:
            first = self._queue.popleft()
            assert isinstance(first, _Waiting), "rows before it were released"
            self._finish_row(caption_row(first.name, first.alts, caption, self._stamp))
            self._release()

    def _release(self) -> None:
        while self._queue and not isinstance(first := self._queue[0], _Waiting):
            self._queue.popleft()
            self._finish_row(first)
