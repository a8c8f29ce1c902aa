"""altogether-rt itself: a bundle, continuous batching, speculation or not.

options: bundle, pixels; speculation `off` or `auto`; taught: a file of pairs, whose captions are
taken to be written before (`convert/real_pairs.py`).

Random weights soon repeat one token, which drafting predicts at once; real captions are not like
that. With speculation the timed captions are therefore forced to those of the pairs or, where rows
bring none, to random tokens: then no draft token is accepted, and the measurement shows what
speculation costs where it does not help.
"""

from __future__ import annotations

import copy
import itertools
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from adapters.batches import MAX_ALT_TOKENS, Stopwatch, pixels_of
from forced import ForcedRuntime

from altogether_rt.artifacts.bundle import Bundle
from altogether_rt.generation.engine import Engine, EngineStats, SequenceRequest
from altogether_rt.runtime.base import Runtime
from altogether_rt.runtime.select import open_runtime
from altogether_rt.speculation.planner import DraftPlanner
from altogether_rt.speculation.store import teach

__all__ = ["Ours", "load"]

MAX_BATCH = 32
#: No token ends a caption: each row says how long its own is.
NO_ID = -1


class FewerSlots:
    """A runtime of which the first slots are used: one cache for all batch sizes."""

    def __init__(self, runtime: Runtime, num_slots: int) -> None:
        self._runtime = runtime
        self.num_slots = num_slots

    def __getattr__(self, name: str) -> Any:
        return getattr(self._runtime, name)


class Ours:
    """One bundle."""

    def __init__(self, options: dict[str, Any], threads: int) -> None:
        bundle = Bundle.load(options["bundle"])
        self._runtime = open_runtime(bundle, threads=threads, num_slots=MAX_BATCH)
        self._vocab_size = bundle.config.decoder.vocab_size
        self._rng = np.random.default_rng(0)
        self._pad_id = bundle.config.decoder.pad_id
        self._speculation = options["speculation"]
        self._taught = DraftPlanner()
        if "taught" in options:
            for alt_ids, caption_ids in json.loads(Path(options["taught"]).read_text())["taught"]:
                teach(self._taught, alt_ids, caption_ids)
        self.begin()
        self._pixels = pixels_of(options["pixels"])
        self._watch = Stopwatch()
        self._stats = EngineStats()

    @property
    def encode_s(self) -> float:
        return self._watch.seconds

    def begin(self) -> None:
        """Forgets the captions written so far: they may be measured once more."""
        self._planner = copy.deepcopy(self._taught)

    def caption(self, rows: Sequence[Any], batch: int) -> list[list[int]]:
        return self._write(rows, batch, "visual", forced=self._speculation != "off")

    def tokens(self, rows: Sequence[Any], mode: str) -> list[list[int]]:
        return self._write(rows, len(rows), mode)

    def notes(self) -> dict[str, Any]:
        """Acceptance rate of draft tokens, over all captions since it was loaded."""
        if self._speculation == "off":
            return {}
        return {"draft_acceptance": self._stats.acceptance}

    def _write(
        self, rows: Sequence[Any], batch: int, mode: str, *, forced: bool = False
    ) -> list[list[int]]:
        runtime: Any = FewerSlots(self._runtime, batch)
        work = self._work(rows, batch, mode)
        if forced:
            runtime = ForcedRuntime(runtime)
            work = runtime.announce(
                (one, self._given_ids(rows[one.key])) for one in self._work(rows, batch, mode)
            )
        engine = Engine(
            runtime,
            NO_ID,
            speculation=self._speculation,
            planner=self._planner,
            stats=self._stats,
        )
        captions: list[list[int]] = [[]] * len(rows)
        for completion in engine.run(work):
            captions[completion.key] = list(completion.ids)
        return captions

    def _given_ids(self, row: Any) -> Sequence[int]:
        """The row's caption; if it has none, random tokens, others at every call."""
        if row.caption_ids:
            given: Sequence[int] = row.caption_ids
            return given
        ids: list[int] = self._rng.integers(4, self._vocab_size, row.caption_tokens).tolist()
        return ids

    def _work(self, rows: Sequence[Any], batch: int, mode: str) -> Iterator[SequenceRequest]:
        """Encodes a batch at a time, ahead of the decoder, as `Captioner.stream` does."""
        numbered = iter(enumerate(rows))
        while part := list(itertools.islice(numbered, batch)):
            if mode == "stand_in":
                visual = np.zeros((len(part), 0, self._runtime.token_width), np.float32)
            else:
                with self._watch.running():
                    pixels = np.ascontiguousarray(self._pixels[[row.image for _, row in part]])
                    visual = self._runtime.map(self._runtime.encode(pixels))
            for (key, row), tokens in zip(part, visual, strict=True):
                ids = row.alt_ids
                if mode == "stand_in":
                    ids = (*row.stand_in_ids, *ids)
                elif mode == "attended_left":
                    ids = (self._pad_id,) * (MAX_ALT_TOKENS - len(ids)) + tuple(ids)
                yield SequenceRequest(key, tokens, ids, row.caption_tokens, alt_ids=row.alt_ids)


def load(options: dict[str, Any], threads: int) -> Ours:
    return Ours(options, threads)
