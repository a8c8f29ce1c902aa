"""The CPU comparison: rounds of turns of contestants, and the files that are written."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import platform
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.contestant import ROOT, Contestant
from harness.protocol import Worker
from harness.schedule import Cell, Deadline, Estimates, allowance_s, cells, largest_first
from harness.summary import agreement, summarise
from harness.turn import Turn, TurnPlan, take_turn

from altogether_rt.machine.cpuinfo import cpu_features, read_cpuinfo
from peers.contestants import REFERENCE
from peers.environments import folder_bytes, make_environments, python_of, versions_of
from peers.picture import to_svg
from peers.preparation import CONFIGS, decoder_ids, environments_for, make_files
from peers.tables import to_markdown
from peers.traffic import make_rows, read_rows

__all__ = ["PeerSuite", "cut"]

#: Rows and tokens of the comparison of greedy tokens.
_CHECK_ROWS, _CHECK_TOKENS = 6, 6

#: A contestant that hangs is ended so many seconds after its time.
_GRACE_S = 120.0
_LOAD_TIMEOUT_S = 600.0

#: Packages whose versions explain the figures.
_SHOWN_PACKAGES = (
    *("torch", "transformers", "open_clip_torch", "openvino", "optimum-onnx", "onnxruntime"),
    *("ctranslate2", "altogether-rt"),
)


class PeerSuite:
    """The state of one run: what is measured, and the results so far."""

    def __init__(self, arguments: argparse.Namespace, contestants: Sequence[Contestant]) -> None:
        self.arguments = arguments
        self.contestants = contestants
        self.work: Path = arguments.work.resolve()
        self.folder = self.work / arguments.size
        self.pairs = f"pairs-{arguments.pairs}.json" if arguments.pairs else None
        listed = cells(
            arguments.batches, arguments.images, arguments.single_images, arguments.growth
        )
        self.cells = largest_first(listed) if arguments.largest_first else listed
        self.turns: dict[str, list[dict[str, Any]]] = {c.name: [] for c in contestants}
        self.estimates = {c.name: Estimates() for c in contestants}
        self.agreement: dict[str, dict[str, Any]] = {}

    def prepare(self) -> None:
        """Make environments, files and the reference tokens."""
        self.folder.mkdir(parents=True, exist_ok=True)
        listed = (*self.contestants, REFERENCE)
        files = ["pixels.npy", *REFERENCE.files.values()]
        files += [file for contestant in self.contestants for file in contestant.files.values()]
        files += [self.pairs] if self.pairs else []
        names = {contestant.environment for contestant in listed if contestant.environment}
        names |= set(environments_for(self.folder, files))
        make_environments(self.work, sorted(names))
        make_files(self.folder, self.arguments.size, files)
        self.ids = decoder_ids(self.folder)
        num_rows, vocab_size = max(cell.images for cell in self.cells), self.ids["vocab_size"]
        seed = self.arguments.seed
        self.check_rows = cut(make_rows(_CHECK_ROWS, vocab_size, seed), _CHECK_TOKENS)
        if self.pairs:
            self.rows = read_rows(self.folder / self.pairs, num_rows)
        else:
            self.rows = make_rows(num_rows, vocab_size, seed)
        self.versions = self._versions()
        self.sizes = {contestant.name: self._sizes(contestant) for contestant in self.contestants}
        self.reference = {} if self.arguments.prepare_only else self._reference_tokens()

    def measure(self) -> None:
        """All rounds; every other one in reverse order, so that drift affects all alike."""
        deadline = Deadline(self.arguments.seconds)
        for index in range(self.arguments.rounds):
            order = self.contestants if index % 2 == 0 else self.contestants[::-1]
            for position, contestant in enumerate(order):
                left_s = deadline.remaining_s
                rounds_left = self.arguments.rounds - index
                share_s = allowance_s(left_s, len(order) - position, rounds_left)
                if left_s > 0 and self._fits(contestant, share_s):
                    self._take_turn(contestant, index, share_s)

    def _fits(self, contestant: Contestant, allowed_s: float) -> bool:
        """Whether anything can be measured after loading, as far as is known."""
        turns, known = self.turns[contestant.name], self.estimates[contestant.name]
        loads = [turn["load_s"] for turn in turns if "load_s" in turn]
        expected = [known.seconds(cell) or 0.0 for cell in self.cells]
        return max(loads, default=0.0) + min(expected) <= allowed_s

    def _take_turn(self, contestant: Contestant, round_index: int, allowed_s: float) -> None:
        say(f"round {round_index + 1}, {contestant.name}, {allowed_s:.0f} s")
        turns, known = self.turns[contestant.name], self.estimates[contestant.name]
        turns.append({"cells": {}})

        def on_news(turn: Turn) -> None:
            turns[-1] = _measured(turn)
            self.write()

        plan = TurnPlan(
            # Cells that had no time before come before those that would be measured again.
            cells=sorted(self.cells, key=known.repetitions),
            options=self._options(contestant),
            run=lambda worker, cell, timeout_s: worker.run(
                self.rows[: cell.images], cell.batch, timeout_s
            ),
            load_timeout_s=_LOAD_TIMEOUT_S,
            grace_s=_GRACE_S,
            on_load=lambda worker, figures: self._after_loading(worker, contestant),
            on_news=on_news,
            report=say,
        )
        on_news(take_turn(lambda: self._worker(contestant), plan, Deadline(allowed_s), known))

    def _after_loading(self, worker: Worker, contestant: Contestant) -> dict[str, Any]:
        """Compare its tokens with the reference, once, and warm up."""
        if contestant.name not in self.agreement:
            self.agreement[contestant.name] = {
                mode: agreement(
                    worker.tokens(self.check_rows, mode, _LOAD_TIMEOUT_S), self.reference[mode]
                )
                for mode in contestant.modes
            }
        worker.run(cut(self.rows[:2], 4), 2, _LOAD_TIMEOUT_S)
        return {}

    def _options(self, contestant: Contestant) -> dict[str, Any]:
        inputs: dict[str, Any] = {
            "pixels": str(self.folder / "pixels.npy"),
            "embeddings": str(self.folder / "huggingface" / "embeddings.npy"),
            "pad_id": self.ids["pad_id"],
        }
        if contestant.needs_pairs and self.pairs:
            inputs["taught"] = str(self.folder / self.pairs)
        return contestant.load_options(self.folder, **inputs)

    def _worker(self, contestant: Contestant) -> Worker:
        assert contestant.environment is not None
        variables = {"CUDA_VISIBLE_DEVICES": ""}
        if contestant.environment != "ours":
            # Where this package is not installed, adapters take the mapper from the checkout.
            variables["PYTHONPATH"] = str(ROOT)
        return Worker(
            python_of(self.work, contestant.environment),
            contestant.adapter,
            threads=self.arguments.threads,
            log=self.folder / f"{contestant.name}.log",
            variables=variables,
        )

    def _reference_tokens(self) -> dict[str, list[list[int]]]:
        """Greedy tokens in float32, for each kind of prompt; kept with the files."""
        path = self.folder / f"reference-{self.arguments.seed}-{_CHECK_ROWS}x{_CHECK_TOKENS}.json"
        if path.is_file():
            kept: dict[str, list[list[int]]] = json.loads(path.read_text())
            return kept
        say("preparing the reference tokens")
        tokens = {}
        with self._worker(REFERENCE) as worker:
            worker.load(self._options(REFERENCE), _LOAD_TIMEOUT_S)
            for mode in REFERENCE.modes:
                say(f"  {mode}")
                # A row at a time: nothing is padded that need not be.
                parts = [worker.tokens([row], mode, _LOAD_TIMEOUT_S) for row in self.check_rows]
                tokens[mode] = [part[0] for part in parts]
        path.write_text(json.dumps(tokens))
        return tokens

    def _result(self) -> dict[str, Any]:
        """All figures as plain data."""
        arguments = self.arguments
        listed = [
            {
                **{name: getattr(contestant, name) for name in ("name", "label", "scope")},
                **self.sizes[contestant.name],
                "agreement": self.agreement.get(contestant.name, {}),
                **summarise(self.turns[contestant.name]),
            }
            for contestant in self.contestants
        ]
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
        assert contestant.environment is not None
        environment = python_of(self.work, contestant.environment).parent.parent
        files = dict(contestant.files)
        if "checkpoint" in files:
            files.pop("huggingface", None)  # repeats the decoder of the checkpoint
        return {
            "environment_bytes": folder_bytes(environment),
            "files_bytes": sum(folder_bytes(self.folder / name) for name in files.values()),
        }

    def _versions(self) -> dict[str, str]:
        """Both, where two environments differ."""
        found: dict[str, list[str]] = {name: [] for name in _SHOWN_PACKAGES}
        for environment in dict.fromkeys(c.environment for c in self.contestants if c.environment):
            for name, version in versions_of(self.work, environment).items():
                if name in found and version not in found[name]:
                    found[name].append(version)
        return {name: " and ".join(listed) for name, listed in found.items() if listed}

    def write(self) -> str:
        """Write the results so far, in case the run is interrupted; returns the tables."""
        result, out = self._result(), self.arguments.out
        out.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", "utf-8")
        out.with_suffix(".svg").write_text(to_svg(result), "utf-8")
        table = to_markdown(result)
        out.with_suffix(".md").write_text(table, "utf-8")
        return table


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def cut(rows: Sequence[Any], tokens: int) -> list[Any]:
    """`rows` with captions of so many tokens."""
    return [dataclasses.replace(row, caption_tokens=tokens) for row in rows]


def _measured(turn: Turn) -> dict[str, Any]:
    """The turn as `summarise` takes it."""
    reasons = [turn.reason, *turn.sweep.failed.values(), *_memory(turn.sweep.out_of_memory)]
    errors = [reason for reason in reasons if reason is not None]
    found: Mapping[str, Any] = {cell.key: job for cell, job in turn.sweep.done.items()}
    return {**turn.figures, "cells": found, **({"error": errors[0]} if errors else {})}


def _memory(listed: Sequence[Cell]) -> list[str]:
    return [f"out of memory at batch {cell.batch}" for cell in listed]


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
