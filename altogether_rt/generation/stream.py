"""Requests to captions, in order: images mapped, prompts made, tokens generated, texts finished."""

from __future__ import annotations

import itertools
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import TypeVar

from altogether_rt.captions import Caption, CaptionParams, check_params
from altogether_rt.config import CaptionerConfig
from altogether_rt.generation.engine import Completion, Engine, SequenceRequest
from altogether_rt.generation.requests import Recent, RequestSource
from altogether_rt.generation.sampling import row_seed
from altogether_rt.generation.turns import Turn
from altogether_rt.generation.vision import MappedImage, VisionStage
from altogether_rt.preprocess.prompts import PromptTokenizer
from altogether_rt.wording.alt_style import Shortened, page_alt

__all__ = ["CaptionStream"]

_NOT_SHORTENED: Shortened = ""
#: What may separate the repeats of a loop, and ends no caption.
_BETWEEN_REPEATS = " ,;:-\u2013\u2014"
#: Instructions that are kept tokenized, if requests bring their own.
_MAX_PROMPTS = 64

Result = TypeVar("Result")


@dataclass(frozen=True)
class _Held:
    """What a caption needs besides its tokens."""

    params: CaptionParams
    alt_truncated: bool
    seed: int
    image: MappedImage


class CaptionStream:
    """Captions of one source of requests."""

    def __init__(
        self,
        engine: Engine,
        vision: VisionStage,
        config: CaptionerConfig,
        tokenizer: PromptTokenizer,
        params: CaptionParams,
        turn: Turn,
        *,
        keep_embeddings: bool = False,
    ) -> None:
        """Engine and vision stage are those of one runtime. params: of requests without their own.
        turn: the engine's. keep_embeddings: captions come with theirs. Raises AltogetherError if
        there is no room for the instruction of params.
        """
        self._engine = engine
        self._vision = vision
        self._config = config
        self._tokenizer = tokenizer
        self._asking = Recent[tuple[str, str | None], PromptTokenizer](_MAX_PROMPTS)
        self._prompts_of(params)
        self._params = params
        self._keep_embeddings = keep_embeddings
        self._turn = turn
        self._held: dict[int, _Held] = {}  # of the captions being generated

    def captions(self, source: RequestSource) -> Generator[Caption, None, None]:
        """In the order of the requests, each as soon as it and those before it are done.

        Computes in its turn, and gives it up while requests are waited for, and behind each yield.
        """
        return self._in_turn(_in_order(self._completed(source)))

    def as_completed(self, source: RequestSource) -> Generator[tuple[int, Caption], None, None]:
        """Each caption as soon as it is done, with the index of its request; else as `captions`."""
        return self._in_turn(self._completed(source))

    def _in_turn(self, results: Iterator[Result]) -> Generator[Result, None, None]:
        while True:
            with self._turn:
                result = next(results, None)
            if result is None:
                return
            yield result

    def _completed(self, source: RequestSource) -> Iterator[tuple[int, Caption]]:
        sequences = self._sequences(self._turn.drawing(source))
        for completion in self._engine.run(sequences):
            yield completion.key, self._finish(completion, self._held.pop(completion.key))

    def _prompts_of(self, params: CaptionParams) -> PromptTokenizer:
        asked = params.style, params.prompt
        tokenizer = self._asking.get(asked)
        if tokenizer is None:
            tokenizer = self._tokenizer.asking(*asked)
            self._asking.put(asked, tokenizer)
        return tokenizer

    def _sequences(self, source: RequestSource) -> Iterator[SequenceRequest | None]:
        """Sequences of the requests that are ready, encoded and mapped a batch at a time.

        Yields None if none is ready while captions are being generated, and waits otherwise.
        """
        keys = itertools.count()
        for batch in self._vision.batches(source, lambda: not self._held):
            if not batch:
                yield None
                continue
            for request, image in batch:
                own = request.params
                params = self._params if own is None else check_params(self._config, own)
                prompt = self._prompts_of(params).prompt(request.alts)
                seed = row_seed(image.content, request.alts, params.seed)
                key = next(keys)
                self._held[key] = _Held(params, prompt.alt_truncated, seed, image)
                before_ids, *between_ids = self._config.pieces(*image.grid)
                yield SequenceRequest(
                    key,
                    image.visual_tokens,
                    prompt.ids,
                    params.max_new_tokens,
                    seed=seed,
                    temperature=params.temperature,
                    top_p=params.top_p,
                    alt_ids=prompt.alt_ids,
                    embedding=image.pooled,
                    before_ids=before_ids,
                    between_ids=between_ids,
                    loop_repeats=params.loop_repeats,
                )

    def _finish(self, completion: Completion, held: _Held) -> Caption:
        text, shortened = self._tokenizer.decode(completion.ids), _NOT_SHORTENED
        if completion.finish_reason == "loop":
            text = text.rstrip(_BETWEEN_REPEATS)
        if held.params.style == "alt":
            text, shortened = page_alt(text)
        return Caption(
            text=text,
            finish_reason=completion.finish_reason,
            tokens=completion.num_tokens,
            alt_truncated=held.alt_truncated,
            seed=held.seed,
            shortened=shortened,
            embedded=held.image.embedded if self._keep_embeddings else None,
        )


def _in_order(completed: Iterator[tuple[int, Caption]]) -> Iterator[Caption]:
    done: dict[int, Caption] = {}
    next_index = 0
    for index, caption in completed:
        done[index] = caption
        while next_index in done:
            yield done.pop(next_index)
            next_index += 1
