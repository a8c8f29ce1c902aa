"""The Python API: a bundle opened for captioning.

from altogether_rt import Captioner

with Captioner.load("starter") as captioner:
    for caption in captioner.caption(["boat.png"], ["our boat Marigold"]):
        print(caption.text)
"""

from __future__ import annotations

import dataclasses
import itertools
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from typing_extensions import Self

from altogether_rt.artifacts.bundle import Bundle, is_checkpoint
from altogether_rt.captions import Caption, CaptionParams, CaptionRequest, EmbeddedImage
from altogether_rt.config import CaptionerConfig
from altogether_rt.data.images import load_image, to_rgb
from altogether_rt.errors import AltogetherError, MissingDependencyError
from altogether_rt.generation.engine import Completion, Engine, EngineStats, SequenceRequest
from altogether_rt.generation.requests import ListedRequests, Recent, RequestSource
from altogether_rt.generation.sampling import row_seed
from altogether_rt.machine.device import find_gpu, has_module, parse_device
from altogether_rt.preprocess import Preprocessor, PromptTokenizer
from altogether_rt.runtime.base import Runtime
from altogether_rt.runtime.select import DEFAULT_SLOTS, load_bundle, open_runtime
from altogether_rt.speculation.planner import DraftPlanner, Speculation
from altogether_rt.speculation.store import new_planner

if TYPE_CHECKING:
    from altogether_rt.runtime.torch.open import Dtype

__all__ = ["Captioner", "caption_params"]

#: Embeddings that a stream remembers, should an image come again: 16 MB of the widest ones.
_EMBEDDINGS_KEPT = 4096

ImageLike = str | Path | Image.Image | NDArray[np.uint8]


@dataclass(frozen=True)
class _Held:
    """What a caption needs besides its tokens."""

    alt_truncated: bool
    seed: int
    embedded: EmbeddedImage


def caption_params(config: CaptionerConfig, **overrides: Any) -> CaptionParams:
    """The defaults of a captioner, with overrides that are not None (`temperature=0`, …).

    Raises AltogetherError for captions that are longer than it has room for.
    """
    limit = config.max_caption_tokens
    defaults = dataclasses.replace(config.generation, max_new_tokens=limit)
    params = CaptionParams.from_config(defaults, **overrides)
    if params.max_new_tokens > limit:
        raise AltogetherError(
            f"max_new_tokens is {params.max_new_tokens}, but this captioner has room for {limit}."
        )
    return params


