"""Images to visual tokens, a batch at a time; an image that comes again is not encoded again."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from altogether_rt.captions import CaptionRequest, EmbeddedImage
from altogether_rt.generation.engine import EngineStats
from altogether_rt.generation.requests import Recent, RequestSource
from altogether_rt.runtime.base import Array, Runtime, join_arrays, mean_array, stack_arrays

__all__ = ["MappedImage", "VisionStage"]

#: Images that the encoder is given at once. More fill a GPU no better, and as long as they are put
#: together no step is begun.
_ENCODED_AT_ONCE = 64
#: Bytes of embeddings remembered, should an image come again: 4096 pooled ones of the widest, or
#: five of 1,024 patches.
_BYTES_REMEMBERED = 16 << 20


#: From the pixels of an image to its tiles, (tiles, H, H, 3).
Tiles = Callable[[NDArray[np.uint8]], NDArray[np.uint8]]


@dataclass(frozen=True)
class MappedImage:
    """What the decoder reads of an image, and what it was made from."""

    visual_tokens: Array  # (P, W), of all tiles
    content: bytes  # hash of its pixels
    embedding: Array  # (E,) or (patches, E); of an image in tiles, their mean (E,)
    grid: tuple[int, int] = (1, 1)  # rows and columns of its tiles

    @property
    def embedded(self) -> EmbeddedImage:
        """The embedding as an array of this process; waits for the device that it is on."""
        return EmbeddedImage(self.content, np.asarray(self.embedding))

    def pooled(self) -> NDArray[np.float32]:
        """One vector of the image, (E,): its embedding, or the mean of its patch tokens."""
        embedding = np.asarray(self.embedding)
        if embedding.ndim == 1:
            return embedding
        mean: NDArray[np.float32] = embedding.mean(axis=0)
        return mean


class VisionStage:
    """Encoder and mapper of a runtime, with a memory of the last embeddings."""

    def __init__(
        self,
        runtime: Runtime,
        stats: EngineStats,
        embedding_shape: tuple[int, ...],
        tiles: Tiles | None = None,
    ) -> None:
        """stats: where the seconds of encoder and mapper are counted. tiles: divides images; None:
        each is one tile.
        """
        embedding_bytes = 4 * math.prod(embedding_shape)
        self._runtime = runtime
        self._stats = stats
        self._tiles = tiles
        max_remembered = max(1, _BYTES_REMEMBERED // embedding_bytes)
        self._recent = Recent[bytes, Array](max_remembered)

    def batches(
        self, source: RequestSource, idle: Callable[[], bool]
    ) -> Iterator[list[tuple[CaptionRequest, MappedImage]]]:
        """Batches of the requests that are ready, mapped; an empty one while none is.

        On a device that computes while this goes on, the next batch is begun before this one is
        handed out, so that images are encoded while captions are written. idle: whether there is
        nothing to write, so that one may be waited for.
        """
        ahead: list[tuple[CaptionRequest, MappedImage]] | None = []
        while ahead is not None:
            batch = ahead or self._take(source, wait=idle())
            if batch is None:
                return
            on_device = bool(batch) and not isinstance(batch[0][1].visual_tokens, np.ndarray)
            ahead = self._take(source, wait=False) if on_device else []
            yield batch

    def _take(
        self, source: RequestSource, wait: bool
    ) -> list[tuple[CaptionRequest, MappedImage]] | None:
        start_s = time.perf_counter()
        batch = source.take(self._runtime.num_slots, wait=wait)
        if wait:
            self._stats.decode_wait_s += time.perf_counter() - start_s
        if batch is None:
            return None
        return list(zip(batch, self.run(batch), strict=True)) if batch else []

    def run(self, batch: Sequence[CaptionRequest]) -> list[MappedImage]:
        """The images of `batch`, in order; identical ones are computed once."""
        contents = [request.content_hash() for request in batch]
        if self._tiles is not None:
            unique = dict(zip(contents, batch, strict=True))
            divided = {key: self._run_tiles(key, request) for key, request in unique.items()}
            return [divided[content] for content in contents]
        embeddings = self._encode(batch, contents)
        mapped = self._map(stack_arrays(list(embeddings.values())))
        tokens = dict(zip(embeddings, mapped, strict=True))
        return [MappedImage(tokens[content], content, embeddings[content]) for content in contents]

    def _run_tiles(self, content: bytes, request: CaptionRequest) -> MappedImage:
        """One image. Its patch tokens are 53 MB for 17 tiles of 1,024, so their mean is kept."""
        assert self._tiles is not None and request.pixels is not None
        tiles = self._tiles(request.pixels)
        height, width = (side // tiles.shape[1] for side in request.pixels.shape[:2])
        start_s = time.perf_counter()
        embeddings = self._runtime.encode(tiles)
        self._stats.encode_s += time.perf_counter() - start_s
        tokens = join_arrays(list(self._map(embeddings)))
        return MappedImage(tokens, content, mean_array(embeddings), (height, width))

    def _map(self, embeddings: Array) -> Array:
        start_s = time.perf_counter()
        mapped = self._runtime.map(embeddings)
        self._stats.map_s += time.perf_counter() - start_s
        return mapped

    def _encode(
        self, batch: Sequence[CaptionRequest], contents: Sequence[bytes]
    ) -> dict[bytes, Array]:
        """Embeddings of a batch by content hash."""
        found: dict[bytes, Array] = {}
        missing: dict[bytes, NDArray[np.uint8]] = {}
        for request, content in zip(batch, contents, strict=True):
            known = self._recent.get(content)
            if request.embedded is not None:
                found[content] = request.embedded.embedding
            elif known is not None:
                found[content] = known
            elif request.pixels is not None:
                missing[content] = request.pixels
        if missing:
            start_s = time.perf_counter()
            encoded = self._encode_images(list(missing.values()))
            self._stats.encode_s += time.perf_counter() - start_s
            for content, embedding in zip(missing, encoded, strict=True):
                # Not a view, which would hold the batch.
                found[content] = (
                    embedding.copy() if isinstance(embedding, np.ndarray) else embedding
                )
                self._recent.put(content, found[content])
        return found

    def _encode_images(self, images: Sequence[NDArray[np.uint8]]) -> Array:
        parts = [
            self._runtime.encode(np.stack(images[start : start + _ENCODED_AT_ONCE]))
            for start in range(0, len(images), _ENCODED_AT_ONCE)
        ]
        return parts[0] if len(parts) == 1 else join_arrays(parts)
