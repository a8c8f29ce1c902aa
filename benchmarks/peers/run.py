"""Our captioner beside its peers: the same weights, images, alt-texts and caption lengths.

    python benchmarks/peers/run.py --size small --work DIR
    python benchmarks/peers/run.py --size published --work DIR --pairs scenes

Makes an environment for each contestant and converts one random checkpoint for each (both kept in
DIR), then lets them take turns, one process at a time, until all is measured `--rounds` times or
the budget is spent. Writes benchmarks/results/peers-SIZE.json, .md and .svg. Needs Python 3.11 and
nothing installed; README.md here says how to read the figures.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import platform
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from contestants import CONTESTANTS, PAIRS, REFERENCE, ROOT, Contestant
from environments import folder_bytes, make_environments, python_of, versions_of
from picture import to_svg
from preparation import CONFIGS, decoder_ids, environments_for, make_files
from protocol import Worker, WorkerError
from schedule import Estimates, allowance_s, cells
from summary import agreement, summarise, to_markdown
from traffic import Row, make_rows, read_rows

sys.path.append(str(ROOT))  # a module that needs nothing installed

from altogether_rt.machine.cpuinfo import cpu_features, read_cpuinfo

RESULTS = ROOT / "benchmarks" / "results"

#: Rows and tokens of the comparison of greedy tokens.
_CHECK_ROWS, _CHECK_TOKENS = 6, 6

#: A contestant that hangs is ended so much later than its time.
_GRACE_S = 120.0
_LOAD_TIMEOUT_S = 600.0

#: Packages whose versions explain the figures.
_SHOWN_PACKAGES = (
    *("torch", "transformers", "open_clip_torch", "openvino", "optimum-onnx", "onnxruntime"),
    *("ctranslate2", "altogether-rt"),
)


class Benchmark:
    """The state of one run: what is measured, and what came out so far."""

    def __init__(self, arguments: argparse.Namespace, contestants: Sequence[Contestant]) -> None:
        self.arguments = arguments
        self.contestants = contestants
        self.work: Path = arguments.work.resolve()
        self.folder = self.work / arguments.size
        self.pairs = f"pairs-{arguments.pairs}.json" if arguments.pairs else None
        self.cells = cells(
            arguments.batches, arguments.images, arguments.single_images, arguments.growth
        )
        self.turns: dict[str, list[dict[str, Any]]] = {c.name: [] for c in contestants}
        self.estimates = {c.name: Estimates() for c in contestants}
        self.agreement: dict[str, dict[str, Any]] = {}

    def prepare(self) -> None:
        """Environments and files."""
        self.folder.mkdir(parents=True, exist_ok=True)
        files = ["pixels.npy", *REFERENCE.files]
        files += [file for contestant in self.contestants for file in contestant.files]
        files += [self.pairs] if self.pairs else []
        names = {contestant.environment for contestant in (*self.contestants, REFERENCE)}
        names |= set(environments_for(self.folder, files))
        make_environments(self.work, sorted(names))
        make_files(self.folder, self.arguments.size, files)
        self.ids = decoder_ids(self.folder)
        most, vocab_size = max(cell.images for cell in self.cells), self.ids["vocab_size"]
        seed = self.arguments.seed
        self.check_rows = _cut(make_rows(_CHECK_ROWS, vocab_size, seed), _CHECK_TOKENS)
        if self.pairs:
            self.rows = read_rows(self.folder / self.pairs, most)
        else:
            self.rows = make_rows(most, vocab_size, seed)
        self.versions = self._versions()
        self.sizes = {contestant.name: self._sizes(contestant) for contestant in self.contestants}
        self.reference = {} if self.arguments.prepare_only else self._reference_tokens()

    def measure(self) -> None:
        """All rounds; every other one in reverse order, so that drift hits all alike."""
        deadline = time.monotonic() + 60 * self.arguments.budget_min
        for index in range(self.arguments.rounds):
            order = self.contestants if index % 2 == 0 else self.contestants[::-1]
            for place, contestant in enumerate(order):
                left_s = deadline - time.monotonic()
                rounds_left = self.arguments.rounds - index
                share_s = allowance_s(left_s, len(order) - place, rounds_left)
                if left_s > 0 and self._fits(contestant, share_s):
                    self.turns[contestant.name].append(self._turn(contestant, index, share_s))
                    self.write()

    def _fits(self, contestant: Contestant, allowed_s: float) -> bool:
        """Whether anything could be measured after loading, as far as is known."""
        turns, known = self.turns[contestant.name], self.estimates[contestant.name]
        loads = [turn["load_s"] for turn in turns if "load_s" in turn]
        expected = [known.seconds(cell) or 0.0 for cell in self.cells]
        return max(loads, default=0.0) + min(expected) <= allowed_s

    def _turn(self, contestant: Contestant, round_index: int, allowed_s: float) -> dict[str, Any]:
        """Spawn, load, measure what fits, exit."""
        start = time.monotonic()
        turn: dict[str, Any] = {"cells": {}}
        self._say(f"round {round_index + 1}, {contestant.name}, {allowed_s:.0f} s")
        try:
            with self._worker(contestant) as worker:
                options = contestant.load_options(self.folder, self.ids["pad_id"], self.pairs)
                turn |= worker.load(options, _LOAD_TIMEOUT_S)
                if contestant.name not in self.agreement:
                    self.agreement[contestant.name] = self._compare(worker, contestant)
                worker.run(_cut(self.rows[:2], 4), 2, _LOAD_TIMEOUT_S)  # warms up
                known = self.estimates[contestant.name]
                # What had no time before comes before what would be measured again.
                for cell in sorted(self.cells, key=known.repetitions):
                    left_s = allowed_s - (time.monotonic() - start)
                    expected_s = known.seconds(cell)
                    if expected_s is not None and expected_s > left_s:
                        self._say(f"  {cell.key}: no time, about {expected_s:.0f} s")
                        continue
                    job = worker.run(
                        self.rows[: cell.images], cell.batch, max(left_s, 0) + _GRACE_S
                    )
                    turn["cells"][cell.key] = job
                    known.add(cell, job["seconds"])
                    self._say(f"  {cell.key}: {job['images'] / job['seconds']:.3g} images/s")
        except WorkerError as error:
            self._say(f"  failed: {error}")
            turn["error"] = str(error)
        return turn

    def _worker(self, contestant: Contestant) -> Worker:
        python = python_of(self.work, contestant.environment)
        # Where this package is not installed, the adapter takes the mapper from the checkout.
        variables = {} if contestant.environment == "ours" else {"PYTHONPATH": str(ROOT)}
        log = self.folder / f"{contestant.name}.log"
        threads = self.arguments.threads
        return Worker(python, contestant.adapter, threads=threads, log=log, variables=variables)

    def _reference_tokens(self) -> dict[str, list[list[int]]]:
        """Greedy tokens in float32, for each kind of prompt; kept with the files."""
        path = self.folder / f"reference-{self.arguments.seed}-{_CHECK_ROWS}x{_CHECK_TOKENS}.json"
        if path.is_file():
            kept: dict[str, list[list[int]]] = json.loads(path.read_text())
            return kept
        self._say("preparing the reference tokens")
        tokens = {}
        with self._worker(REFERENCE) as worker:
            worker.load(REFERENCE.load_options(self.folder, self.ids["pad_id"]), _LOAD_TIMEOUT_S)
            for mode in REFERENCE.modes:
                self._say(f"  {mode}")
                # A row at a time: nothing is padded that need not be.
                parts = [worker.tokens([row], mode, _LOAD_TIMEOUT_S) for row in self.check_rows]
                tokens[mode] = [part[0] for part in parts]
        path.write_text(json.dumps(tokens))
        return tokens

    def _compare(self, worker: Worker, contestant: Contestant) -> dict[str, Any]:
        return {
            mode: agreement(
                worker.tokens(self.check_rows, mode, _LOAD_TIMEOUT_S), self.reference[mode]
            )
            for mode in contestant.modes
        }

    def _result(self) -> dict[str, Any]:
        """All figures as plain data."""
        arguments = self.arguments
        listed = []
        for contestant in self.contestants:
            one = {
                **{name: getattr(contestant, name) for name in ("name", "label", "scope")},
                **self.sizes[contestant.name],
                "agreement": self.agreement.get(contestant.name, {}),
                **summarise(self.turns[contestant.name]),
            }
            listed.append(one)
        return {
            "command": shlex.join(["python", *sys.argv]),
            "size": arguments.size,
            "config": CONFIGS[arguments.size],
            "machine": _machine(arguments.threads),
            "versions": self.versions,
            "batches": arguments.batches,
            "decoder_batch": 8 if 8 in arguments.batches else arguments.batches[-1],
            "growth": sorted({16, *arguments.growth}),
            "seed": arguments.seed,
            "pairs": arguments.pairs,
            "contestants": listed,
        }

    def _sizes(self, contestant: Contestant) -> dict[str, int]:
        environment = python_of(self.work, contestant.environment).parent.parent
        return {
            "environment_bytes": folder_bytes(environment),
            "files_bytes": sum(folder_bytes(self.folder / name) for name in _loaded(contestant)),
        }

    def _versions(self) -> dict[str, str]:
        """Where two environments differ, both."""
        found: dict[str, list[str]] = {name: [] for name in _SHOWN_PACKAGES}
        for environment in dict.fromkeys(c.environment for c in self.contestants):
            for name, version in versions_of(self.work, environment).items():
                if name in found and version not in found[name]:
                    found[name].append(version)
        return {name: " and ".join(listed) for name, listed in found.items() if listed}

    def write(self) -> str:
        """Writes the results so far, should the run be interrupted; returns the tables."""
        result, out = self._result(), self.arguments.out
        out.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", "utf-8")
        out.with_suffix(".svg").write_text(to_svg(result), "utf-8")
        table = to_markdown(result)
        out.with_suffix(".md").write_text(table, "utf-8")
        return table

    def _say(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)


def _cut(rows: Sequence[Row], tokens: int) -> list[Row]:
    return [dataclasses.replace(row, caption_tokens=tokens) for row in rows]


def _loaded(contestant: Contestant) -> list[str]:
    """Files whose size counts: those that hold the contestant's weights, each once."""
    if contestant.adapter == "adapters.huggingface":
        return ["checkpoint"]  # the decoder's part of it is what huggingface/ repeats
    return list(contestant.files)


