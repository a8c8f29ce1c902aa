"""Times the stages of captioning, each by itself and all together."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from altogether_rt.bench.cost import Cost
from altogether_rt.bench.inputs import BenchInputs, admitted_parts
from altogether_rt.bench.roofline import decoder_cost, mapper_cost, schedule_cost
from altogether_rt.bench.timing import Timing, measure
from altogether_rt.bench.vision_cost import encoder_cost
from altogether_rt.captioner import Captioner
from altogether_rt.generation.engine import STAGE_SECONDS
from altogether_rt.runtime.base import stack_arrays, wait_for
from altogether_rt.runtime.batches import decode_batch, prefill_batch

__all__ = ["STAGES", "StageResult", "StageRunner"]

STAGES = ("encoder", "mapper", "prefill", "decode", "whole")


@dataclass(frozen=True)
class StageResult:
    """One stage at one batch size."""

    stage: str
    batch: int  # rows of a call: images, or captions in progress
    timing: Timing
    tokens: int  # decoder tokens that a call reads (prefill) or writes (decode, whole)
    #: Cost of each call of the decoder or graph, in sequence; None if the configuration does not
    #: describe the model.
    costs: tuple[Cost, ...] | None
    #: Only for `whole`: tokens per row and step, and the acceptance rate of draft tokens.
    tokens_per_decode: float | None = None
    acceptance: float | None = None
    #: Only for `whole`: seconds per call by stage, named as in `caption --json`.
    stage_s: Mapping[str, float] | None = None

    @property
    def rows_per_s(self) -> float:
        return self.batch / self.timing.p50_s

    @property
    def tokens_per_s(self) -> float | None:
        return self.tokens / self.timing.p50_s if self.tokens else None


@dataclass(frozen=True)
class StageRunner:
    """Times stages of an open captioner."""

    captioner: Captioner
    inputs: BenchInputs
    weight_bytes: int  # per weight
    cache_bytes: int  # per number in the decoder's cache
    new_tokens: int  # maximum tokens of a caption
    budget_s: float  # per measurement; exceeded if `min_repeats` runs take longer
    min_repeats: int = 3
    layer_bytes: float | None = None  # per weight of the decoder's layers; None: as the others

    def run(self, stage: str, batch: int) -> StageResult:
        """Time `stage`, one of STAGES, with `batch` rows."""
        stages: dict[str, Callable[[int], StageResult]] = {
            "encoder": self._encoder,
            "mapper": self._mapper,
            "prefill": self._prefill,
            "decode": self._decode,
            "whole": self._whole,
        }
        return stages[stage](batch)

    def _measure(
        self, action: Callable[[], object], before: Callable[[], object] = lambda: None
    ) -> Timing:
        return measure(action, budget_s=self.budget_s, min_repeats=self.min_repeats, before=before)

    def _encoder(self, batch: int) -> StageResult:
        runtime, pixels = self.captioner.runtime, self.inputs.pixels(batch)
        timing = self._measure(lambda: wait_for(runtime.encode(pixels)))
        cost = encoder_cost(self.captioner.config.encoder, batch, self.weight_bytes)
        return StageResult("encoder", batch, timing, 0, None if cost is None else (cost,))

    def _mapper(self, batch: int) -> StageResult:
        config, runtime = self.captioner.config, self.captioner.runtime
        rng = np.random.default_rng(batch)
        shape = (batch, *config.encoder.embedding_shape)
        embeddings = rng.standard_normal(shape, np.float32)
        embeddings /= np.linalg.norm(embeddings, axis=-1, keepdims=True)
        timing = self._measure(lambda: wait_for(runtime.map(embeddings)))
        cost = mapper_cost(config, batch, self.weight_bytes)
        return StageResult("mapper", batch, timing, 0, (cost,))

    def _prefill(self, batch: int) -> StageResult:
        decoder, runtime = self.captioner.config.decoder, self.captioner.runtime
        visual = runtime.map(runtime.encode(self.inputs.pixels(batch)))
        lengths = self.inputs.prompt_lengths(batch)
        parts = admitted_parts(lengths, runtime.prefill_tokens)
        before = self.captioner.config.prompt.before_ids
        calls = [
            prefill_batch(
                stack_arrays([visual[row] for row in range(batch)[part]]),
                self.inputs.prompts[part],
                before_ids=before,
            )
            for part in parts
        ]
        timing = self._measure(lambda: [runtime.step(call) for call in calls])
        costs = tuple(
            decoder_cost(
                decoder,
                lengths[part],
                [0] * len(lengths[part]),
                len(lengths[part]),
                *self._sizes,
            )
            for part in parts
        )
        return StageResult("prefill", batch, timing, sum(lengths), costs)

    @property
    def _sizes(self) -> tuple[int, int, float | None]:
        return self.weight_bytes, self.cache_bytes, self.layer_bytes

    def _decode(self, batch: int) -> StageResult:
        """A step in the middle of a caption."""
        decoder, runtime = self.captioner.config.decoder, self.captioner.runtime
        past = [length + self.new_tokens // 2 for length in self.inputs.prompt_lengths(batch)]
        past = [min(length, runtime.capacity - 1) for length in past]
        call = decode_batch([decoder.vocab_size // 2] * batch, past, decoder.token_width)
        timing = self._measure(lambda: runtime.step(call))
        cost = decoder_cost(decoder, [1] * batch, past, batch, *self._sizes)
        return StageResult("decode", batch, timing, batch, (cost,))

    def _whole(self, batch: int) -> StageResult:
        """Pixels to captions, greedy; the captions decide their own lengths."""
        captioner, requests = self.captioner, self.inputs.requests[:batch]
        params = captioner.params(temperature=0.0, max_new_tokens=self.new_tokens)

        def write() -> list[int]:
            return [caption.tokens for caption in captioner.stream(requests, params)]

        captioner.reset_speculation()
        captioner.stats.clear()
        tokens = write()
        stats = replace(captioner.stats)  # a copy
        captioner.stats.clear()
        # Otherwise later runs would know the captions of the first.
        timing = self._measure(write, before=captioner.reset_speculation)
        num_runs = len(timing.times_s) + 1  # including the warm-up
        encoder = encoder_cost(captioner.config.encoder, batch, self.weight_bytes)
        costs = None
        if encoder is not None:
            decoder = schedule_cost(
                captioner.config.decoder,
                self.inputs.prompt_lengths(batch),
                tokens,
                *self._sizes,
            )
            costs = (encoder, mapper_cost(captioner.config, batch, self.weight_bytes), *decoder)
        runs = captioner.stats
        return StageResult(
            "whole",
            batch,
            timing,
            sum(tokens),
            costs,
            stats.tokens_per_decode,
            stats.acceptance,
            {name: getattr(runs, name) / num_runs for name in STAGE_SECONDS},
        )
