"""Caption the same scenes in many ways and count the captions that differ: there should be none.

    python benchmarks/determinism.py [--bundle starter] [--num 5000] [--seed 2026]
    python benchmarks/determinism.py --bundle CHECKPOINT --device cuda --num 1000 --out FILE

Greedy and sampled: batches of 1, 7 and 32, shuffled input, one and three workers, and speculation
on, off and auto, all compared with batches of 16 without speculation in input order. Workers are
those of `altogether-rt caption`; everything else goes through the Python API. On a GPU products of
another number of rows may be rounded otherwise, so there a few captions may differ: how many is
what is measured. Writes
benchmarks/results/determinism.json; exits with 1 if anything differs. Ctrl-C ends it
with the results so far.
"""

from __future__ import annotations

import argparse
import json
import random
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from altogether_rt import Caption, Captioner, CaptionRequest
from altogether_rt.bench.report import describe_machine
from altogether_rt.data.alts import read_alts
from altogether_rt.data.images import load_image
from altogether_rt.data.sources.scan import scan_folder
from altogether_rt.scenes.dataset import write_scenes
from altogether_rt.speculation.planner import Speculation

RESULTS = Path(__file__).parent / "results" / "determinism.json"

TEMPERATURES = {"greedy": 0.0, "sampled": 0.8}
TOP_P = 0.95
REFERENCE = "batch 16, speculation off"


@dataclass(frozen=True)
class Setup:
    """One way to caption; all should give the same captions."""

    name: str
    batch_size: int = 16
    speculation: Speculation = "off"
    shuffled: bool = False


SETUPS = (
    Setup(REFERENCE),
    Setup("batch 1", batch_size=1),
    Setup("batch 7", batch_size=7),
    Setup("batch 32", batch_size=32),
    Setup("shuffled input", shuffled=True),
    Setup("speculation on", speculation="on"),
    Setup("speculation auto", speculation="auto"),
    Setup("speculation auto, batch 7, shuffled", 7, "auto", shuffled=True),
)
WORKERS = (1, 3)

#: Everything that a row says about a caption.
Written = tuple[str, str, int, bool, int]


def written(caption: Caption) -> Written:
    return (
        caption.text,
        caption.finish_reason,
        caption.tokens,
        caption.alt_truncated,
        caption.seed,
    )


@dataclass(frozen=True)
class Inputs:
    """A folder of scenes of the test split, and their alt-texts."""

    folder: Path
    num: int
    seed: int
    device: str

    def requests(self, captioner: Captioner, order: Sequence[int]) -> Iterator[CaptionRequest]:
        """Requests in this order, read one by one to bound memory."""
        names = scan_folder(self.folder).names
        alts = read_alts(self.folder / "alts.jsonl")
        for index in order:
            pixels = captioner.preprocessor.pixels(load_image(self.folder / names[index]))
            yield CaptionRequest(pixels, alts.get(names[index]).texts)


def caption_in(setup: Setup, bundle: str, inputs: Inputs, temperature: float) -> list[Written]:
    """Captions of all requests in input order, with the Python API."""
    order = list(range(inputs.num))
    if setup.shuffled:
        random.Random(1).shuffle(order)
    with Captioner.load(
        bundle,
        device=inputs.device,
        num_slots=setup.batch_size,
        speculation=setup.speculation,
    ) as captioner:
        params = captioner.params(temperature=temperature, top_p=TOP_P, seed=inputs.seed)
        captions = captioner.stream(inputs.requests(captioner, order), params)
        by_index = {index: written(c) for index, c in zip(order, captions, strict=True)}
    return [by_index[index] for index in range(inputs.num)]


def caption_in_workers(
    workers: int, bundle: str, out: Path, inputs: Inputs, temperature: float
) -> list[Written]:
    """The same with the command `caption`."""
    out.unlink(missing_ok=True)
    options = {
        "--alt": inputs.folder / "alts.jsonl",
        "--bundle": bundle,
        "--device": inputs.device,
        "--out": out,
        "--workers": workers,
        "--temperature": temperature,
        "--top-p": TOP_P,
        "--seed": inputs.seed,
    }
    command = [sys.executable, "-m", "altogether_rt.cli.main", "caption", str(inputs.folder)]
    command += [str(part) for option in options.items() for part in option]
    subprocess.run([*command, "--quiet"], check=True)
    rows = map(json.loads, out.read_text("utf-8").splitlines())
    keys = ("caption", "finish_reason", "tokens", "alt_truncated", "seed")
    return [tuple(row[key] for key in keys) for row in rows]  # type: ignore[misc]


def measure(
    bundle: str, device: str, num: int, seed: int, table: dict[str, dict[str, Any]]
) -> None:
    """Fills the table: mismatches by kind of choice and setup."""
    with tempfile.TemporaryDirectory(prefix="determinism-") as work:
        inputs = Inputs(Path(work) / "scenes", num, seed, device)
        for _ in write_scenes(inputs.folder, num, seed, "test"):
            pass
        out = Path(work) / "captions.jsonl"
        for choice, temperature in TEMPERATURES.items():
            reference: list[Written] = []
            for setup in SETUPS:
                captions = caption_in(setup, bundle, inputs, temperature)
                reference = reference or captions
                table[f"{choice}, {setup.name}"] = compare(reference, captions)
            for workers in WORKERS:
                captions = caption_in_workers(workers, bundle, out, inputs, temperature)
                table[f"{choice}, workers {workers}"] = compare(reference, captions)


def compare(reference: list[Written], captions: list[Written]) -> dict[str, Any]:
    """The number of captions that differ from the reference, with an example."""
    pairs = list(zip(reference, captions, strict=True))
    differing = [(index, *pair) for index, pair in enumerate(pairs) if pair[0] != pair[1]]
    result: dict[str, Any] = {
        "captions": len(pairs),
        "different": len(differing),
    }
    if differing:
        result["example"] = differing[0]
    print(json.dumps(result), file=sys.stderr, flush=True)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--bundle", default="starter")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--num", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=2026)
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    table: dict[str, dict[str, Any]] = {}
    with suppress(KeyboardInterrupt):
        measure(arguments.bundle, arguments.device, arguments.num, arguments.seed, table)
    with Captioner.load(arguments.bundle, device=arguments.device) as captioner:
        bundle_id, ran_on = captioner.bundle_id, captioner.runtime.device
    result = {
        "command": shlex.join(["python", *sys.argv]),
        "machine": describe_machine(ran_on),
        "bundle": arguments.bundle,
        "bundle_id": bundle_id,
        "scenes": {"num": arguments.num, "seed": arguments.seed, "split": "test"},
        "reference": REFERENCE,
        "different": sum(entry["different"] for entry in table.values()),
        "ways": table,
    }
    arguments.out.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", "utf-8")
    print(
        json.dumps(
            {"captions": arguments.num, "ways": len(table), "different": result["different"]}
        )
    )
    sys.exit(1 if result["different"] else 0)


if __name__ == "__main__":
    main()
