"""The GPU comparison's results as Markdown tables."""

from __future__ import annotations

from typing import Any

from harness.summary import table

__all__ = ["fraction_of_floor", "to_markdown"]

COLUMNS = (
    "contestant", "batch", "images/s", "one image, ms", "tokens/s", "of ceiling", "device GB",
    "min cosine",
)  # fmt: skip


def to_markdown(results: dict[str, Any]) -> str:
    """A table for each configuration, and below it what is missing and why."""
    lines = [_ceilings(results["ceilings"])]
    for name, config in results["configs"].items():
        lines += ["", f"### {name}", ""]
        floors = config.get("floor_s", {})
        rows = [row for one in config["contestants"] for row in _rows(one, floors)]
        lines.append(table(COLUMNS, rows))
        missing = [_missing(part) for part in (*config["parts"], *config["contestants"])]
        missing = [line for line in missing if line]
        lines += ["", *missing] if missing else []
    return "\n".join(lines) + "\n"


def fraction_of_floor(size: dict[str, Any], floors: dict[str, float | None]) -> float | None:
    """The shortest time that the device can take over the time taken: 1 is its limit."""
    floor = floors.get(str(size["batch"]))
    return None if floor is None else floor / size["whole_s"]


def _rows(contestant: dict[str, Any], floors: dict[str, float | None]) -> list[list[str]]:
    data = contestant["data"]
    sizes = data.get("sizes", [])
    single = next((1000 * size["whole_s"] for size in sizes if size["batch"] == 1), None)
    cosines = [stage["worst_cosine"] for stage in data.get("parity", {}).values()]
    memory = contestant["peak_device_bytes"]
    shared = [
        "–" if memory is None else f"{memory / 1e9:.1f}",
        f"{min(cosines):.6f}" if cosines else "–",
    ]
    if not sizes:
        return [[contestant["name"], "–", "–", "–", "–", "–", *shared]] if cosines else []
    rows = []
    for size in sizes:
        fraction, tokens = fraction_of_floor(size, floors), size.get("tokens_per_s")
        cells = [
            contestant["name"],
            str(size["batch"]),
            f"{size['images_per_s']:.4g}",
            f"{single:.1f}" if single is not None and size["batch"] == 1 else "–",
            "–" if tokens is None else f"{tokens:.0f}",
            "–" if fraction is None else f"{100 * fraction:.1f} %",
        ]
        rows.append([*cells, *(shared if size is sizes[-1] else ["", ""])])
    return rows


def _ceilings(outcome: dict[str, Any]) -> str:
    data = outcome["data"]
    if outcome["status"] != "ok":
        return f"Ceilings not measured ({outcome['status']}: {outcome['reason']})."
    rates = ", ".join(
        f"{name} matrix products {rate / 1e12:.4g} TFLOP/s"
        for name, rate in data["operations_per_s"].items()
    )
    return f"Measured on this device: copy {data['bytes_per_s'] / 1e9:.4g} GB/s, {rates}."


def _missing(outcome: dict[str, Any]) -> str | None:
    notes = []
    if outcome["status"] != "ok":
        notes.append(f"{outcome['status']}: {outcome['reason']}")
    if outcome.get("sizes_out_of_memory"):
        notes.append(f"out of memory at batch {_listed(outcome['sizes_out_of_memory'])}")
    if outcome["data"].get("sizes_left_out"):
        notes.append(f"no time for batch {_listed(outcome['data']['sizes_left_out'])}")
    if outcome["data"].get("sizes_beyond_engines"):
        beyond = _listed(outcome["data"]["sizes_beyond_engines"])
        notes.append(f"engines are not compiled for batch {beyond}")
    for batch, reason in outcome["data"].get("sizes_failed", {}).items():
        notes.append(f"batch {batch} failed: {reason}")
    return f"- {outcome['name']}: {'; '.join(notes)}" if notes else None


def _listed(sizes: list[int]) -> str:
    return ", ".join(map(str, sizes))
