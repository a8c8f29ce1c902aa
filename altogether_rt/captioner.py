"""The Python API: a captioner, opened and ready.

from altogether_rt import Captioner

with Captioner.load("starter") as captioner:
    for caption in captioner.caption(["boat.png"], ["our boat Marigold"]):
        print(caption.text)
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, Self, overload

from altogether_rt.artifacts.bundle import Bundle
from altogether_rt.captions import Caption, CaptionParams, CaptionRequest, caption_params
from altogether_rt.data.inputs import AltsLike, ImageLike, as_rgb, image_pairs
from altogether_rt.errors import AltogetherError, ImageError
from altogether_rt.generation.engine import Engine, EngineStats
from altogether_rt.generation.requests import ListedRequests, RequestSource
from altogether_rt.generation.stream import CaptionStream
from altogether_rt.generation.vision import VisionStage
from altogether_rt.opening import (
    CaptionerParts,
    Dtype,
    KVCacheType,
    ResolvedCaptioner,
    resolve_captioner,
)
from altogether_rt.preprocess.pixels import Preprocessor
from altogether_rt.speculation.planner import DraftPlanner, Speculation
from altogether_rt.speculation.store import new_planner

__all__ = ["Captioner", "open_captioner"]


class Captioner:
    """Captions images with one bundle or checkpoint on one device."""

    def __init__(self, parts: CaptionerParts, speculation: Speculation = "auto") -> None:
        """Raises BundleError if the file of what earlier captions have taught is not one."""
        self.config = parts.config
        self.runtime = parts.runtime
        self.tokenizer = parts.tokenizer
        self.bundle_id = parts.bundle_id
        self.speculation: Speculation = speculation
        self.preprocessor = Preprocessor(parts.config.encoder, parts.config.tiles)
        self.stats = EngineStats()  # of all captions since it was opened
        self._drafting_state = parts.drafting_state
        self._planner = self._new_planner()
        self._closed = False

    @classmethod
    def load(
        cls,
        bundle: str | Path | Bundle = "starter",
        *,
        device: str = "auto",
        dtype: Dtype = "auto",
        kv_cache: KVCacheType = "auto",
        threads: int | None = None,
        num_slots: int | None = None,
        speculation: Speculation = "auto",
        allow_download: bool = False,
    ) -> Captioner:
        """Open a bundle or a checkpoint by its folder; or by its name: `starter`, which ships with
        the package, or one that `altogether-rt bundle pull` has fetched.

        A checkpoint runs as it was trained, with PyTorch. dtype: of its mapper and decoder; `auto`
        is float16 on a GPU, float32 elsewhere; `float8` is products of encoder, mapper and prompts
        in fp8, on GPUs from compute capability 8.9 on, and `float8-all` of decode steps too.
        kv_cache: how a GPU keeps keys and values; `auto`: as they are computed. threads: of the
        compute kernels, all cores if None. num_slots: captions generated at once. speculation:
        whether a step verifies several draft tokens; it changes no caption, and `auto` uses it
        where it is measured to be faster. allow_download: whether a checkpoint may fetch the
        encoder that it names, or open files outside of its folder.

        Raises BundleError if the bundle cannot be used, AltogetherError for a device that is not
        there, MissingDependencyError without a runtime.
        """
        return open_captioner(
            resolve_captioner(
                bundle,
                device=device,
                dtype=dtype,
                kv_cache=kv_cache,
                allow_download=allow_download,
            ),
            threads=threads,
            num_slots=num_slots,
            speculation=speculation,
        )

    def params(self, **overrides: Any) -> CaptionParams:
        """The bundle's defaults, with overrides that are not None (`temperature=0`, …)."""
        return caption_params(self.config, **overrides)

    @overload
    def caption(
        self,
        images: ImageLike | Iterable[ImageLike],
        alts: AltsLike | Iterable[AltsLike] = None,
        params: CaptionParams | None = None,
        *,
        on_error: Literal["raise"] = "raise",
    ) -> list[Caption]: ...

    @overload
    def caption(
        self,
        images: ImageLike | Iterable[ImageLike],
        alts: AltsLike | Iterable[AltsLike] = None,
        params: CaptionParams | None = None,
        *,
        on_error: Literal["row"],
    ) -> list[Caption | ImageError]: ...

    def caption(
        self,
        images: ImageLike | Iterable[ImageLike],
        alts: AltsLike | Iterable[AltsLike] = None,
        params: CaptionParams | None = None,
        *,
        on_error: Literal["raise", "row"] = "raise",
    ) -> Sequence[Caption | ImageError]:
        """One caption per image, in order. `alts` has one alt-text, several or None per image.

        A single image may stand by itself, with its alt-texts; the list then has one caption.
        on_error: what an image that cannot be read does: `raise` its ImageError, or stand in its
        row of the result while the others are captioned. Raises AltogetherError if the numbers of
        images and alt-texts differ, or the captioner was closed.
        """
        rows: list[Caption | ImageError | None] = []
        indices: deque[int] = deque()  # of rows that wait for their caption

        def readable() -> Iterator[CaptionRequest]:
            for image, listed in image_pairs(images, alts):
                try:
                    request = self._request(image, listed)
                except ImageError as error:
                    if on_error == "raise":
                        raise
                    rows.append(error)
                else:
                    indices.append(len(rows))
                    rows.append(None)
                    yield request

        for caption in self.stream(readable(), params):
            rows[indices.popleft()] = caption
        return [row for row in rows if row is not None]

    def requests(
        self,
        images: ImageLike | Iterable[ImageLike],
        alts: AltsLike | Iterable[AltsLike] = None,
    ) -> Iterator[CaptionRequest]:
        """Images and alt-texts as requests for `stream`, each read when it is asked for."""
        return itertools.starmap(self._request, image_pairs(images, alts))

    def _request(self, image: ImageLike, alts: tuple[str, ...]) -> CaptionRequest:
        return CaptionRequest(self.preprocessor.pixels(as_rgb(image)), alts)

    def stream(
        self,
        requests: Iterable[CaptionRequest],
        params: CaptionParams | None = None,
        *,
        speculation: Speculation | None = None,
        keep_embeddings: bool = False,
    ) -> Iterator[Caption]:
        """Captions in the order of the requests, each as soon as it and those before it are done.

        Requests are drawn as slots become free: no more than two batches are held at once, or
        three where images are encoded on a device meanwhile. Those of
        a `RequestSource` are waited for only while there is nothing to write. speculation: as for
        `load`; None: as it was given there. keep_embeddings: captions come with theirs.
        """
        self._check_open()
        source = requests if isinstance(requests, RequestSource) else ListedRequests(requests)
        params = params or self.params()
        stream = CaptionStream(
            self._new_engine(speculation or self.speculation),
            self._new_vision(),
            self.config,
            self.tokenizer.asking(params.style, params.prompt),
            params,
            keep_embeddings=keep_embeddings,
        )
        yield from stream.captions(source)

    def _new_engine(self, speculation: Speculation) -> Engine:
        config = self.config
        return Engine(
            self.runtime,
            config.decoder.eos_id,
            config.generation.stop_ids,
            speculation=speculation,
            planner=self._planner,
            stats=self.stats,
        )

    def _new_vision(self) -> VisionStage:
        config = self.config
        tiles = None if config.tiles is None else self.preprocessor.tiles
        return VisionStage(self.runtime, self.stats, config.encoder.embedding_shape, tiles)

    def reset_speculation(self) -> None:
        """Drop what drafting has learnt from captions so far, as if the captioner were just opened.

        For measurements that write the same captions again; captions do not change.
        """
        self._planner = self._new_planner()

    def _new_planner(self) -> DraftPlanner:
        return new_planner(None if self.speculation == "off" else self._drafting_state, self.config)

    def close(self) -> None:
        """Free the runtime; calling it again does nothing."""
        self._closed = True
        self.runtime.close()

    def _check_open(self) -> None:
        if self._closed:
            raise AltogetherError("this captioner is closed: open another one.")

    def __enter__(self) -> Self:
        """Raises AltogetherError if it was closed."""
        self._check_open()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_captioner(
    captioner: ResolvedCaptioner,
    *,
    threads: int | None = None,
    num_slots: int | None = None,
    speculation: Speculation = "auto",
) -> Captioner:
    """Open what `resolve_captioner` found; the options are those of `Captioner.load`."""
    return Captioner(captioner.open(threads=threads, num_slots=num_slots), speculation)
