"""Parity: compares what a bundle computes with what the torch reference computes.

The reference runs first and is recorded. Then each graph of the bundle gets the inputs that the
*reference* had, so that a figure describes one graph alone. Reference and bundle need not be in
memory at the same time.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from altogether_rt.errors import AltogetherError
from altogether_rt.export.recipes import STAGES, Threshold
from altogether_rt.export.samples import Samples
from altogether_rt.runtime.base import Runtime, StepBatch
from altogether_rt.runtime.batches import decode_batch, prefill_batch

__all__ = ["Agreement", "ParityError", "Recording", "check_parity", "compare", "record"]

#: Number of decode steps compared, each on the token that the reference chose.
NUM_STEPS = 8

Floats = NDArray[np.float32]


class ParityError(AltogetherError):
    """A graph differs from the checkpoint by more than the recipe allows."""


@dataclass(frozen=True)
class Recording:
    """Inputs and outputs of the reference."""

    samples: Samples
    embeddings: Floats  # (N, E) or (N, patches, E)
    visual_tokens: Floats  # (N, P, W)
    steps: tuple[StepBatch, ...]  # prefill, then decode
    logits: tuple[Floats, ...]  # one array for each step


@dataclass(frozen=True)
class Agreement:
    """How closely two sets of vectors agree."""

    mean_cosine: float
    worst_cosine: float
    max_abs_error: float
    max_abs_reference: float  # largest absolute value of the reference, the error's scale
    rows: int
    greedy: float | None = None  # share of rows with the same argmax; None: not logits


def record(reference: Runtime, samples: Samples) -> Recording:
    """Run the reference on `samples`: encode, map, one ragged prefill, then greedy decode steps."""
    rows = min(len(samples.pixels), reference.num_slots)
    samples = replace(samples, pixels=samples.pixels[:rows], prompt_ids=samples.prompt_ids[:rows])
    embeddings = reference.encode(samples.pixels)
    visual_tokens = reference.map(embeddings)
    batch = prefill_batch(
        visual_tokens, samples.prompt_ids, after_each_token=True, before_ids=samples.before_ids
    )
    steps, logits = [batch], [_logits(reference, batch)]
    ends = np.cumsum([len(ids) + 1 for ids in samples.prompt_ids]) - 1
    chosen = logits[0][ends].argmax(axis=-1)
    lengths = batch.query_lengths
    room = reference.capacity - int(lengths.max())
    for _ in range(min(NUM_STEPS, room)):
        batch = decode_batch(chosen, lengths, visual_tokens.shape[-1])
        steps.append(batch)
        logits.append(_logits(reference, batch))
        chosen, lengths = logits[-1].argmax(axis=-1), lengths + 1
    return Recording(samples, embeddings, visual_tokens, tuple(steps), tuple(logits))


def compare(recording: Recording, candidate: Runtime) -> dict[str, Agreement]:
    """Run `candidate` on the recorded inputs; return its agreement with the reference by stage."""
    embeddings = candidate.encode(recording.samples.pixels)
    visual_tokens = candidate.map(recording.embeddings)
    logits = [_logits(candidate, batch) for batch in recording.steps]
    width = visual_tokens.shape[-1]
    agreements = {
        "encoder": _agreement(_vectors(recording.embeddings), _vectors(embeddings)),
        "mapper": _agreement(
            recording.visual_tokens.reshape(-1, width), visual_tokens.reshape(-1, width)
        ),
        "prefill": _agreement(recording.logits[0], logits[0], greedy=True),
    }
    if len(logits) > 1:
        wanted = np.concatenate(recording.logits[1:])
        agreements["step"] = _agreement(wanted, np.concatenate(logits[1:]), greedy=True)
    return agreements


def check_parity(
    agreements: Mapping[str, Agreement], thresholds: Mapping[str, Threshold]
) -> dict[str, Any]:
    """The figures, as a manifest lists them. Raises ParityError if one is below its threshold."""
    for stage in STAGES:
        if stage not in agreements:
            continue
        found, required = agreements[stage], thresholds[stage]
        # Negated so that NaN fails.
        if not (found.mean_cosine >= required.mean and found.worst_cosine >= required.worst):
            raise ParityError(
                f"the exported {stage} differs from the checkpoint: cosine {found.mean_cosine:.5f} "
                f"(worst row {found.worst_cosine:.5f}), but the recipe requires {required.mean} "
                f"({required.worst}): export for a target of higher precision, such as cpu-fp32."
            )
    return {
        stage: {**asdict(agreements[stage]), "required": asdict(thresholds[stage])}
        for stage in STAGES
        if stage in agreements
    }


def _vectors(embeddings: Floats) -> Floats:
    """Every embedding or patch token as a row."""
    return embeddings.reshape(-1, embeddings.shape[-1])


def _logits(runtime: Runtime, batch: StepBatch) -> Floats:
    logits = runtime.step(batch, want_logits=True).logits
    assert logits is not None
    return logits


def _agreement(wanted: Floats, found: Floats, *, greedy: bool = False) -> Agreement:
    """Compare row by row, (rows, width) each."""
    if wanted.shape != found.shape:
        raise ParityError(f"a graph returned shape {found.shape} instead of {wanted.shape}.")
    a, b = wanted.astype(np.float64), found.astype(np.float64)
    norms = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
    cosines = (a * b).sum(axis=-1) / np.maximum(norms, np.finfo(np.float64).tiny)
    same = float((a.argmax(axis=-1) == b.argmax(axis=-1)).mean()) if greedy else None
    return Agreement(
        mean_cosine=float(cosines.mean()),
        worst_cosine=float(cosines.min()),
        max_abs_error=float(np.abs(a - b).max()),
        max_abs_reference=float(np.abs(a).max()),
        rows=len(a),
        greedy=same,
    )