def _machine(threads: int) -> dict[str, Any]:
    values = read_cpuinfo()
    return {
        "processor": values.get("model name", platform.processor()),
        "features": cpu_features(values),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "threads": threads,
        "date": time.strftime("%Y-%m-%d"),
    }


def _numbers(text: str) -> list[int]:
    return sorted({int(part) for part in text.split(",") if part})


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", choices=CONFIGS, required=True)
    parser.add_argument("--work", type=Path, required=True, help="environments and files are kept")
    parser.add_argument("--contestants", help=f"some of {','.join(c.name for c in CONTESTANTS)}")
    parser.add_argument(
        "--pairs", choices=PAIRS, help="real alt-texts and captions in place of lengths alone"
    )
    parser.add_argument("--images", type=int, help="rows of a measurement (16; published: 8)")
    parser.add_argument("--single-images", type=int, help="rows one by one (8; published: 4)")
    parser.add_argument("--batches", type=_numbers, default=[1, 8, 16, 32], metavar="1,8,16,32")
    parser.add_argument("--growth", type=_numbers, default=[64, 256], metavar="64,256")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each contestant, at most")
    parser.add_argument("--budget-min", type=float, default=30.0, help="for measuring alone")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--prepare-only", action="store_true", help="environments and files, no more"
    )
    parser.add_argument("--out", type=Path, help="default: benchmarks/results/peers-SIZE.json")
    arguments = parser.parse_args()
    small = arguments.size == "small"
    arguments.images = arguments.images or (16 if small else 8)
    arguments.single_images = arguments.single_images or (8 if small else 4)
    name = "-".join(filter(None, ("peers", arguments.size, arguments.pairs)))
    arguments.out = arguments.out or RESULTS / f"{name}.json"
    return arguments


def _chosen(names: str | None, pairs: str | None) -> list[Contestant]:
    """Those of `names`, or all; some can take part only where there are real pairs."""
    by_name = {c.name: c for c in CONTESTANTS if pairs or not c.needs_pairs}
    wanted = names.split(",") if names else list(by_name)
    unknown = [name for name in wanted if name not in by_name]
    if unknown:
        raise SystemExit(f"no contestant is called {unknown[0]}; there are {', '.join(by_name)}.")
    return [by_name[name] for name in wanted]


def main() -> None:
    arguments = _arguments()
    benchmark = Benchmark(arguments, _chosen(arguments.contestants, arguments.pairs))
    try:
        benchmark.prepare()
    except WorkerError as error:
        raise SystemExit(f"the reference tokens could not be made: {error}.") from error
    if arguments.prepare_only:
        return
    benchmark.measure()
    print(benchmark.write())


if __name__ == "__main__":
    main()