class Captioner:
    """Writes captions with one bundle on one device."""

    def __init__(
        self,
        config: CaptionerConfig,
        runtime: Runtime,
        tokenizer: PromptTokenizer,
        bundle_id: str,
        speculation: Speculation = "auto",
        drafting_state: Path | None = None,
    ) -> None:
        """drafting_state: file of `altogether-rt learn`. Raises BundleError if it is not valid."""
        self.config = config
        self.runtime = runtime
        self.tokenizer = tokenizer
        self.bundle_id = bundle_id
        self.speculation: Speculation = speculation
        self.preprocessor = Preprocessor(config.encoder)
        self.stats = EngineStats()  # of all captions since it was opened
        self._drafting_state = drafting_state
        self._planner = self._new_planner()

    @classmethod
    def load(
        cls,
        bundle: str | Path | Bundle = "starter",
        *,
        device: str = "auto",
        threads: int | None = None,
        num_slots: int | None = None,
        speculation: Speculation = "auto",
    ) -> Captioner:
        """Opens a bundle: a folder, or `starter`, which ships with the package.

        threads: of the compute kernels, all cores if None. num_slots: captions written at once.
        speculation: whether several tokens, guessed from the alt-text, are verified in a step; it
        changes no caption, and `auto` uses it where it is measured to be faster.
        Raises BundleError if the bundle cannot be used, MissingDependencyError without a runtime.
        """
        if not isinstance(bundle, Bundle) and is_checkpoint(bundle):
            return cls.from_checkpoint(
                bundle, device=device, threads=threads, num_slots=num_slots, speculation=speculation
            )
        opened = bundle if isinstance(bundle, Bundle) else load_bundle(bundle, device)
        config = opened.config
        tokenizer = PromptTokenizer.from_file(
            opened.tokenizer_path, config.prompt, config.decoder.pad_id
        )
        runtime = open_runtime(opened, device=device, threads=threads, num_slots=num_slots)
        return cls(
            config, runtime, tokenizer, opened.bundle_id, speculation, opened.drafting_state_path
        )

    @classmethod
    def from_checkpoint(
        cls,
        checkpoint: str | Path,
        *,
        device: str = "auto",
        dtype: Dtype = "auto",
        threads: int | None = None,
        num_slots: int | None = None,
        speculation: Speculation = "auto",
    ) -> Captioner:
        """Opens a checkpoint as it was trained, with PyTorch: no export, and no parity to lose.

        dtype: of mapper and decoder, `float32`, `float16` or `bfloat16`; `auto` is float16 on a
        GPU, float32 elsewhere. The rest is as for `load`. Raises AltogetherError for what is no
        checkpoint or a device that is not there, MissingDependencyError without PyTorch.
        """
        if parse_device(device).on_gpu:
            find_gpu(parse_device(device))
        for package in ("torch", "safetensors", "open_clip"):
            if not has_module(package):
                raise MissingDependencyError(package, "train", "captioning with a checkpoint")
        from altogether_rt.runtime.torch.open import open_checkpoint

        opened = open_checkpoint(
            Path(checkpoint),
            device=device,
            dtype=dtype,
            threads=threads,
            num_slots=num_slots or DEFAULT_SLOTS,
        )
        config = opened.config
        tokenizer = PromptTokenizer.from_file(
            opened.tokenizer_path, config.prompt, config.decoder.pad_id
        )
        return cls(config, opened.runtime, tokenizer, opened.identity, speculation)

    def params(self, **overrides: Any) -> CaptionParams:
        """The bundle's defaults, with overrides that are not None (`temperature=0`, …)."""
        return caption_params(self.config, **overrides)

    def caption(
        self,
        images: Iterable[ImageLike],
        alts: Iterable[str | Sequence[str] | None] | None = None,
        params: CaptionParams | None = None,
    ) -> list[Caption]:
        """One caption an image, in order. `alts` has one alt-text, several or None an image.

        Raises ImageError for an image that cannot be read, AltogetherError if the lengths differ.
        """
        return list(self.stream(self.requests(images, alts), params))

    def requests(
        self,
        images: Iterable[ImageLike],
        alts: Iterable[str | Sequence[str] | None] | None = None,
    ) -> Iterator[CaptionRequest]:
        """Images and alt-texts as requests for `stream`, read one by one as they are asked for."""
        missing = object()
        pairs: Iterable[tuple[Any, Any]] = (
            ((image, None) for image in images)
            if alts is None
            else itertools.zip_longest(images, alts, fillvalue=missing)
        )
        for image, alt in pairs:
            if image is missing or alt is missing:
                raise AltogetherError("there must be as many alt-texts as images.")
            listed = () if alt is None else (alt,) if isinstance(alt, str) else tuple(alt)
            yield CaptionRequest(self.preprocessor.pixels(_as_rgb(image)), listed)

    def stream(
        self,
        requests: Iterable[CaptionRequest],
        params: CaptionParams | None = None,
        *,
        speculation: Speculation | None = None,
        keep_embeddings: bool = False,
    ) -> Iterator[Caption]:
        """Captions in the order of the requests, each as soon as it and those before it are done.

        Requests are drawn as slots become free: no more than two batches are held at once. Those of
        a `RequestSource` are waited for only while there is nothing to write. speculation: as for
        `load`; None: as it was given there. keep_embeddings: captions come with theirs.
        """
        source = requests if isinstance(requests, RequestSource) else ListedRequests(requests)
        params = params or self.params()
        held: dict[int, _Held] = {}
        done: dict[int, Caption] = {}
        engine = Engine(
            self.runtime,
            self.config.decoder.eos_id,
            self.config.generation.stop_ids,
            speculation=speculation or self.speculation,
            planner=self._planner,
            stats=self.stats,
        )
        next_key = 0
        for completion in engine.run(self._work(source, params, held)):
            done[completion.key] = self._finish(
                completion, held.pop(completion.key), keep_embeddings
            )
            while next_key in done:
                yield done.pop(next_key)
                next_key += 1

    def _work(
        self, source: RequestSource, params: CaptionParams, held: dict[int, _Held]
    ) -> Iterator[SequenceRequest | None]:
        """Encodes and maps what is ready, a batch at a time, ahead of the decoder.

        None while nothing is ready and there are captions to write; without any, it waits.
        """
        keys = itertools.count()
        recent = Recent[bytes, NDArray[np.float32]](_EMBEDDINGS_KEPT)
        while True:
            start_s, idle = time.perf_counter(), not held
            batch = source.take(self.runtime.num_slots, wait=idle)
            if idle:
                self.stats.decode_wait_s += time.perf_counter() - start_s
            if batch is None:
                return
            if not batch:
                yield None
                continue
            contents = [request.content_hash() for request in batch]
            embeddings = self._embed(batch, contents, recent)
            tokens = self._map(embeddings)
            for request, content in zip(batch, contents, strict=True):
                prompt = self.tokenizer.prompt(request.alts)
                seed = row_seed(content, request.alts, params.seed)
                key = next(keys)
                embedded = EmbeddedImage(content, embeddings[content])
                held[key] = _Held(prompt.alt_truncated, seed, embedded)
                yield SequenceRequest(
                    key,
                    tokens[content],
                    prompt.ids,
                    params.max_new_tokens,
                    seed,
                    params.temperature,
                    params.top_p,
                    prompt.alt_ids,
                    embeddings[content],
                )

    def _embed(
        self,
        batch: Sequence[CaptionRequest],
        contents: Sequence[bytes],
        recent: Recent[bytes, NDArray[np.float32]],
    ) -> dict[bytes, NDArray[np.float32]]:
        """Embeddings of a batch by content; the same picture is encoded once."""
        found: dict[bytes, NDArray[np.float32]] = {}
        missing: dict[bytes, NDArray[np.uint8]] = {}
        for request, content in zip(batch, contents, strict=True):
            known = recent.get(content)
            if request.embedded is not None:
                found[content] = request.embedded.embedding
            elif known is not None:
                found[content] = known
            elif request.pixels is not None:
                missing[content] = request.pixels
        if missing:
            start_s = time.perf_counter()
            encoded = self.runtime.encode(np.stack(list(missing.values())))
            self.stats.encode_s += time.perf_counter() - start_s
            for content, embedding in zip(missing, encoded, strict=True):
                found[content] = embedding.copy()  # not a view, which would hold the batch
                recent.put(content, found[content])
        return found

    def _map(
        self, embeddings: dict[bytes, NDArray[np.float32]]
    ) -> dict[bytes, NDArray[np.float32]]:
        start_s = time.perf_counter()
        tokens = self.runtime.map(np.stack(list(embeddings.values())))
        self.stats.map_s += time.perf_counter() - start_s
        return dict(zip(embeddings, tokens, strict=True))

    def _finish(self, completion: Completion, held: _Held, keep_embedding: bool) -> Caption:
        return Caption(
            text=self.tokenizer.decode(completion.ids),
            finish_reason=completion.finish_reason,
            tokens=completion.num_tokens,
            alt_truncated=held.alt_truncated,
            seed=held.seed,
            embedded=held.embedded if keep_embedding else None,
        )

    def reset_speculation(self) -> None:
        """Drop what drafting has learnt from captions so far, as if the captioner were just opened.

        For measurements that write the same captions again; captions do not change.
        """
        self._planner = self._new_planner()

    def _new_planner(self) -> DraftPlanner:
        return new_planner(None if self.speculation == "off" else self._drafting_state, self.config)

    def close(self) -> None:
        """Frees the runtime; calling it again does nothing."""
        self.runtime.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _as_rgb(image: ImageLike) -> Image.Image:
    if isinstance(image, (str, Path)):
        return load_image(Path(image))
    if isinstance(image, Image.Image):
        return to_rgb(image)
    return Image.fromarray(image)
