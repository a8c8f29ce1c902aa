"""Embeddings of the training images: kept on the disk as far as they may, computed again beyond.

A pooled embedding is a few kilobytes. The patch tokens of an image are megabytes (3.1 MB with
SmolVLM: 31 GB for 10,000 images), and what the mapper makes of them changes while it is trained.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from altogether_rt.model.encoder import Encoder
from altogether_rt.train.compute.device import device_of
from altogether_rt.train.log import Countdown
from altogether_rt.train.prepared import PreparedImages

__all__ = ["EmbeddingCache", "Embeddings", "SomeEmbeddings"]

Floats = NDArray[np.float32]

#: Images in one call of an encoder of pooled embeddings.
_POOLED_BATCH: Final = 128
#: Of an encoder of patch tokens on a GPU. On a CPU it reads one image at a time: as fast, and what
#: is computed again then has the bits of what was kept.
_PATCHES_BATCH: Final = 8
#: Share of the free disk that embeddings may fill where nothing else is said.
_SHARE_OF_DISK: Final = 0.5
#: Between two writes that are waited for.
_BYTES_PER_SYNC: Final = 256 << 20

_OPEN: Final = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC


class Embeddings(Protocol):
    """Embeddings of some images."""

    def take(self, indices: Sequence[int]) -> Floats:
        """Embeddings of these images, float32 (B, E) or (B, patches, E)."""


@dataclass(frozen=True)
class SomeEmbeddings:
    """The embeddings of some images, in the order of `indices`."""

    embeddings: Embeddings
    indices: Sequence[int]

    def take(self, indices: Sequence[int]) -> Floats:
        return self.embeddings.take([self.indices[index] for index in indices])


class EmbeddingCache:
    """Embeddings of all images by a frozen encoder, the first of them in a file.

    The file is named after the images and the encoder; a run that was killed goes on with what it
    holds.
    """

    def __init__(
        self,
        encoder: Encoder,
        images: PreparedImages,
        folder: Path,
        say: Callable[[str], None],
        *,
        max_bytes: int | None = None,
    ) -> None:
        """Compute and write what is missing. max_bytes: of the file; None: half of the free disk.

        The encoder is moved to the device where it already is; its weights must not change.
        """
        self._encoder = encoder
        self._images = images
        self._shape = encoder.config.embedding_shape
        row_bytes = 4 * int(np.prod(self._shape))
        patches = len(self._shape) > 1
        on_gpu = device_of(encoder).type == "cuda"
        self._batch = (_PATCHES_BATCH if on_gpu else 1) if patches else _POOLED_BATCH
        path = folder / f"embeddings-{len(images)}-{_digest(encoder, images)}.raw"
        held = path.stat().st_size if path.is_file() else 0
        if max_bytes is None:
            max_bytes = held + int(_SHARE_OF_DISK * shutil.disk_usage(folder).free)
        self._kept = min(len(images), max_bytes // row_bytes)
        if self._kept < len(images) or patches:
            say(
                f"embeddings are {row_bytes / 1e6:.2g} MB an image: "
                f"{_size(row_bytes * len(images))} for all {len(images):,}; "
                f"{self._kept:,} are kept in {folder}"
                + (", the others are computed when they are wanted" * (self._kept < len(images)))
            )
        self._fill(path, row_bytes, say)
        shape = (self._kept, *self._shape)
        self._rows = np.memmap(path, np.float32, "r", shape=shape) if self._kept else None

    def take(self, indices: Sequence[int]) -> Floats:
        """Embeddings of these images, float32 (B, E) or (B, patches, E)."""
        found = np.empty((len(indices), *self._shape), np.float32)
        absent = []
        for row, index in enumerate(indices):
            if index < self._kept:
                assert self._rows is not None
                found[row] = self._rows[index]
            else:
                absent.append(row)
        for first in range(0, len(absent), self._batch):
            rows = absent[first : first + self._batch]
            found[rows] = self._encode([indices[row] for row in rows])
        return found

    def _encode(self, indices: Sequence[int]) -> Floats:
        pixels = torch.from_numpy(self._images.take(indices))
        with torch.no_grad():
            embeddings: Floats = self._encoder(pixels.to(device_of(self._encoder))).cpu().numpy()
        return embeddings

    def _fill(self, path: Path, row_bytes: int, say: Callable[[str], None]) -> None:
        with os.fdopen(os.open(path, _OPEN, 0o666), "r+b") as file:  # less the umask
            done = min(os.fstat(file.fileno()).st_size // row_bytes, self._kept)
            if done < self._kept:
                done -= done % self._batch  # batches as an undisturbed run has them
            file.truncate(done * row_bytes)
            file.seek(done * row_bytes)
            pending = 0
            countdown = Countdown(say, "embedded", self._kept, done)
            for first in range(done, self._kept, self._batch):
                indices = range(first, min(first + self._batch, self._kept))
                file.write(self._encode(indices).tobytes())
                pending += len(indices) * row_bytes
                if pending >= _BYTES_PER_SYNC:
                    _sync(file.fileno(), file.flush)
                    pending = 0
                countdown.advance(indices[-1] + 1)
            _sync(file.fileno(), file.flush)


def _size(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:.3g} GB" if num_bytes >= 1e9 else f"{num_bytes / 1e6:.3g} MB"


def _digest(encoder: Encoder, images: PreparedImages) -> str:
    digest = hashlib.sha256(images.sha256().encode())
    # Mean, normalisation and the like decide embeddings as the weights do.
    digest.update(json.dumps(dataclasses.asdict(encoder.config), sort_keys=True).encode())
    for tensor in encoder.state_dict().values():
        digest.update(tensor.cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


def _sync(descriptor: int, flush: Callable[[], None]) -> None:
    flush()
    os.fsync(descriptor)
