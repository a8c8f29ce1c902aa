"""Images and what they are captioned with: read ahead, given to a captioner, answered in order.

    tasks ─▶ read (threads, a bounded number ahead) ─▶ captioner ─▶ answers, in the order of tasks

Reading overlaps with captioning, and memory does not grow with the number of tasks. Two tasks with
the same picture and the same alt-texts have the same caption: it is written once.
"""

from __future__ import annotations

import hashlib
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from typing_extensions import Self

from altogether_rt.captions import Caption, CaptionParams, CaptionRequest, content_hash
from altogether_rt.data.embeddings import EncoderStamp, SavedEmbeddings
from altogether_rt.data.images import ImageLimits, PixelGate, free_large_images, open_image
from altogether_rt.errors import ImageError
from altogether_rt.generation.engine import EngineStats
from altogether_rt.generation.requests import Recent, RequestSource

__all__ = [
    "Answer",
    "CaptionPlan",
    "ListedTasks",
    "SupportsCaptions",
    "Task",
    "Tasks",
    "caption_tasks",
]

#: Images (150 kB each at 224 px) read before the captioner asks for them; at least two batches.
_READ_AHEAD = 32

#: Captions remembered, should the same picture and alt-texts come again.
_CAPTIONS_KEPT = 4096

#: Tasks that are answered without the captioner, before it gets on with its own work.
_MOST_ANSWERED = 64

#: With `fast_jpeg`, a JPEG is decoded at a part of its size if that is still this many times what
#: the encoder sees. On photographs the pixels it sees then differ by 1.6 of 255 on average at most,
#: each by 22; with a factor of 3 fine print differs by 14 on average.
_FAST_JPEG_SIDES = 4

Answer = Caption | ImageError


class _Preprocessor(Protocol):
    @property
    def size(self) -> int: ...
    def pixels(self, image: Image.Image) -> NDArray[np.uint8]: ...


class SupportsCaptions(Protocol):
    """What this module needs of a `Captioner`."""

    stats: EngineStats

    @property
    def bundle_id(self) -> str: ...
    @property
    def preprocessor(self) -> _Preprocessor: ...
    def stream(
        self,
        requests: Iterable[CaptionRequest],
        params: CaptionParams | None = None,
        *,
        keep_embeddings: bool = False,
    ) -> Iterator[Caption]: ...


@dataclass(frozen=True)
class Task:
    """One image to caption."""

    index: int  # given back with the answer
    name: str  # relative to the plan's folder
    alts: tuple[str, ...] = ()


class Tasks(Protocol):
    """Tasks that come one after another, perhaps from another process."""

    @property
    def finished(self) -> bool:
        """Whether no more will come."""

    def get(self, wait: bool) -> Task | None:
        """The next one; None if there is none, or, without `wait`, none now."""


class ListedTasks:
    """Tasks of an iterable, which are there when they are wanted."""

    def __init__(self, tasks: Iterable[Task]) -> None:
        self._tasks = iter(tasks)
        self.finished = False

    def get(self, wait: bool) -> Task | None:
        task = next(self._tasks, None)
        self.finished = task is None
        return task


@dataclass(frozen=True)
class CaptionPlan:
    """What every image of a run is treated with."""

    root: Path
    params: CaptionParams
    limits: ImageLimits
    fast_jpeg: bool = False  # decode large JPEGs at a part of their size
    read_threads: int | None = None
    embeddings: Path | None = None  # a file of them, instead of the images
    encoder: EncoderStamp | None = None  # of the captioner; needed with `embeddings`
    keep_embeddings: bool = False  # captions come with theirs

    def reader(self, captioner: SupportsCaptions) -> Callable[[Task], CaptionRequest]:
        """What turns a task into a request; called by several threads; raises ImageError."""
        if self.embeddings is None:
            return self._image_reader(captioner)
        assert self.encoder is not None
        saved = SavedEmbeddings(self.embeddings, self.encoder)
        return lambda task: CaptionRequest(None, task.alts, embedded=saved.get(task.name))

    def _image_reader(self, captioner: SupportsCaptions) -> Callable[[Task], CaptionRequest]:
        free_large_images()
        gate = PixelGate(self.limits.max_pixels)
        draft = _FAST_JPEG_SIDES * captioner.preprocessor.size if self.fast_jpeg else None

        def read(task: Task) -> CaptionRequest:
            try:
                path = self.root / task.name
                with open_image(path, self.limits, gate, draft_side=draft) as image:
                    pixels = captioner.preprocessor.pixels(image)
            except MemoryError as error:
                message = f"{task.name} does not fit into memory."
                raise ImageError("too_large", message) from error
            return CaptionRequest(pixels, task.alts, content=content_hash(pixels))

        return read


