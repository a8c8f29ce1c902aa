"""Parity: compares what a bundle computes with what the torch reference computes.

The reference runs first and is recorded. Then each graph of the bundle gets the inputs that the
*reference* had, so that a figure describes one graph alone. Reference and bundle need not be in
memory at the same time.

Vectors are compared by their cosine. Logits are compared as what they are for: distributions of the
next token, by their Kullback-Leibler divergence, and by the likelihood of the alt-texts. Softmax
ignores the mean of a row of logits, which in trained decoders is large, so their cosine is taken
without it.
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

__all__ = [
    "NUM_STEPS",
    "Agreement",
    "ParityError",
    "Recording",
    "check_parity",
    "compare",
    "continue_captions",
    "logit_agreement",
    "record",
]

#: Number of decode steps compared, each on the token that the reference chose.
NUM_STEPS = 8
#: Rows compared at a time.
_BLOCK = 64

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
    #: The token of an alt-text, or of the reference's caption, that follows each row of `logits`;
    #: -1: none.
    targets: tuple[NDArray[np.int64], ...]


@dataclass(frozen=True)
class Agreement:
    """How closely two sets of vectors agree; the optional figures are those of logits."""

    mean_cosine: float  # of logits: without the mean of each row
    worst_cosine: float
    max_abs_error: float
    max_abs_reference: float  # largest absolute value of the reference, the error's scale
    rows: int
    greedy: float | None = None  # share of rows with the same argmax
    kl: float | None = None  # mean divergence from the reference's distribution, nats
    worst_kl: float | None = None
    #: Mean negative log-likelihood of the targets in the reference, nats, and how much larger it is
    #: in the candidate. None if there are no targets.
    nll: float | None = None
    nll_difference: float | None = None

    def has_cosines(self, required: Threshold) -> bool:
        """Whether mean and worst row reach `required`; NaN never does."""
        return self.mean_cosine >= required.mean and self.worst_cosine >= required.worst


def record(reference: Runtime, samples: Samples) -> Recording:
    """Run the reference on `samples`: encode, map, one ragged prefill, then greedy decode steps."""
    rows = min(len(samples.prompt_ids), reference.num_slots)
    samples = samples.first(rows)
    embeddings = np.asarray(reference.encode(samples.pixels))
    visual_tokens = np.asarray(reference.map(embeddings))
    batch = prefill_batch(
        samples.of_prompts(visual_tokens),
        samples.prompt_ids,
        after_each_token=True,
        before_ids=samples.before_ids,
    )
    steps, logits = [batch], [_logits(reference, batch)]
    targets = [samples.targets()]
    ends = np.cumsum([len(ids) + 1 for ids in samples.prompt_ids]) - 1
    chosen = logits[0][ends].argmax(axis=-1)
    lengths = batch.query_lengths
    room = reference.capacity - int(lengths.max())
    for _ in range(min(NUM_STEPS, room)):
        batch = decode_batch(chosen, lengths, visual_tokens.shape[-1])
        steps.append(batch)
        logits.append(_logits(reference, batch))
        chosen, lengths = logits[-1].argmax(axis=-1), lengths + 1
        targets.append(chosen)
    return Recording(
        samples, embeddings, visual_tokens, tuple(steps), tuple(logits), tuple(targets)
    )


def continue_captions(reference: Runtime, recording: Recording, num_steps: int) -> None:
    """Let the reference go on with its captions, so that a calibration sees more text."""
    last, lengths = recording.logits[-1], recording.steps[-1].past_lengths
    if len(recording.steps) == 1:  # no room for a step
        return
    lengths = lengths + 1
    room = reference.capacity - int(lengths.max())
    for _ in range(min(num_steps, room)):
        width = recording.visual_tokens.shape[-1]
        last = _logits(reference, decode_batch(last.argmax(axis=-1), lengths, width))
        lengths = lengths + 1


def compare(recording: Recording, candidate: Runtime) -> dict[str, Agreement]:
    """Run `candidate` on the recorded inputs; return its agreement with the reference by stage."""
    embeddings = np.asarray(candidate.encode(recording.samples.pixels))
    visual_tokens = np.asarray(candidate.map(recording.embeddings))
    logits = [_logits(candidate, batch) for batch in recording.steps]
    width = visual_tokens.shape[-1]
    agreements = {
        "encoder": _agreement(_vectors(recording.embeddings), _vectors(embeddings)),
        "mapper": _agreement(
            recording.visual_tokens.reshape(-1, width), visual_tokens.reshape(-1, width)
        ),
        "prefill": logit_agreement(recording.logits[0], logits[0], recording.targets[0]),
    }
    if len(logits) > 1:
        wanted = np.concatenate(recording.logits[1:])
        targets = np.concatenate(recording.targets[1:])
        agreements["step"] = logit_agreement(wanted, np.concatenate(logits[1:]), targets)
    return agreements


def check_parity(
    agreements: Mapping[str, Agreement], thresholds: Mapping[str, Threshold]
) -> dict[str, Any]:
    """The figures, as a manifest lists them. Raises ParityError if one misses its threshold."""
    for stage in STAGES:
        if stage not in agreements:
            continue
        found, required = agreements[stage], thresholds[stage]
        if not found.has_cosines(required):
            raise ParityError(
                f"the exported {stage} differs from the checkpoint: cosine {found.mean_cosine:.5f} "
                f"(worst row {found.worst_cosine:.5f}), but the recipe requires {required.mean} "
                f"({required.worst}): {_ADVICE}."
            )
        if found.kl is None or found.worst_kl is None:
            continue
        if not (found.kl <= required.kl and found.worst_kl <= required.worst_kl):
            raise ParityError(
                f"the exported {stage} differs from the checkpoint: a divergence of "
                f"{found.kl:.4f} nats per token (worst row {found.worst_kl:.3f}), but the recipe "
                f"allows {required.kl} ({required.worst_kl}): {_ADVICE}."
            )
    return {
        stage: {**_present(agreements[stage]), "required": _present(thresholds[stage])}
        for stage in STAGES
        if stage in agreements
    }


def _vectors(embeddings: Floats) -> Floats:
    """Every embedding or patch token as a row."""
    return embeddings.reshape(-1, embeddings.shape[-1])


_ADVICE = "export for a target of higher precision, such as cpu-fp32"


def _present(figures: Agreement | Threshold) -> dict[str, Any]:
    """Those that there are; JSON has no infinity."""
    values = asdict(figures)
    if isinstance(figures, Threshold):
        return {name: value for name, value in values.items() if np.isfinite(value)}
    logits = ("kl", "worst_kl", "nll", "nll_difference")
    return {n: value for n, value in values.items() if value is not None or n not in logits}


def _logits(runtime: Runtime, batch: StepBatch) -> Floats:
    logits = runtime.step(batch, want_logits=True).logits
    assert logits is not None
    return logits


def logit_agreement(wanted: Floats, found: Floats, targets: NDArray[np.int64]) -> Agreement:
    """Compare logits (rows, vocab) row by row; targets (rows,) are token ids, -1 for none."""
    _check_shapes(wanted, found)
    centred = _agreement(wanted, found, centred=True)
    divergences, increases, likelihoods = [], [], []
    for a, b, target in zip(wanted, found, targets, strict=True):  # few vocabularies in memory
        p, q = _log_softmax(a), _log_softmax(b)
        divergences.append(float((np.exp(p) * (p - q)).sum()))
        if target >= 0:
            likelihoods.append(-float(p[target]))
            increases.append(float(p[target] - q[target]))
    return replace(
        centred,
        greedy=float((wanted.argmax(axis=-1) == found.argmax(axis=-1)).mean()),
        kl=float(np.mean(divergences)),
        worst_kl=float(np.max(divergences)),
        nll=float(np.mean(likelihoods)) if likelihoods else None,
        nll_difference=float(np.mean(increases)) if increases else None,
    )


def _log_softmax(row: Floats) -> NDArray[np.float64]:
    shifted = row.astype(np.float64) - row.max()
    result: NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum())
    return result


def _check_shapes(wanted: Floats, found: Floats) -> None:
    if wanted.shape != found.shape:
        raise ParityError(f"a graph returned shape {found.shape} instead of {wanted.shape}.")


def _agreement(wanted: Floats, found: Floats, *, centred: bool = False) -> Agreement:
    """Compare row by row, (rows, width) each; centred: without the mean of each row."""
    _check_shapes(wanted, found)
    cosines, errors, sizes = [], [], []
    for start in range(0, len(wanted), _BLOCK):  # in float64, logits of all prompts are gigabytes
        a, b = (x[start : start + _BLOCK].astype(np.float64) for x in (wanted, found))
        if centred:
            a, b = (x - x.mean(axis=-1, keepdims=True) for x in (a, b))
        norms = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
        cosines.append((a * b).sum(axis=-1) / np.maximum(norms, np.finfo(np.float64).tiny))
        errors.append(np.abs(a - b).max())
        sizes.append(np.abs(a).max())
    each = np.concatenate(cosines)
    return Agreement(
        mean_cosine=float(each.mean()),
        worst_cosine=float(each.min()),
        max_abs_error=float(np.max(errors)),
        max_abs_reference=float(np.max(sizes)),
        rows=len(wanted),
    )
