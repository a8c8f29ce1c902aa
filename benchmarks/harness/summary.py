"""Turns of a contestant as medians, and what all tables of results share."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

__all__ = ["agreement", "digits", "summarise", "table"]


def summarise(turns: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Medians of one contestant's turns, each with `load_s`, `peak_bytes` and `cells`."""
    by_key: dict[str, list[Mapping[str, Any]]] = {}
    for turn in turns:
        for key, job in turn["cells"].items():
            by_key.setdefault(key, []).append(job)
    loads = [turn["load_s"] for turn in turns if "load_s" in turn]
    return {
        "turns": len(loads),
        "load_s": median(loads) if loads else None,
        "cells": {key: _summarise_jobs(jobs) for key, jobs in by_key.items()},
        "errors": sorted({turn["error"] for turn in turns if "error" in turn}),
    }


def _summarise_jobs(jobs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    first = jobs[0]
    rates = [job["images"] / job["seconds"] for job in jobs]
    decoding = [job["images"] / (job["seconds"] - job["encode_s"]) for job in jobs]
    latencies = [seconds for job in jobs for seconds in job["latencies_s"]]
    result = {
        "batch": first["batch"],
        "images": first["images"],
        "repetitions": len(jobs),
        "images_per_s": _spread(rates),
        "decoder_images_per_s": _spread(decoding),
        "tokens_per_s": first["caption_tokens"] / median(job["seconds"] for job in jobs),
        "encode_share": median(job["encode_s"] / job["seconds"] for job in jobs),
        "peak_bytes": max(job["peak_bytes"] for job in jobs),
    }
    if latencies:
        result["latency_s"] = {"p50": _percentile(latencies, 50), "p95": _percentile(latencies, 95)}
    acceptances = [job["draft_acceptance"] for job in jobs if "draft_acceptance" in job]
    if acceptances:
        result["draft_acceptance"] = acceptances[-1]
    return result


def _spread(values: Sequence[float]) -> dict[str, float]:
    return {"median": median(values), "min": min(values), "max": max(values)}


def _percentile(values: Sequence[float], percent: float) -> float:
    """The percentile, linear between the two nearest values."""
    ordered = sorted(values)
    position = (len(ordered) - 1) * percent / 100
    below = math.floor(position)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (position - below)


def agreement(
    tokens: Sequence[Sequence[int]], reference: Sequence[Sequence[int]]
) -> dict[str, Any]:
    """How many greedy captions equal the reference's, and how many tokens before a difference."""
    same = leading = 0
    for ids, expected in zip(tokens, reference, strict=True):
        same += list(ids) == list(expected)
        for token, wanted in zip(ids, expected, strict=False):
            if token != wanted:
                break
            leading += 1
    total = sum(len(expected) for expected in reference)
    distinct = len({token for expected in reference for token in expected})
    return {
        "rows": len(reference),
        "identical_rows": same,
        "leading_tokens_equal": leading,
        "tokens": total,
        "distinct_reference_tokens": distinct,
    }


def digits(value: float | None) -> str:
    """Three significant digits, without an exponent."""
    if value is None:
        return "–"
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table, the first column to the left and the others to the right."""
    lines = ["| " + " | ".join(header) + " |", "|---|" + "---:|" * (len(header) - 1)]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join(lines)
