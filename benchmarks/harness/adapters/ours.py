"""altogether-rt itself: a bundle or a checkpoint, continuous batching, speculation or not.

options: bundle, or checkpoint and dtype; pixels; device (auto); slots: captions written at once, at
most (32); verify_hashes (true); speculation `off` (default) or `auto`; taught: a file of pairs,
whose captions count as written before (`convert/real_pairs.py`); recording: a file of what the
reference answers (`gpu/tasks.py`), for `check`.

Random weights soon repeat one token, which drafts predict at once; real captions are not like that.
With speculation the timed captions are therefore forced to those of the pairs or, where rows bring
none, to random tokens: then no draft token is accepted, and what is measured is the cost of
drafting where it does not help.
"""

from __future__ import annotations

import copy
import dataclasses
import itertools
import json
import operator
import pickle
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from forced import ForcedRuntime

from altogether_rt.artifacts.bundle import Bundle
from altogether_rt.bench.timing import measure
from altogether_rt.generation.engine import Engine, EngineStats, SequenceRequest
from altogether_rt.opening import CaptionerParts, resolve_captioner
from altogether_rt.runtime.base import Array, Runtime, stack_arrays, wait_for
from altogether_rt.runtime.batches import decode_batch, prefill_batch
from altogether_rt.speculation.planner import DraftPlanner
from altogether_rt.speculation.store import teach
from harness.adapter import Adapter, need_torch
from harness.adapters.batches import Stopwatch, pixels_of

__all__ = ["Ours", "num_prefilled", "open_captioner_parts"]

MAX_BATCH = 32
#: No token has this id: a caption ends when it has the length that its row brings.
NO_ID = -1
#: Seconds for measuring each stage; more where two runs take longer.
STAGE_BUDGET_S = 0.5
#: Captions that are also written by themselves.
WRITTEN_ALONE = 4


class FewerSlots:
    """A runtime of which only the first slots are used: one cache for all batch sizes."""

    def __init__(self, runtime: Runtime, num_slots: int) -> None:
        self._runtime = runtime
        self.num_slots = num_slots

    def __getattr__(self, name: str) -> Any:
        return getattr(self._runtime, name)


