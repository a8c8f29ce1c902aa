"""What engines that run one batch after the other share: batches of rows, and padded prompts."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Stopwatch", "in_batches", "left_padded", "pixels_of"]


class Stopwatch:
    """Adds up the time of parts of the work."""

    def __init__(self) -> None:
        self.seconds = 0.0

    @contextmanager
    def running(self) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds += time.perf_counter() - start


def pixels_of(path: str) -> NDArray[np.uint8]:
    """All images (N, H, W, 3), mapped: only those that are used are read."""
    pixels: NDArray[np.uint8] = np.load(Path(path), mmap_mode="r")
    return pixels


def in_batches(rows: Sequence[Any], batch: int, write: Any, *, by_length: bool) -> list[list[int]]:
    """Captions of `rows` in their order, written by `write(rows of one batch)`.

    by_length: rows with prompts of similar length share a batch, so that little is padded.
    """
    order = list(range(len(rows)))
    if by_length:
        order.sort(key=lambda index: rows[index].prompt_tokens)
    captions: list[list[int]] = [[]] * len(rows)
    for start in range(0, len(rows), batch):
        chosen = order[start : start + batch]
        for index, ids in zip(chosen, write([rows[i] for i in chosen]), strict=True):
            captions[index] = ids
    return captions


def left_padded(
    sequences: Sequence[NDArray[Any]], fill: Any = 0
) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Sequences (T, …) of unequal length as one array (B, longest, …), and the
    mask (B, longest) of what is not padding."""
    longest = max(len(sequence) for sequence in sequences)
    first = sequences[0]
    padded = np.full((len(sequences), longest, *first.shape[1:]), fill, first.dtype)
    mask = np.zeros((len(sequences), longest), np.int64)
    for index, sequence in enumerate(sequences):
        padded[index, longest - len(sequence) :] = sequence
        mask[index, longest - len(sequence) :] = 1
    return padded, mask
