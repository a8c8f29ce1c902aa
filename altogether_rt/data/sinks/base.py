"""The contract of a sink: answers to samples, in their order, made durable."""

from __future__ import annotations

from abc import ABC, abstractmethod
from types import TracebackType
from typing import Self

from altogether_rt.captions import Answer
from altogether_rt.data.alts import Alts

__all__ = ["Sink"]


class Sink(ABC):
    """Takes one answer per sample; a context manager.

    Leaving it without `finish` (an error, Ctrl-C) keeps what was written for the next run.
    """

    @abstractmethod
    def write(self, key: str, alts: Alts, answer: Answer) -> None:
        """Write the answer to a sample: after this call it survives the death of the process."""

    @abstractmethod
    def finish(self) -> None:
        """Turn what was written into the output."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        return None  # nothing to give back; a sink with locks or files closes them