class Ours(Adapter):
    """One bundle or checkpoint."""

    def prepare(self, options: dict[str, Any]) -> None:
        if "checkpoint" in options:
            need_torch(options.get("device", "cpu"))

    def load(self, options: dict[str, Any], threads: int | None) -> dict[str, Any]:
        parts = self.open(options, threads)
        self._runtime, self._config = parts.runtime, parts.config
        self._rng = np.random.default_rng(0)
        self._speculation = options.get("speculation", "off")
        self._taught = DraftPlanner()
        if "taught" in options:
            for alt_ids, caption_ids in json.loads(Path(options["taught"]).read_text())["taught"]:
                teach(self._taught, alt_ids, caption_ids)
        self._recording = options.get("recording")
        self._pixels = pixels_of(options["pixels"])
        self._watch = Stopwatch()
        self._stats = EngineStats()
        self.begin()
        return {"runs_on": self._runtime.device}

    def open(self, options: dict[str, Any], threads: int | None) -> CaptionerParts:
        """What is measured; subclasses open something else."""
        return open_captioner_parts(options, threads)

    @property
    def encode_s(self) -> float:  # type: ignore[override]
        return self._watch.seconds

    def begin(self) -> None:
        """Forget the captions written so far, as the same ones may be measured again."""
        self._planner = copy.deepcopy(self._taught)

    def check(self) -> dict[str, Any]:
        """`parity`, where a reference was recorded in this run."""
        if self._recording is None or not Path(self._recording).is_file():
            return {}
        from altogether_rt.export.verify import compare

        agreements = compare(pickle.loads(Path(self._recording).read_bytes()), self._runtime)
        return {"parity": {stage: dataclasses.asdict(found) for stage, found in agreements.items()}}

    def run(self, rows: Sequence[Any], batch: int) -> list[list[int]]:
        return self._write(rows, batch, "visual", forced=self._speculation != "off")

    def tokens(self, rows: Sequence[Any], mode: str) -> list[list[int]]:
        return self._write(rows, len(rows), mode)

    def notes(self) -> dict[str, Any]:
        """Acceptance rate of all captions since it was loaded."""
        if self._speculation == "off":
            return {}
        return {"draft_acceptance": self._stats.acceptance}

    def stages(self, rows: Sequence[Any]) -> dict[str, Any]:
        """Milliseconds of each stage by itself, for all `rows` at once: the prefill of those that
        one step may bring, a decode step in the middle of the captions. And how many captions are
        as when each is written by itself."""
        runtime, decoder = self._runtime, self._config.decoder
        pixels = np.ascontiguousarray(self._pixels[[row.image for row in rows]])
        embeddings = runtime.encode(pixels)
        visual = runtime.map(embeddings)
        together = num_prefilled([row.prompt_tokens for row in rows], runtime.prefill_tokens)
        prefill = prefill_batch(
            stack_arrays([visual[row] for row in range(together)]),
            [row.alt_ids for row in rows[:together]],
        )
        past = [row.prompt_tokens + row.caption_tokens // 2 for row in rows]
        tokens = [decoder.vocab_size // 2] * len(rows)
        decode = decode_batch(tokens, past, decoder.token_width)
        actions = {
            "encoder_ms": lambda: wait_for(runtime.encode(pixels)),
            "mapper_ms": lambda: wait_for(runtime.map(embeddings)),
            "prefill_ms": lambda: runtime.step(prefill),
            "decode_step_ms": lambda: runtime.step(decode),
        }
        times = {
            name: measure(action, budget_s=STAGE_BUDGET_S, min_repeats=2).p50_s
            for name, action in actions.items()
        }
        return {
            **{name: round(1000 * seconds, 4) for name, seconds in times.items()},
            "prefill_rows": together,
            "tokens_per_s": round(len(rows) / times["decode_step_ms"], 1),
            "as_alone": self._as_alone(rows),
        }

    def close(self) -> None:
        self._runtime.close()

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
        """The row's caption; if it has none, random tokens, other ones at every call."""
        if row.caption_ids:
            given: Sequence[int] = row.caption_ids
            return given
        vocab_size = self._config.decoder.vocab_size
        ids: list[int] = self._rng.integers(4, vocab_size, row.caption_tokens).tolist()
        return ids

    def _work(self, rows: Sequence[Any], batch: int, mode: str) -> Iterator[SequenceRequest]:
        """Encodes a batch at a time, ahead of the decoder, as `Captioner.stream` does: on a device
        that computes while this goes on, the next one is begun before this one is handed out."""
        pad_id, max_alt = self._config.decoder.pad_id, self._config.prompt.max_alt_tokens
        numbered = iter(enumerate(rows))
        following = None
        while (mapped := following or self._mapped(numbered, batch, mode)) is not None:
            part, visual = mapped
            on_device = not isinstance(visual, np.ndarray)
            following = self._mapped(numbered, batch, mode) if on_device else None
            for (key, row), tokens in zip(part, visual, strict=True):
                ids = row.alt_ids
                if mode == "stand_in":
                    ids = (*row.stand_in_ids, *ids)
                elif mode == "attended_left":
                    ids = (pad_id,) * (max_alt - len(ids)) + tuple(ids)
                yield SequenceRequest(key, tokens, ids, row.caption_tokens, alt_ids=row.alt_ids)

    def _mapped(
        self, numbered: Iterator[tuple[int, Any]], batch: int, mode: str
    ) -> tuple[list[tuple[int, Any]], Array] | None:
        """The next rows with their numbers, and their visual tokens; None if there are no more."""
        part = list(itertools.islice(numbered, batch))
        if not part:
            return None
        if mode == "stand_in":
            return part, np.zeros((len(part), 0, self._runtime.token_width), np.float32)
        with self._watch.running():
            pixels = np.ascontiguousarray(self._pixels[[row.image for _, row in part]])
            return part, self._runtime.map(self._runtime.encode(pixels))

    def _as_alone(self, rows: Sequence[Any]) -> float:
        """Share of captions that are the same when written by themselves: products of another
        number of rows may be rounded otherwise, which now and then changes a token."""
        together = self.run(rows, len(rows))
        alone = [self.run([row], 1)[0] for row in rows[:WRITTEN_ALONE]]
        return sum(map(operator.eq, alone, together)) / len(alone)


def open_captioner_parts(options: dict[str, Any], threads: int | None) -> CaptionerParts:
    """Open the bundle or checkpoint of `options`."""
    captioner: str | Bundle = options.get("checkpoint") or options["bundle"]
    if not options.get("verify_hashes", True):
        captioner = Bundle.load(options["bundle"], verify_hashes=False)
    resolved = resolve_captioner(
        captioner, device=options.get("device", "auto"), dtype=options.get("dtype", "auto")
    )
    return resolved.open(threads=threads, num_slots=options.get("slots", MAX_BATCH))


def num_prefilled(prompt_lengths: Sequence[int], prefill_tokens: int) -> int:
    """Prompts that one step may bring: so many tokens, and one prompt more where these are not yet
    reached."""
    ends = np.cumsum(prompt_lengths)
    return min(int(np.searchsorted(ends, prefill_tokens)) + 1, len(prompt_lengths))
