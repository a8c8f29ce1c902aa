"""The table of `finetune_miniature.py`, and what it says of itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks.starter_table import to_markdown

__all__ = ["document", "training_note"]

ABOUT = (
    "Asked, without the picture: the decoder reads an instruction and the alt-text, as text. With "
    "the truth in words: a true description of the scene stands before the alt-text, which no "
    "captioner has; it is the most that asking can have. With visual tokens: the instruction, the "
    "visual tokens of the mapper that was fitted to words for the scene's facts, the alt-text. "
    "Fine-tuned: mapper and low-rank adapters, merged; the checkpoint itself in float32 by "
    "PyTorch, and bundles that `export` made of it, all captioned by `caption`. Names invented: "
    "captions with a capitalised word, inside a sentence, that the alt-text does not have."
)
LIMITS = (
    "Captions of scenes follow one template, which fine-tuning learns too; this says that the "
    "steps work together, and nothing about photographs."
)


def training_note(checkpoint: Path, run: Path) -> dict[str, Any]:
    """What the log of a training says of its steps. run: the folder beside the checkpoint."""
    about = json.loads((checkpoint / "checkpoint.json").read_text("utf-8"))
    recipe = about["recipe"]["finetune"]["optimization"]
    size, done = recipe["batch_size"], recipe["num_steps"]
    rows = {}  # by step: a resumed run logs some of them twice
    for line in (run / "metrics.jsonl").read_text("utf-8").splitlines():
        row = json.loads(line)
        if "loss" in row:
            rows[row["step"]] = row
    seconds, before = 0.0, 0
    for step, row in sorted(rows.items()):
        seconds += (step - before) * size / row["samples_per_s"]
        before = step
    losses = [row["loss"] for _, row in sorted(rows.items())]
    return {
        "steps": done,
        "samples": done * size,
        "minutes": round(seconds / 60, 1),
        "first_loss": losses[0],
        "last_loss": losses[-1],
    }


def document(result: dict[str, Any]) -> str:
    """The Markdown file: what was measured, where and how, and the tables."""
    machine, run, fitted = result["machine"], result["training"], result["connector"]
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    scores = {name: row["scores"] for name, row in result["captioners"].items()}
    facts = next(iter(scores.values()))
    lines = [
        "# Fine-tuning in miniature\n",
        f"{result['decoder']}, with the starter's encoder; {result['scenes']} scenes of the split "
        "`test`, which no training has seen. Decoding is greedy.\n",
        f"`{result['command']}`, {machine['date']}; {machine['processor']} "
        f"({', '.join(machine['features'])}); {versions}.\n",
        to_markdown(scores),
        "",
        f"Fine-tuning: `{run['command']}`: {run['steps']} steps, {run['samples']:,} scenes in "
        f"{run['minutes']:.0f} minutes; mean loss of the first steps logged {run['first_loss']:.2f}"
        f", of the last {run['last_loss']:.3f}.\n",
        f"The scenes have {facts['names']} names, {facts['wrong_facts']} wrong facts and "
        f"{facts['empty_alts']} empty alt-texts: one of them is {_share(facts['names'])}, "
        f"{_share(facts['wrong_facts'])} and {_share(facts['empty_alts'])} of its column. {ABOUT} "
        f"Before training, the mapper was fitted to words for the facts of "
        f"{fitted['scenes']:,} training scenes, which photographs do not have ({fitted['steps']} "
        f"steps). {LIMITS}\n",
        "## From annotations to a fast bundle\n",
        *_bundles(result["bundles"], result["threads"]),
        "",
        *_stages(result["stages"]),
        "",
        "## What they write of the first scenes\n",
        *_examples(result["captioners"]),
    ]
    return "\n".join(lines).rstrip("\n") + "\n"


def _share(count: int) -> str:
    return f"{100 / count:.1f} percent" if count else "nothing"


def _bundles(rows: dict[str, dict[str, Any]], threads: int) -> list[str]:
    lines = [
        "| | on the disk | KL, alt-texts | KL, captions | same next token, captions "
        "| one image at a time | many: images/s | peak memory | load at the time |",
        "|---|" + "---:|" * 8,
    ]
    for name, row in rows.items():
        parity = row.get("parity")
        cells = ["–"] * 3
        if parity is not None:
            step = parity["step"]
            kls = [f"{part['kl']:.4f}" for part in (parity["prefill"], step)]
            cells = [*kls, f"{100 * step['greedy']:.1f} %"]
        speed = row["speed"]
        lines.append(
            f"| {name} | {row['bytes'] / 1e6:.0f} MB | {' | '.join(cells)} | "
            f"{speed['image_s']:.2f} s | {row['images_per_s']:.1f} | "
            f"{speed['peak_memory_bytes'] / 1e9:.2f} GB | {speed['load_average']:.1f} |"
        )
    return [
        *lines,
        "",
        "KL and equal tokens as `export` measured them against the checkpoint, with alt-texts and "
        "captions that it chose. One image at a time: median of `bench`, from an image in memory "
        f"to its caption. Many: `caption` over the test scenes. Threads: {threads}. Load: "
        "processes that wanted a core during the last minute of `bench`, itself included.",
    ]


def _stages(history: dict[str, dict[str, float]]) -> list[str]:
    lines = ["| stage of the command | minutes | mean load |", "|---|---:|---:|"]
    lines += [
        f"| {name} | {row['minutes']:.1f} | {row['load']:.1f} |" for name, row in history.items()
    ]
    total = sum(row["minutes"] for row in history.values())
    return [*lines, f"| all | {total:.1f} | |"]


def _examples(captioners: dict[str, dict[str, Any]]) -> list[str]:
    lines: list[str] = []
    for index in range(len(next(iter(captioners.values()))["examples"])):
        lines += [f"- {name}: {row['examples'][index]!r}" for name, row in captioners.items()]
        lines.append("")
    return lines
