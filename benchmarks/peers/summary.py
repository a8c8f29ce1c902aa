"""What was measured as medians, and as a Markdown table."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

__all__ = ["agreement", "footnotes", "processor", "summarise", "to_markdown"]


def summarise(turns: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """One contestant's turns, each with `load_s`, `peak_bytes` and `cells`, as medians."""
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
    """Linear between the two nearest."""
    ordered = sorted(values)
    place = (len(ordered) - 1) * percent / 100
    below = math.floor(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (place - below)


def agreement(
    tokens: Sequence[Sequence[int]], reference: Sequence[Sequence[int]]
) -> dict[str, Any]:
    """How far greedy captions are those of the reference: whole rows, and leading tokens."""
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


def to_markdown(result: Mapping[str, Any]) -> str:
    """Speed, growth and agreement as tables, with the machine and the versions below."""
    parts = [_speed_table(result), _growth_table(result), _agreement_table(result), _notes(result)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _speed_table(result: Mapping[str, Any]) -> str:
    batches = result["batches"]
    header = ["contestant", *(f"img/s, batch {batch}" for batch in batches)]
    header += [f"decoder img/s, batch {result['decoder_batch']}", "p50 s", "p95 s", "load s"]
    header += ["peak GB", "environment GB", "files GB"]
    rows = []
    for one in result["contestants"]:
        by_batch = {cell["batch"]: cell for cell in _plain_cells(one, result)}
        whole = one["scope"] == "whole"
        row = [one["label"]]
        row += [_rate(by_batch.get(batch), "images_per_s") if whole else "–" for batch in batches]
        row.append(_rate(by_batch.get(result["decoder_batch"]), "decoder_images_per_s"))
        latency = by_batch.get(1, {}).get("latency_s")
        row += [_digits(latency[name]) if latency else "–" for name in ("p50", "p95")]
        row.append(_digits(one["load_s"]))
        peaks = [cell["peak_bytes"] for cell in by_batch.values()]
        row.append(_digits(max(peaks) / 1e9) if peaks else "–")
        row += [_digits(one[name] / 1e9) for name in ("environment_bytes", "files_bytes")]
        rows.append(row)
    return _table(header, rows)


def _plain_cells(one: Mapping[str, Any], result: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Those of the speed table: for each batch size the one with the fewest images."""
    fewest: dict[int, dict[str, Any]] = {}
    for cell in one["cells"].values():
        known = fewest.get(cell["batch"])
        if known is None or cell["images"] < known["images"]:
            fewest[cell["batch"]] = cell
    return [fewest[batch] for batch in result["batches"] if batch in fewest]


def _growth_table(result: Mapping[str, Any]) -> str:
    counts = result["growth"]
    rows = []
    for one in result["contestants"]:
        found = {c["images"]: c for c in one["cells"].values() if c["batch"] == 16}
        cells = []
        for count in counts:
            cell = found.get(count)
            if cell is None:
                cells.append("–")
            else:
                rate = cell["images_per_s"]["median"]
                cells.append(f"{_digits(count / rate)} s, {_digits(cell['peak_bytes'] / 1e9)} GB")
        if any(cell != "–" for cell in cells):
            rows.append([one["label"], *cells])
    header = ["batch 16", *(f"{count} images" for count in counts)]
    return _table(header, rows) if rows else ""


def _agreement_table(result: Mapping[str, Any]) -> str:
    rows = [
        [
            one["label"],
            mode.replace("_", " "),
            f"{found['identical_rows']} of {found['rows']}",
            f"{found['leading_tokens_equal']} of {found['tokens']}",
        ]
        for one in result["contestants"]
        for mode, found in one.get("agreement", {}).items()
    ]
    header = ["contestant", "prompt", "captions equal", "tokens equal before the first difference"]
    return _table(header, rows) if rows else ""


def _notes(result: Mapping[str, Any]) -> str:
    machine = result["machine"]
    lines = [
        f"{result['size']} size, {processor(machine)}, {machine['threads']} threads of "
        f"{machine['cores']} cores, {machine['date']}. Medians of the repetitions, in brackets the "
        "slowest and the fastest; – was not measured (does not apply, or no time was left).",
        "Decoder img/s leaves encoder and mapper out, so that engines of decoders compare.",
    ]
    lines += [
        f"{one['label']}: {error}." for one in result["contestants"] for error in one["errors"]
    ]
    lines += footnotes(result)
    return "\n\n".join(lines)


def processor(machine: Mapping[str, Any]) -> str:
    """Its name, and its features where they were kept."""
    features = ", ".join(machine.get("features", ()))
    return f"{machine['processor']} ({features})" if features else str(machine["processor"])


def footnotes(result: Mapping[str, Any]) -> list[str]:
    """What the marks of the contestants' labels mean."""
    if not result.get("pairs"):
        forced = (
            "Forced to random tokens, so that no draft token is accepted: this is what speculation "
            "costs where it does not help. `--pairs` measures it on real captions."
        )
    else:
        forced = (
            f"Forced to the captions of the pairs ({result['pairs']}), so that draft tokens are "
            "accepted as often as in a captioner that writes them; nothing has been learnt from "
            "other captions when a measurement begins. The others write as many tokens."
        )
    notes = [f"* {forced}", "† The same after 1,000 other captions were learnt from."]
    labels = "".join(one["label"] for one in result["contestants"])
    return [note for note in notes if note[0] in labels]


def _rate(cell: Mapping[str, Any] | None, name: str) -> str:
    if cell is None:
        return "–"
    rate = cell[name]
    middle = _digits(rate["median"])
    if cell["repetitions"] == 1:
        return f"{middle} (n=1)"
    return f"{middle} ({_digits(rate['min'])}–{_digits(rate['max'])})"


def _digits(value: float | None) -> str:
    """Three significant digits, without an exponent."""
    if value is None:
        return "–"
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(header) + " |", "|---|" + "---:|" * (len(header) - 1)]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join(lines)
