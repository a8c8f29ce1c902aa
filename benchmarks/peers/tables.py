"""The CPU comparison's results as Markdown tables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from harness.summary import digits, table

__all__ = ["footnotes", "processor", "to_markdown"]


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
        row += [digits(latency[name]) if latency else "–" for name in ("p50", "p95")]
        row.append(digits(one["load_s"]))
        peaks = [cell["peak_bytes"] for cell in by_batch.values()]
        row.append(digits(max(peaks) / 1e9) if peaks else "–")
        row += [digits(one[name] / 1e9) for name in ("environment_bytes", "files_bytes")]
        rows.append(row)
    return table(header, rows)


def _plain_cells(one: Mapping[str, Any], result: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The cells of the speed table: for each batch size the one with the fewest images."""
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
                cells.append(f"{digits(count / rate)} s, {digits(cell['peak_bytes'] / 1e9)} GB")
        if any(cell != "–" for cell in cells):
            rows.append([one["label"], *cells])
    header = ["batch 16", *(f"{count} images" for count in counts)]
    return table(header, rows) if rows else ""


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
    return table(header, rows) if rows else ""


def _notes(result: Mapping[str, Any]) -> str:
    machine = result["machine"]
    lines = [
        f"{result['size']} size, {processor(machine)}, {machine['threads']} threads of "
        f"{machine['cores']} cores, {machine['date']}. Medians of the repetitions, in brackets the "
        "slowest and the fastest; – was not measured (not applicable, or no time was left).",
        "Decoder img/s leaves out encoder and mapper, so that decoder engines compare.",
    ]
    lines += [
        f"{one['label']}: {error}." for one in result["contestants"] for error in one["errors"]
    ]
    lines += footnotes(result)
    return "\n\n".join(lines)


def processor(machine: Mapping[str, Any]) -> str:
    """Its name, with its features where the result has them."""
    features = ", ".join(machine.get("features", ()))
    return f"{machine['processor']} ({features})" if features else str(machine["processor"])


def footnotes(result: Mapping[str, Any]) -> list[str]:
    """The meaning of the marks in the contestants' labels."""
    if not result.get("pairs"):
        forced = (
            "Forced to random tokens, so that no draft token is accepted: this is the cost of "
            "drafting where it does not help. `--pairs` measures it on real captions."
        )
    else:
        forced = (
            f"Forced to the captions of the pairs ({result['pairs']}), so that draft tokens are "
            "accepted as often as in a captioner that writes these captions; no other captions are "
            "known when a measurement begins. The others write as many tokens."
        )
    notes = [f"* {forced}", "† The same after learning from 1,000 other captions."]
    labels = "".join(one["label"] for one in result["contestants"])
    return [note for note in notes if note[0] in labels]


def _rate(cell: Mapping[str, Any] | None, name: str) -> str:
    if cell is None:
        return "–"
    rate = cell[name]
    middle = digits(rate["median"])
    if cell["repetitions"] == 1:
        return f"{middle} (n=1)"
    return f"{middle} ({digits(rate['min'])}–{digits(rate['max'])})"
