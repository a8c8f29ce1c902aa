"""The Python API: a captioner, opened and ready."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import Literal, Self, TypeAlias, Unpack, get_args, overload

from altogether_rt.artifacts.bundle import Bundle
from altogether_rt.captions import (
    Caption,
    CaptionParams,
    CaptionRequest,
    ParamOverrides,
    caption_params,
)
from altogether_rt.data.inputs import AltsLike, ImageLike, as_rgb, image_pair, image_pairs
from altogether_rt.errors import AltogetherError, ImageError, without_frames
from altogether_rt.generation.requests import as_source
from altogether_rt.generation.streams import CaptionStreams
from altogether_rt.generation.submissions import Submissions
from altogether_rt.generation.turns import Turn
from altogether_rt.opening import (
    CaptionerParts,
    Dtype,
    KVCacheType,
    ResolvedCaptioner,
    resolve_captioner,
)
from altogether_rt.preprocess.pixels import Preprocessor
from altogether_rt.speculation.planner import Speculation

__all__ = ["Captioner", "OnError", "open_captioner"]

#: What an image that cannot be read does: raise its ImageError, or stand in its row.
OnError: TypeAlias = Literal["raise", "row"]


class Captioner:
    """Captions images with one bundle or checkpoint on one device. Made by `Captioner.load`.

    >>> with Captioner.load("starter") as captioner:
    ...     for caption in captioner.caption(["boat.png"], ["our boat Marigold"]):
    ...         print(caption.text)

    Threads may share it: what they `submit` is captioned together; otherwise it computes for one
    caller at a time, and the others wait. In another process it is opened again: a pickle has its
    name and options, not its weights.

    Attributes: `bundle_id` (12 hex digits of what was opened), `config`, `stats` (seconds and
    tokens of all captions since it was opened).
    """

    def __init__(self, parts: CaptionerParts, speculation: Speculation = "auto") -> None:
        """Raises BundleError if the file of what earlier captions have taught is not one."""
        config, runtime, tokenizer = parts.config, parts.runtime, parts.tokenizer
        self.config, self.runtime, self.tokenizer = config, runtime, tokenizer
        self.bundle_id = parts.bundle_id
        self.preprocessor = Preprocessor(config.encoder, config.tiles)
        self._streams = CaptionStreams(
            config, runtime, tokenizer, self.preprocessor, speculation, parts.drafting_state
        )
        self._submissions = Submissions(self._streams.as_completed, 2 * runtime.num_slots)
        self.stats = self._streams.stats
        self._open_again: Callable[[], Captioner] | None = None  # in another process

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

    def params(self, **overrides: Unpack[ParamOverrides]) -> CaptionParams:
        """The captioner's defaults, with overrides that are not None (`temperature=0`, …).

        They are those of `CaptionParams`: max_new_tokens, temperature, top_p, seed, loop_repeats,
        style and prompt. Raises AltogetherError for what is out of range, for captions that are
        longer than it has room for, and for a prompt if it follows no instructions.
        """
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
        on_error: OnError = "raise",
    ) -> list[Caption] | list[Caption | ImageError]:
        """One caption per image, in order. `alts` has one alt-text, several or None per image.

        A single image may stand by itself, with its alt-texts; the list then has one caption.
        on_error: what an image that cannot be read does: `raise` its ImageError, or stand in its
        row of the result while the others are captioned. Raises AltogetherError if the numbers of
        images and alt-texts differ, or the captioner was closed.
        """
        with self._streams.turns.new() as turn:  # for all of them, but for the reading of images
            return list(self._captions(images, alts, params, on_error, turn))

    @overload
    def iter_captions(
        self,
        images: ImageLike | Iterable[ImageLike],
        alts: AltsLike | Iterable[AltsLike] = None,
        params: CaptionParams | None = None,
        *,
        on_error: Literal["raise"] = "raise",
    ) -> Generator[Caption, None, None]: ...

    @overload
    def iter_captions(
        self,
        images: ImageLike | Iterable[ImageLike],
        alts: AltsLike | Iterable[AltsLike] = None,
        params: CaptionParams | None = None,
        *,
        on_error: Literal["row"],
    ) -> Generator[Caption | ImageError, None, None]: ...

    def iter_captions(
        self,
        images: ImageLike | Iterable[ImageLike],
        alts: AltsLike | Iterable[AltsLike] = None,
        params: CaptionParams | None = None,
        *,
        on_error: OnError = "raise",
    ) -> Generator[Caption | ImageError, None, None]:
        """What `caption` returns, one at a time: images are drawn as captions are taken, two
        batches ahead at most. Raises what `caption` does.
        """
        return self._captions(images, alts, params, on_error, self._streams.turns.new())

    def _captions(
        self,
        images: ImageLike | Iterable[ImageLike],
        alts: AltsLike | Iterable[AltsLike],
        params: CaptionParams | None,
        on_error: OnError,
        turn: Turn,
    ) -> Generator[Caption | ImageError, None, None]:
        if on_error not in get_args(OnError):
            raise AltogetherError(f"on_error is raise or row, not {on_error!r}.")

        def read() -> Iterator[CaptionRequest | ImageError]:
            for image, listed in image_pairs(images, alts):
                answer: CaptionRequest | ImageError
                try:
                    answer = self._request(image, listed)
                except ImageError as error:
                    if on_error == "raise":
                        raise
                    answer = without_frames(error)
                yield answer

        return self._streams.answers(read(), params, turn)

    def submit(
        self, image: ImageLike, alts: AltsLike = None, params: CaptionParams | None = None
    ) -> Future[Caption]:
        """The caption of one image, to come: for callers that share a captioner.

        What several have submitted is captioned together, at the speed of a batch; each is done as
        soon as it can be. The image is read in another thread: do not change or close it meanwhile.
        An ImageError is raised by `result()`. Raises AltogetherError for what is no image,
        parameters that do not fit, and a closed captioner.
        """
        self._streams.check(params)
        one, listed = image_pair(image, alts)
        return self._submissions.submit(
            lambda: dataclasses.replace(self._request(one, listed), params=params)
        )

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
    ) -> Generator[Caption, None, None]:
        """Captions in the order of the requests, each as soon as it and those before it are done.

        Requests are drawn as slots become free: no more than two batches are held at once, or
        three where images are encoded on a device meanwhile. Those of a `RequestSource` are waited
        for only while there is nothing to write. speculation: as for `load`; None: as it was given
        there. keep_embeddings: captions come with theirs. Raises AltogetherError if the captioner
        was closed, or for what is not a request or has parameters that do not fit.
        """
        return self._streams.open(
            as_source(requests, self.preprocessor.shape),
            params,
            speculation=speculation,
            keep_embeddings=keep_embeddings,
        )

    def reset_speculation(self) -> None:
        """Drop what drafting has learnt from captions so far, as if the captioner were just opened.

        For measurements that write the same captions again; captions do not change.
        """
        self._streams.reset_speculation()

    def close(self) -> None:
        """Free the runtime, once what was submitted is captioned and no thread computes; calling it
        again does nothing.
        """
        self._close()

    def _close(self, *, drop: bool = False) -> None:
        self._submissions.close(drop=drop, wait=not self._streams.turns.held_here)
        self._streams.close()

    def __enter__(self) -> Self:
        """Raises AltogetherError if it was closed."""
        self._streams.turns.check_open()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._close(drop=kind is not None)  # nobody is left to ask for what was submitted

    def __repr__(self) -> str:
        state = "closed" if self._streams.turns.closed else f"on {self.runtime.device}"
        return f"<Captioner {self.config.name}, {self.bundle_id}, {state}>"

    def __reduce__(self) -> tuple[Callable[[], Captioner], tuple[()]]:
        """For another process, in which it is opened again. So a copy is another captioner.

        Raises TypeError for one that was not opened by its name or path.
        """
        if self._open_again is None:
            raise TypeError("a captioner that was made from parts cannot be pickled.")
        return self._open_again, ()


def open_captioner(
    captioner: ResolvedCaptioner,
    *,
    threads: int | None = None,
    num_slots: int | None = None,
    speculation: Speculation = "auto",
) -> Captioner:
    """Open what `resolve_captioner` found; the options are those of `Captioner.load`."""
    opened = Captioner(captioner.open(threads=threads, num_slots=num_slots), speculation)
    opened._open_again = partial(_open_again, captioner, threads, num_slots, speculation)
    return opened


def _open_again(
    captioner: ResolvedCaptioner, threads: int | None, num_slots: int | None, mode: Speculation
) -> Captioner:
    found = captioner.resolve_same()
    return open_captioner(found, threads=threads, num_slots=num_slots, speculation=mode)
