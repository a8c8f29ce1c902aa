"""Parity of the graphs that a bundle may have besides the decoder's, of prompts and decode steps.

A GPU may compute with either graph, so a stage's figures are the worse ones of both.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from altogether_rt.artifacts.bundle import Bundle
from altogether_rt.artifacts.manifest import DECODE_NAME, PROMPTS_NAME
from altogether_rt.export.verify import Agreement, Recording, logit_agreement
from altogether_rt.runtime.base import StepBatch
from altogether_rt.runtime.ort_session import open_session
from altogether_rt.runtime.packing import pack_indices

__all__ = ["with_step_graphs", "worse_of"]

#: Figures of which less is worse; of the others, more.
_LESS_IS_WORSE = frozenset({"mean_cosine", "worst_cosine", "greedy", "max_abs_reference"})

Arrays = Mapping[str, NDArray[Any]]


def with_step_graphs(
    recording: Recording, bundle: Bundle, agreements: Mapping[str, Agreement]
) -> dict[str, Agreement]:
    """`agreements` of the decoder's graph, or those of the other graphs where they are worse.

    The graphs run on the processor, on the inputs that the reference had. Decode steps go on with
    what the graph of prompts left in the cache, so there is nothing without that one.
    """
    found = dict(agreements)
    if PROMPTS_NAME not in bundle.manifest.graphs:
        return found
    session = open_session(bundle.graph_path(PROMPTS_NAME), threads=None, half=True)
    logits, cache = _run(
        session, _prompt_inputs(recording.steps[0]), _empty_cache(session, recording)
    )
    del session  # weights of a large decoder are gigabytes, and widened here
    found["prefill"] = worse_of(
        found["prefill"], logit_agreement(recording.logits[0], logits, recording.targets[0])
    )
    if DECODE_NAME not in bundle.manifest.graphs or len(recording.steps) == 1:
        return found
    session = open_session(bundle.graph_path(DECODE_NAME), threads=None, half=True)
    steps = []
    for batch in recording.steps[1:]:
        inputs: Arrays = {"token_ids": batch.token_ids, "past_lengths": batch.past_lengths}
        logits, cache = _run(session, inputs, cache)
        steps.append(logits)
    wanted = np.concatenate(recording.logits[1:])
    targets = np.concatenate(recording.targets[1:])
    stepped = logit_agreement(wanted, np.concatenate(steps), targets)
    found["step"] = worse_of(found["step"], stepped)
    return found


def worse_of(first: Agreement, second: Agreement) -> Agreement:
    """Each figure from that of two comparisons of the same rows in which it is worse."""
    worse = {}
    for field in fields(Agreement):
        a, b = getattr(first, field.name), getattr(second, field.name)
        if a is not None and b is not None:
            choose = np.minimum if field.name in _LESS_IS_WORSE else np.maximum  # NaN if one is
            worse[field.name] = type(a)(choose(a, b))
    return replace(first, **worse)


def _run(session: Any, inputs: Arrays, cache: Arrays) -> tuple[NDArray[np.float32], Arrays]:
    """Logits, and the cache as the run leaves it."""
    values = {**inputs, **{f"past_{name}": array for name, array in cache.items()}}
    names = [output.name for output in session.get_outputs()]
    feeds = {node.name: values[node.name] for node in session.get_inputs()}
    answers = dict(zip(names, session.run(names, feeds), strict=True))
    return answers["logits"], {name: answers[f"present_{name}"] for name in cache}


def _prompt_inputs(batch: StepBatch) -> Arrays:
    packing = pack_indices(batch.query_lengths, batch.past_lengths)
    return {
        "token_ids": batch.token_ids,
        "positions": packing.positions,
        "visual_tokens": np.asarray(batch.visual_tokens),
        "visual_index": batch.visual_index,
        "query_lengths": batch.query_lengths,
        "longest": np.array([packing.pad_index.shape[1]], np.int32),
        "pad_index": packing.pad_index,
        "unpad_index": packing.unpad_index,
        "logit_index": batch.logit_index,
    }


def _empty_cache(session: Any, recording: Recording) -> Arrays:
    rows = len(recording.steps[0].query_lengths)
    return {
        node.name.removeprefix("past_"): np.zeros((rows, *node.shape[1:]), np.float16)
        for node in session.get_inputs()
        if node.name.startswith(("past_key", "past_value"))
    }
