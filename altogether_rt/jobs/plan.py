"""Tasks of a job, and the plan by which each becomes a request for a captioner."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from altogether_rt.captions import Answer, CaptionParams, CaptionRequest, content_hash
from altogether_rt.data.embeddings import EncoderStamp, SavedEmbeddings
from altogether_rt.data.file_hash import file_hash
from altogether_rt.data.images import ImageLimits, image_notes, open_image
from altogether_rt.data.images.limits import BYTES_PER_PIXEL
from altogether_rt.data.memory import PixelGate, free_large_images
from altogether_rt.data.sources.base import Sample
from altogether_rt.errors import ImageError
from altogether_rt.machine.limits import available_cores, available_memory

__all__ = [
    "CaptionPlan",
    "EmbeddingFile",
    "Emit",
    "ListedTasks",
    "Preprocesses",
    "QueuedTasks",
    "Task",
    "Tasks",
]

#: With `fast_jpeg`, a JPEG is decoded at a fraction of its size if that is still this many times
#: what the encoder sees. On photographs the pixels it sees then differ by at most 1.6 of 255 on
#: average and by 22 anywhere; with a factor of 3 fine print differs by 14 on average.
_FAST_JPEG_SIDES = 4

#: Part of the memory that this process may use for images that are decoded at the same time.
_DECODING_SHARE = 4

#: Threads that read at most, if there are so many cores: a GPU may caption a thousand images a
#: second, of which a core reads some eighty.
_MAX_READ_THREADS = 32

#: Called with each task's index and answer, in the order of the tasks.
Emit = Callable[[int, Answer], None]


@dataclass(frozen=True)
class Task:
    """A sample and its index in the job: 0, 1, 2, …"""

    index: int
    sample: Sample


class Tasks(Protocol):
    """Tasks that come one after another, perhaps from another process."""

    @property
    def finished(self) -> bool:
        """Whether no more will come."""

    def get(self, wait: bool) -> Task | None:
        """The next task; None if there is none left or, without `wait`, none now."""


class ListedTasks:
    """Tasks of an iterable that never makes its reader wait."""

    def __init__(self, tasks: Iterable[Task]) -> None:
        self._tasks = iter(tasks)
        self.finished = False

    def get(self, wait: bool) -> Task | None:
        task = next(self._tasks, None)
        self.finished = task is None
        return task


class QueuedTasks:
    """Tasks of an iterable that may make its reader wait: a thread draws them, a few ahead."""

    def __init__(self, tasks: Iterable[Task], max_ahead: int = 256) -> None:
        self.finished = False
        self._queue: queue.Queue[Task | Exception | None] = queue.Queue(max_ahead)
        threading.Thread(target=self._draw, args=(tasks,), name="tasks", daemon=True).start()

    def get(self, wait: bool) -> Task | None:
        try:
            task = self._queue.get(block=wait)
        except queue.Empty:
            return None
        if isinstance(task, Exception):
            raise task
        self.finished = task is None
        return task

    def _draw(self, tasks: Iterable[Task]) -> None:
        try:
            for task in tasks:
                self._queue.put(task)
            self._queue.put(None)
        except Exception as error:  # raised where tasks are wanted
            self._queue.put(error)


@dataclass(frozen=True)
class EmbeddingFile:
    """A file of embeddings, and the encoder that they must be of."""

    path: Path
    encoder: EncoderStamp


class _Preprocessor(Protocol):
    @property
    def size(self) -> int: ...
    def pixels(self, image: Image.Image) -> NDArray[np.uint8]: ...


class Preprocesses(Protocol):
    """What making requests needs of a captioner."""

    @property
    def preprocessor(self) -> _Preprocessor: ...


@dataclass(frozen=True)
class CaptionPlan:
    """How every sample of a job is captioned."""

    params: CaptionParams
    limits: ImageLimits
    fast_jpeg: bool = False  # decode large JPEGs at a fraction of their size
    read_threads: int | None = None  # None: as many as there are cores
    num_processes: int = 1  # that read at the same time, each by this plan
    embeddings: EmbeddingFile | None = None  # used instead of the images
    keep_embeddings: bool = False  # captions come with theirs
    hash_files: bool = True  # captions and errors come with the `file_hash` of their image

    @property
    def num_read_threads(self) -> int:
        """Threads that read images in each process."""
        return min(_MAX_READ_THREADS, self.read_threads or available_cores())

    def reader(self, captioner: Preprocesses) -> Callable[[Task], CaptionRequest]:
        """A function that turns a task into a request.

        It may be called by several threads, and raises ImageError.
        """
        if self.embeddings is None:
            return self._image_reader(captioner)
        saved = SavedEmbeddings(self.embeddings.path, self.embeddings.encoder)

        def read(task: Task) -> CaptionRequest:
            sample = task.sample
            if isinstance(sample.image, ImageError):
                raise sample.image
            return CaptionRequest(None, sample.alts.read, embedded=saved.get(sample.key))

        return read

    def _pixels_at_once(self, memory_bytes: int | None) -> int:
        """Pixels decoded at the same time; an image that has more is decoded alone."""
        if memory_bytes is None:
            return self.limits.max_pixels
        share = memory_bytes // _DECODING_SHARE // self.num_processes // BYTES_PER_PIXEL
        return max(1, min(self.limits.max_pixels, share))

    def _image_reader(self, captioner: Preprocesses) -> Callable[[Task], CaptionRequest]:
        free_large_images()
        gate = PixelGate(self._pixels_at_once(available_memory()))
        draft = _FAST_JPEG_SIDES * captioner.preprocessor.size if self.fast_jpeg else None

        def read(task: Task) -> CaptionRequest:
            sample = task.sample
            if isinstance(sample.image, ImageError):
                raise sample.image
            name = sample.key if isinstance(sample.image, bytes) else None
            # Before it is decoded, so that a change meanwhile is noticed later.
            image_hash = file_hash(sample.image, self.limits) if self.hash_files else ""
            try:
                with open_image(
                    sample.image, self.limits, gate, name=name, draft_side=draft
                ) as image:
                    pixels = captioner.preprocessor.pixels(image)
                    notes = image_notes(image)
            except MemoryError as error:
                message = f"{sample.key} does not fit into memory."
                raise ImageError("too_large", message, image_hash) from error
            except ImageError as error:
                error.image_hash = image_hash
                raise
            return CaptionRequest(
                pixels,
                sample.alts.read,
                content=content_hash(pixels),
                image_hash=image_hash,
                notes=notes,
            )

        return read
