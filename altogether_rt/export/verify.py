"""Parity: what a bundle computes against what the torch reference computes.

The reference runs first and is recorded, then the bundle is given the same inputs, graph by graph:
each graph sees the *reference's* inputs, so a figure speaks of one graph alone. Reference and
bundle need not be in memory together.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from altogether_rt.errors import AltogetherError
from altogether_rt.export.recipes import STAGES, Threshold
from altogether_rt.export.samples import Samples
from altogether_rt.runtime.base import Runtime, StepBatch

__all__ = ["Agreement", "ParityError", "Recording", "check_parity", "compare", "record"]

#: Decode steps compared, each on the token that the reference chose.
NUM_STEPS = 8

Floats = NDArray[np.float32]


class ParityError(AltogetherError):
    """The graphs do not compute what the checkpoint does."""


@dataclass(frozen=True)
class Recording:
    """What the reference was given and what it answered."""

    samples: Samples
    embeddings: Floats  # (N, E)
    visual_tokens: Floats  # (N, P, W)
    steps: tuple[StepBatch, ...]  # prefill, then decode
    logits: tuple[Floats, ...]  # one array a step


@dataclass(frozen=True)
class Agreement:
    """How close two sets of vectors are."""

    mean_cosine: float
    worst_cosine: float
    max_abs_error: float
    max_abs_reference: float  # what the error is to be seen against
    rows: int
    greedy: float | None = None  # share of equal most likely tokens; None where there are none


def record(reference: Runtime, samples: Samples) -> Recording:
    """Run the reference over `samples`: encode, map, one ragged prefill, then greedy steps."""
    rows = min(len(samples.pixels), reference.num_slots)
    samples = Samples(samples.pixels[:rows], samples.prompt_ids[:rows], samples.origin)
    embeddings = reference.encode(samples.pixels)
    visual_tokens = reference.map(embeddings)
    batch = _prefill(visual_tokens, samples.prompt_ids)
    steps, logits = [batch], [_logits(reference, batch)]
    ends = np.cumsum([len(ids) + 1 for ids in samples.prompt_ids]) - 1
    chosen = logits[0][ends].argmax(axis=-1)
    lengths = batch.query_lengths
    room = reference.capacity - int(lengths.max())
    for _ in range(min(NUM_STEPS, room)):
        batch = _decode(chosen, lengths, visual_tokens.shape[-1])
        steps.append(batch)
        logits.append(_logits(reference, batch))
        chosen, lengths = logits[-1].argmax(axis=-1), lengths + 1
    return Recording(samples, embeddings, visual_tokens, tuple(steps), tuple(logits))


def compare(recording: Recording, candidate: Runtime) -> dict[str, Agreement]:
    """Give `candidate` the recorded inputs; its agreement with the reference, by stage."""
    embeddings = candidate.encode(recording.samples.pixels)
    visual_tokens = candidate.map(recording.embeddings)
    answers = [_logits(candidate, batch) for batch in recording.steps]
    width = visual_tokens.shape[-1]
    agreements = {
        "encoder": _agreement(recording.embeddings, embeddings),
        "mapper": _agreement(
            recording.visual_tokens.reshape(-1, width), visual_tokens.reshape(-1, width)
        ),
        "prefill": _agreement(recording.logits[0], answers[0], greedy=True),
    }
    if len(answers) > 1:
        wanted = np.concatenate(recording.logits[1:])
        agreements["step"] = _agreement(wanted, np.concatenate(answers[1:]), greedy=True)
    return agreements


def check_parity(
    agreements: Mapping[str, Agreement], thresholds: Mapping[str, Threshold]
) -> dict[str, Any]:
    """The figures as a manifest lists them. Raises ParityError for a figure below its threshold."""
    for stage in STAGES:
        if stage not in agreements:
            continue
        found, least = agreements[stage], thresholds[stage]
        # Written so that a NaN fails.
        if not (found.mean_cosine >= least.mean and found.worst_cosine >= least.worst):
            raise ParityError(
                f"the exported {stage} differs from the checkpoint: cosine {found.mean_cosine:.5f} "
                f"(worst row {found.worst_cosine:.5f}), where the recipe asks for {least.mean} "
                f"({least.worst}); export with a target of higher precision, such as cpu-fp32."
            )
    return {
        stage: {**asdict(agreements[stage]), "required": asdict(thresholds[stage])}
        for stage in STAGES
        if stage in agreements
    }


def _prefill(visual_tokens: Floats, prompt_ids: tuple[tuple[int, ...], ...]) -> StepBatch:
    """All prompts in one ragged call; logits wanted behind the last visual and each text token."""
    rows, places, width = visual_tokens.shape
    lengths = np.array([places + len(ids) for ids in prompt_ids], np.int32)
    starts = np.cumsum(lengths) - lengths
    token_ids = np.concatenate([np.array([0] * places + list(ids)) for ids in prompt_ids])
    visual_index = (starts[:, None] + np.arange(places)).reshape(-1)
    wanted = [
        np.arange(start + places - 1, start + length)
        for start, length in zip(starts, lengths, strict=True)
    ]
    return StepBatch(
        token_ids=token_ids.astype(np.int64),
        query_lengths=lengths,
        past_lengths=np.zeros(rows, np.int32),
        visual_tokens=np.ascontiguousarray(visual_tokens.reshape(-1, width)),
        visual_index=visual_index.astype(np.int64),
        logit_index=np.concatenate(wanted).astype(np.int64),
    )


def _decode(token_ids: NDArray[np.int64], lengths: NDArray[np.int32], width: int) -> StepBatch:
    rows = len(token_ids)
    return StepBatch(
        token_ids=token_ids.astype(np.int64),
        query_lengths=np.ones(rows, np.int32),
        past_lengths=lengths,
        visual_tokens=np.zeros((0, width), np.float32),
        visual_index=np.zeros(0, np.int64),
        logit_index=np.arange(rows, dtype=np.int64),
    )


def _logits(runtime: Runtime, batch: StepBatch) -> Floats:
    logits = runtime.step(batch, want_logits=True).logits
    assert logits is not None
    return logits


def _agreement(wanted: Floats, found: Floats, *, greedy: bool = False) -> Agreement:
    """Compare row by row, (rows, width) each."""
    if wanted.shape != found.shape:
        raise ParityError(f"a graph answers with shape {found.shape} instead of {wanted.shape}.")
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
