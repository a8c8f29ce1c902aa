"""Opens streams of captions over one runtime. What they learn and count, they share."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable, Iterator
from pathlib import Path

from altogether_rt.captions import (
    Answer,
    Caption,
    CaptionParams,
    CaptionRequest,
    caption_params,
    check_params,
)
from altogether_rt.config import CaptionerConfig
from altogether_rt.errors import ImageError
from altogether_rt.generation.engine import Engine, EngineStats
from altogether_rt.generation.requests import ListedRequests, RequestSource
from altogether_rt.generation.stream import CaptionStream
from altogether_rt.generation.turns import Turn, Turns
from altogether_rt.generation.vision import VisionStage
from altogether_rt.preprocess.pixels import Preprocessor
from altogether_rt.preprocess.prompts import PromptTokenizer
from altogether_rt.runtime.base import Runtime
from altogether_rt.speculation.planner import DraftPlanner, Speculation, check_speculation
from altogether_rt.speculation.store import new_planner

__all__ = ["CaptionStreams"]


class CaptionStreams:
    """The streams of one opened captioner."""

    def __init__(
        self,
        config: CaptionerConfig,
        runtime: Runtime,
        tokenizer: PromptTokenizer,
        preprocessor: Preprocessor,
        speculation: Speculation,
        drafting_state: Path | None,
    ) -> None:
        """drafting_state: what earlier captions have taught; raises BundleError if it is not."""
        self.turns = Turns(runtime)
        self.stats = EngineStats()  # of all captions since it was opened
        self.speculation: Speculation = check_speculation(speculation)
        self._config = config
        self._runtime = runtime
        self._tokenizer = tokenizer
        self._tiles = None if config.tiles is None else preprocessor.tiles
        self._drafting_state = drafting_state
        self._planner = self._new_planner()

    def open(
        self,
        source: RequestSource,
        params: CaptionParams | None,
        turn: Turn | None = None,
        *,
        speculation: Speculation | None = None,
        keep_embeddings: bool = False,
    ) -> Generator[Caption, None, None]:
        """Captions of `source`, in order.

        params: of requests without their own; None: the captioner's. turn: one that may be held
        already. The others are as for `Captioner.stream`. Raises AltogetherError if this is closed,
        and for parameters that do not fit.
        """
        stream = self._new_stream(params, turn, speculation, keep_embeddings=keep_embeddings)
        return stream.captions(source)

    def as_completed(self, source: RequestSource) -> Generator[tuple[int, Caption], None, None]:
        """Captions of `source` as they are done, each with the index of its request."""
        return self._new_stream().as_completed(source)

    def check(self, params: CaptionParams | None) -> None:
        """Raises what `open` does, and AltogetherError if there is no room for the instruction."""
        self.turns.check_open()
        if params is not None:
            check_params(self._config, params)
            self._tokenizer.asking(params.style, params.prompt)

    def _new_stream(
        self,
        params: CaptionParams | None = None,
        turn: Turn | None = None,
        speculation: Speculation | None = None,
        *,
        keep_embeddings: bool = False,
    ) -> CaptionStream:
        self.turns.check_open()
        config = self._config
        params = caption_params(config) if params is None else check_params(config, params)
        turn = self.turns.new() if turn is None else turn
        mode = self.speculation if speculation is None else check_speculation(speculation)
        return CaptionStream(
            self._new_engine(mode, turn),
            VisionStage(self._runtime, self.stats, config.encoder.embedding_shape, self._tiles),
            config,
            self._tokenizer,
            params,
            turn,
            keep_embeddings=keep_embeddings,
        )

    def answers(
        self,
        requests: Iterable[CaptionRequest | ImageError],
        params: CaptionParams | None,
        turn: Turn,
    ) -> Generator[Answer, None, None]:
        """Captions of `requests`, each error in its row; in order."""
        pending: deque[ImageError | None] = deque()  # None waits for its caption

        def readable() -> Iterator[CaptionRequest]:
            for request in requests:
                if isinstance(request, ImageError):
                    pending.append(request)
                else:
                    pending.append(None)
                    yield request

        return _in_order(self.open(ListedRequests(readable()), params, turn), pending)

    def _new_engine(self, speculation: Speculation, turn: Turn) -> Engine:
        return Engine(
            self._runtime,
            self._config.decoder.eos_id,
            self._config.generation.stop_ids,
            speculation=speculation,
            planner=self._planner,
            stats=self.stats,
            turn=turn,
        )

    def reset_speculation(self) -> None:
        """Drop what drafting has learnt from captions since this was opened."""
        self._planner = self._new_planner()

    def _new_planner(self) -> DraftPlanner:
        state = None if self.speculation == "off" else self._drafting_state
        return new_planner(state, self._config)

    def close(self) -> None:
        """Free the runtime once nothing is computed; calling it again does nothing."""
        self.turns.close(self._runtime.close)


def _in_order(
    captions: Iterator[Caption], pending: deque[ImageError | None]
) -> Generator[Answer, None, None]:
    for caption in captions:
        while (error := pending.popleft()) is not None:
            yield error
        yield caption
    yield from filter(None, pending)
