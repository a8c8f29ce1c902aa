"""Score the starter on new scenes: with alt-texts, without them, and the alt-texts alone.

    python benchmarks/starter_table.py --bundle starter --bundle starter-cpu-fp32

Writes benchmarks/results/starter.json and prints the table that the README shows. The scenes are
of the `test` split: neither they nor their names occur in training, whatever the seed.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from altogether_rt import Captioner
from altogether_rt.bench.report import describe_machine
from altogether_rt.scenes.dataset import reference_row
from altogether_rt.scenes.draw import render
from altogether_rt.scenes.score import Scores
from altogether_rt.scenes.text import Sample, make_sample

RESULTS = Path(__file__).parent / "results" / "starter.json"

COLUMNS = {
    "visual_facts_right": "visual facts right",
    "names_kept": "names kept",
    "wrong_corrected": "wrong facts corrected",
    "invented_with_empty_alt": "names invented, empty alt",
    "invented": "names invented",
}


def score(
    samples: Sequence[Sample], captions: Sequence[str], *, alts_given: bool
) -> dict[str, Any]:
    """Scores of captions, one per sample."""
    scores = Scores()
    for sample, caption in zip(samples, captions, strict=True):
        row = reference_row("", sample)
        if not alts_given:  # without an alt-text, every name is invented
            row["rounds"] = ["", *row["rounds"]]
        scores.add(caption, row)
    return scores.to_dict()


def measure(bundles: Sequence[str], num: int, seed: int) -> dict[str, dict[str, Any]]:
    """Scores by contestant."""
    samples = [make_sample(seed, index, "test") for index in range(num)]
    images = [render(sample.scene) for sample in samples]
    alts = [" ".join(sample.alts) for sample in samples]
    table = {"raw alt-texts": score(samples, alts, alts_given=True)}
    for bundle in bundles:
        with Captioner.load(bundle) as captioner:
            label = f"{bundle} ({captioner.bundle_id})"
            with_alts = captioner.caption(images, [list(sample.alts) for sample in samples])
            without = captioner.caption(images)
        texts = [caption.text for caption in with_alts]
        table[f"{label}, with alt-texts"] = score(samples, texts, alts_given=True)
        texts = [caption.text for caption in without]
        table[f"{label}, without alt-texts"] = score(samples, texts, alts_given=False)
    return table


def to_markdown(table: dict[str, dict[str, Any]]) -> str:
    """The table as the README shows it."""
    lines = [
        "| | " + " | ".join(COLUMNS.values()) + " |",
        "|---|" + "---:|" * len(COLUMNS),
    ]
    for label, scores in table.items():
        cells = ("–" if scores[key] is None else f"{scores[key]:.1f} %" for key in COLUMNS)
        lines.append(f"| {label} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--bundle", action="append", help="default: starter; may be repeated")
    parser.add_argument("--num", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=2026)
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    table = measure(arguments.bundle or ["starter"], arguments.num, arguments.seed)
    result = {
        "command": shlex.join(["python", *sys.argv]),
        "machine": describe_machine(),
        "scenes": {"num": arguments.num, "seed": arguments.seed, "split": "test"},
        "table": table,
    }
    arguments.out.write_text(json.dumps(result, indent=2, ensure_ascii=False) + "\n", "utf-8")
    print(to_markdown(table))


if __name__ == "__main__":
    main()
