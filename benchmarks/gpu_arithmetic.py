"""Captions through the arithmetic of the GPU paths, emulated on a CPU, scored on new scenes.

    python benchmarks/gpu_arithmetic.py
    python benchmarks/gpu_arithmetic.py --num 200 --only float16 --only "fp8 throughout"

The starter's weights in float32, in float16, with fp8 products and with a cache of one byte a
number; facts are scored as in starter_table.py, and parity is measured as an export does. Exits
with 1 if a score is more than 0.5 points below float32's. Writes
benchmarks/results/gpu-arithmetic.json and .md.
"""

from __future__ import annotations

import argparse
import copy
import json
import shlex
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

HERE = Path(__file__).resolve().parent
sys.path.append(str(HERE))
sys.path.append(str(HERE.parent))  # the package of this checkout, if it is not installed

from gpu.arithmetic import (  # noqa: E402
    ARITHMETICS,
    Arithmetic,
    captions_of,
    open_runtime,
    parity_of,
)
from starter_table import COLUMNS, score  # noqa: E402

from altogether_rt.artifacts.checkpoint import Checkpoint  # noqa: E402
from altogether_rt.bench.report import describe_machine  # noqa: E402
from altogether_rt.export.float8 import observed  # noqa: E402
from altogether_rt.export.recipes import find_recipe  # noqa: E402
from altogether_rt.export.samples import draw_samples  # noqa: E402
from altogether_rt.importing.bundle import checkpoint_folder  # noqa: E402
from altogether_rt.preprocess.prompts import PromptTokenizer  # noqa: E402
from altogether_rt.scenes.draw import render  # noqa: E402
from altogether_rt.scenes.text import make_sample  # noqa: E402

RESULTS = HERE / "results" / "gpu-arithmetic.json"
#: Points that a score may be below float32's.
ALLOWED = 0.5
#: Scores that are compared, of captions with and without alt-texts.
SCORES = ("visual_facts_right", "names_kept", "wrong_corrected")
NUM_SLOTS = 64
#: Whose parity is required of fp8.
RECIPE = "tensorrt-fp8"


def measure(
    folder: Path,
    arithmetics: Sequence[Arithmetic],
    num: int,
    seed: int,
    save: Callable[[dict[str, dict[str, Any]]], None] = lambda table: None,
) -> dict[str, dict[str, Any]]:
    """Scores and parity by arithmetic, of the checkpoint in `folder`; `save` is given them after
    each."""
    checkpoint = Checkpoint.load(folder)
    config = checkpoint.config
    tokenizer = PromptTokenizer.of_captioner(checkpoint.tokenizer_path, config)
    recording, calibration = observed(checkpoint.captioner(), draw_samples(config, tokenizer))
    thresholds = find_recipe(RECIPE).parity
    scenes = [make_sample(seed, index, "test") for index in range(num)]
    images = [render(scene.scene) for scene in scenes]
    alts = [list(scene.alts) for scene in scenes]
    table = {}
    for arithmetic in arithmetics:
        start = time.perf_counter()
        with open_runtime(
            checkpoint.captioner(), arithmetic, calibration, num_slots=NUM_SLOTS
        ) as runtime:
            parity = parity_of(runtime, recording, arithmetic, thresholds)
            with_alts = captions_of(runtime, config, tokenizer, images, alts)
            without = captions_of(runtime, config, tokenizer, images, None)
        table[arithmetic.name] = {
            "with alt-texts": score(scenes, with_alts, alts_given=True),
            "without alt-texts": score(scenes, without, alts_given=False),
            "captions": with_alts,
            "parity": parity,
        }
        save(copy.deepcopy(table))
        seconds = time.perf_counter() - start
        print(f"{arithmetic.name}: {seconds:.0f} s", file=sys.stderr, flush=True)
    return table


def add_differences(table: dict[str, dict[str, Any]]) -> None:
    """How far each is from the first, in points, and how many captions are the same; the captions
    themselves are dropped."""
    first = next(iter(table.values()))
    wanted = first["captions"]
    for row in table.values():
        captions = row.pop("captions")
        same = sum(a == b for a, b in zip(captions, wanted, strict=True))
        row["same_captions"] = round(100 * same / len(wanted), 2)
        row["points"] = {
            f"{kind}: {name}": round(row[kind][name] - first[kind][name], 2)
            for kind in ("with alt-texts", "without alt-texts")
            for name in SCORES
            if first[kind][name] is not None
        }


def shortfalls(table: Mapping[str, Mapping[str, Any]], allowed: float = ALLOWED) -> list[str]:
    """What is further below the first than allowed, each a line."""
    return [
        f"{name}, {key}: {points:+.2f} points"
        for name, row in table.items()
        for key, points in row["points"].items()
        if points < -allowed
    ]


def to_markdown(table: Mapping[str, Mapping[str, Any]]) -> str:
    titles = ["arithmetic", *(COLUMNS[name] for name in SCORES), "right without alt-texts"]
    titles += ["captions as in float32", "cosine of logits, prompts", "steps", "KL of steps, nats"]
    lines = ["| " + " | ".join(titles) + " |", "|---|" + "---:|" * (len(titles) - 1)]
    for name, row in table.items():
        scores, without = row["with alt-texts"], row["without alt-texts"]
        cells = [f"{scores[key]:.2f} %" for key in SCORES]
        cells += [f"{without['visual_facts_right']:.2f} %", f"{row['same_captions']:.1f} %"]
        parity = row["parity"]
        cells += [f"{parity[stage]['mean_cosine']:.6f}" for stage in ("prefill", "step")]
        cells.append(f"{parity['step']['kl']:.1e}")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--bundle", default="starter", help="a bundle for CPUs, or a checkpoint")
    parser.add_argument("--num", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=2026)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--only", action="append", metavar="NAME", help="beside float32; may be repeated"
    )
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    by_name = {one.name: one for one in ARITHMETICS}
    wanted = arguments.only or list(by_name)
    if unknown := [name for name in wanted if name not in by_name]:
        parser.error(f"there is no arithmetic {unknown[0]!r}; there are {', '.join(by_name)}.")
    chosen = [by_name[name] for name in dict.fromkeys([ARITHMETICS[0].name, *wanted])]
    save = partial(_write, arguments)
    with checkpoint_folder(Path(arguments.bundle)) as folder:
        table = measure(folder, chosen, arguments.num, arguments.seed, save)
    add_differences(table)
    print(to_markdown(table))
    failures = shortfalls(table)
    print("\n".join(failures), file=sys.stderr)
    return 1 if failures else 0


def _write(arguments: argparse.Namespace, table: dict[str, dict[str, Any]]) -> None:
    add_differences(table)
    result = {
        "command": shlex.join(["python", *sys.argv]),
        "machine": describe_machine(),
        "scenes": {"num": arguments.num, "seed": arguments.seed, "split": "test"},
        "allowed_points": ALLOWED,
        "shortfalls": shortfalls(table),
        "table": table,
    }
    arguments.out.write_text(json.dumps(result, indent=2, ensure_ascii=False) + "\n", "utf-8")
    about = (
        f"{arguments.num} scenes, {result['machine']['date']}, emulated on a CPU. fp8: linear "
        "layers of encoder, mapper and decoder; a ResNet, the starter's encoder, has none and is "
        "in float16."
    )
    arguments.out.with_suffix(".md").write_text(f"{about}\n\n{to_markdown(table)}\n", "utf-8")


if __name__ == "__main__":
    sys.exit(main())
