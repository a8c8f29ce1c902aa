"""Answers leave in the order of their tasks, and identical requests are answered once."""

from __future__ import annotations

import hashlib
from collections import deque
from dataclasses import dataclass, replace

from altogether_rt.captions import Answer, Caption, CaptionRequest
from altogether_rt.generation.requests import Recent
from altogether_rt.jobs.plan import Emit, Task

__all__ = ["OrderedAnswers"]

#: Captions remembered, should the same image and alt-texts come again.
_MAX_REMEMBERED = 4096


@dataclass(slots=True)
class _Entry:
    index: int
    answer: Answer | None = None  # None: still being generated
    image_hash: str = ""  # of the image's file, for its row
    notes: tuple[str, ...] = ()  # on the file, for its row

    def settle(self, caption: Caption) -> None:
        """Take a caption, which an identical image in another file may have had."""
        if self.image_hash or self.notes:
            caption = replace(caption, image_hash=self.image_hash, notes=self.notes)
        self.answer = caption


class OrderedAnswers:
    """Emits answers in the order of tasks, though captions take longer than errors."""

    def __init__(self, emit: Emit) -> None:
        self._emit = emit
        self._entries: deque[_Entry] = deque()  # in the order of tasks
        self._asked: deque[bytes] = deque()  # identities of the requests given to the captioner
        self._waiting: dict[bytes, list[_Entry]] = {}  # by identity
        self._recent = Recent[bytes, Caption](_MAX_REMEMBERED)

    def add(self, task: Task, answer: Answer) -> None:
        """The answer of a task, the latest one so far."""
        self._entries.append(_Entry(task.index, answer))
        self._release()

    def needs_captioner(self, task: Task, request: CaptionRequest) -> bool:
        """Whether to caption `request`: False if an identical one is remembered or in flight."""
        identity = _identity(request)
        entry = _Entry(task.index, image_hash=request.image_hash, notes=request.notes)
        self._entries.append(entry)
        known = self._recent.get(identity)
        if known is not None:
            entry.settle(known)
            self._release()
            return False
        identical = self._waiting.setdefault(identity, [])
        identical.append(entry)
        if len(identical) > 1:
            return False
        self._asked.append(identity)
        return True

    def resolve(self, caption: Caption) -> None:
        """The caption of the oldest request that has none yet."""
        identity = self._asked.popleft()
        for entry in self._waiting.pop(identity):
            entry.settle(caption)
        self._recent.put(identity, caption)
        self._release()

    def _release(self) -> None:
        while self._entries and (answer := self._entries[0].answer) is not None:
            self._emit(self._entries.popleft().index, answer)


def _identity(request: CaptionRequest) -> bytes:
    """16 bytes that decide a caption within a run: those of the image and its alt-texts."""
    digest = hashlib.blake2b(request.content_hash(), digest_size=16)
    digest.update(repr(request.alts).encode("utf-8", "surrogatepass"))
    return digest.digest()