def caption_tasks(
    tasks: Tasks,
    captioner: SupportsCaptions,
    plan: CaptionPlan,
    emit: Callable[[int, Answer], None],
) -> None:
    """Calls `emit` with each task's index and its answer, in the order of the tasks."""
    answers = _Answers(emit)
    threads = plan.read_threads or os.cpu_count() or 1
    with _Requests(tasks, plan.reader(captioner), answers, min(4, threads)) as requests:
        for caption in captioner.stream(
            requests, plan.params, keep_embeddings=plan.keep_embeddings
        ):
            answers.resolve(caption)


class _Requests(RequestSource):
    """Reads tasks with threads; those whose answer needs no captioner are answered on the way."""

    def __init__(
        self,
        tasks: Tasks,
        read: Callable[[Task], CaptionRequest],
        answers: _Answers,
        threads: int,
    ) -> None:
        self._tasks = tasks
        self._read = read
        self._answers = answers
        self._ahead: deque[tuple[Task, Future[CaptionRequest]]] = deque()
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="read")

    def take(self, most: int, wait: bool) -> list[CaptionRequest] | None:
        requests: list[CaptionRequest] = []
        for _ in range(most + _MOST_ANSWERED):
            wait = wait and not requests
            self._read_ahead(max(_READ_AHEAD, 2 * most), wait)
            if not self._ahead or not (wait or self._ahead[0][1].done()):
                break
            request = self._settle(*self._ahead.popleft())
            if request is not None:
                requests.append(request)
                if len(requests) == most:
                    break
        if not requests and not self._ahead and self._tasks.finished:
            return None
        return requests

    def _read_ahead(self, most: int, wait: bool) -> None:
        while len(self._ahead) < most and not self._tasks.finished:
            task = self._tasks.get(wait and not self._ahead)
            if task is None:
                return
            self._ahead.append((task, self._pool.submit(self._read, task)))

    def _settle(self, task: Task, reading: Future[CaptionRequest]) -> CaptionRequest | None:
        """The request for the captioner, if the task needs one."""
        try:
            request = reading.result()
        except ImageError as error:
            self._answers.add(task, error)
            return None
        return request if self._answers.ask(task, request) else None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)


@dataclass
class _Entry:
    index: int
    answer: Answer | None = None  # None: still being written


class _Answers:
    """Answers leave in the order of their tasks, though captions take longer than errors."""

    def __init__(self, emit: Callable[[int, Answer], None]) -> None:
        self._emit = emit
        self._entries: deque[_Entry] = deque()  # in the order of tasks
        self._asked: deque[bytes] = deque()  # identities of what the captioner was asked for
        self._waiting: dict[bytes, list[_Entry]] = {}  # by identity
        self._recent = Recent[bytes, Caption](_CAPTIONS_KEPT)

    def add(self, task: Task, answer: Answer) -> None:
        """The answer of a task that came after all those before."""
        self._entries.append(_Entry(task.index, answer))
        self._release()

    def ask(self, task: Task, request: CaptionRequest) -> bool:
        """Whether the captioner must be asked: not where a twin's caption is, or will be, there."""
        identity = _identity(request)
        known = self._recent.get(identity)
        if known is not None:
            self.add(task, known)
            return False
        entry = _Entry(task.index)
        self._entries.append(entry)
        twins = self._waiting.setdefault(identity, [])
        twins.append(entry)
        if len(twins) > 1:
            return False
        self._asked.append(identity)
        return True

    def resolve(self, caption: Caption) -> None:
        """The caption of the first request that has none yet."""
        identity = self._asked.popleft()
        for entry in self._waiting.pop(identity):
            entry.answer = caption
        self._recent.put(identity, caption)
        self._release()

    def _release(self) -> None:
        while self._entries and (answer := self._entries[0].answer) is not None:
            self._emit(self._entries.popleft().index, answer)


def _identity(request: CaptionRequest) -> bytes:
    """What decides a caption in a run: the picture and its alt-texts."""
    digest = hashlib.blake2b(request.content_hash(), digest_size=16)
    digest.update(repr(request.alts).encode("utf-8", "surrogatepass"))
    return digest.digest()
