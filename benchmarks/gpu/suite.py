"""The GPU comparison: what is prepared, in which order contestants are measured, what is kept."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from harness.commands import LIMIT_S, Outcome, Part, no_time, python_path, run_part
from harness.contestant import Contestant
from harness.protocol import Worker
from harness.schedule import Cell, Deadline, Estimates, largest_first
from harness.turn import Turn, TurnPlan, is_out_of_memory, take_turn

from altogether_rt.config import load_config
from gpu.contestants import Settings, contestants
from gpu.jpegs import make_jpegs
from gpu.rows import contestant_row, missing_runtime, supported_sizes
from gpu.tasks import NUM_SAMPLES
from gpu.workload import Workload

__all__ = ["Suite", "cell_of"]

#: Seconds for measuring a batch size; more where two runs take longer.
BUDGET_S = 0.5
#: From this size on, so many batches follow each other, as in a run over a dataset: whoever encodes
#: the next one while captions are written is then faster.
STEADY_BATCH, BATCHES = 32, 4
#: A contestant with less time than this is not started: it could hardly load.
MIN_TURN_S = 15.0

_RECORDING, _JPEGS = "recording.pickle", "jpegs"
#: JPEG files of the measurement from files to rows.
NUM_JPEGS = 64


@dataclass
class _Run:
    """One configuration: its folder, its time, and what has been prepared so far."""

    name: str
    config: str
    folder: Path
    deadline: Deadline
    workload: Workload
    prepared: dict[str, Outcome] = field(default_factory=dict)  # by file

    def file(self, name: str) -> Path:
        return self.folder / name


class Suite:
    """Prepares and measures everything; `results` is complete after each step."""

    def __init__(
        self,
        settings: Settings,
        deadline: Deadline,
        save: Callable[[dict[str, Any]], None],
        report: Callable[[str], None],
    ) -> None:
        """save: called with the results whenever there are new figures. report: takes a line about
        what goes on."""
        self._settings = settings
        self._deadline = deadline
        self._save = save
        self._report = report
        self.results: dict[str, Any] = {"ceilings": {}, "configs": {}}

    def run(self) -> dict[str, Any]:
        settings = self._settings
        answer = settings.work / "ceilings.json"
        command = _task("ceilings", answer, device=settings.device, dtypes=[settings.dtype])
        ceilings = self._run_part(Part("ceilings", command, answer, limit_s=60), self._deadline)
        self.results["ceilings"] = ceilings.to_dict()
        for index, config in enumerate(settings.configs):
            deadline = self._deadline.share(len(settings.configs) - index)
            name = Path(config).stem if config.endswith(".toml") else config
            self.results["configs"][name] = {"parts": [], "contestants": []}
            folder = settings.work / name
            folder.mkdir(parents=True, exist_ok=True)
            most = max(cell_of(size).images for size in settings.batch_sizes)
            workload = Workload.of(load_config(config), most)
            np.save(folder / "pixels.npy", workload.pixels)
            self._run_config(_Run(name, config, folder, deadline, workload))
        return self.results

    def _run_config(self, run: _Run) -> None:
        for contestant in contestants(self._settings):
            blocked = self._prepare(run, contestant)
            row = self._contestant(run, contestant, blocked)
            self._keep(run, row)
        # Last: they are counted and not measured, so that they can be added to any result.
        self._floors(run)

    def _prepare(self, run: _Run, contestant: Contestant) -> Outcome | None:
        """Make the files that it loads; the outcome that keeps it from running, if there is one."""
        for file in ("checkpoint", *contestant.files.values()):
            if file not in run.prepared:
                run.prepared[file] = self._make(run, file)
            # Without a reference there is no parity, and everything else is measured.
            if not run.prepared[file].ok and file != _RECORDING:
                return run.prepared[file]
        return None

    def _make(self, run: _Run, file: str) -> Outcome:
        """A checkpoint, the reference's answers, or the bundle of a target."""
        titles = {"checkpoint": "init", _RECORDING: "reference", _JPEGS: "JPEG files"}
        title = titles.get(file, f"export {file}")
        path, checkpoint = run.file(file), run.file("checkpoint")
        if file == _RECORDING:
            path.unlink(missing_ok=True)  # of an earlier run, perhaps of other code
        elif path.exists():
            return Outcome(title, "ok")
        if file == _JPEGS:
            make_jpegs(path, NUM_JPEGS)
            return self._note(run, Outcome(title, "ok", data={"files": NUM_JPEGS}))
        if file == "checkpoint":
            options = ("--config", run.config, "--random-weights", "--out", path)
            return self._part(run, _command(title, "init", *options))
        if not run.prepared["checkpoint"].ok:
            return self._note(run, _without(title, run.prepared["checkpoint"]))
        if file == _RECORDING:
            answer = run.file("reference.json")
            given = {"checkpoint": str(checkpoint), "device": self._settings.device}
            command = _task("reference", answer, **given, recording=str(path))
            return self._part(run, Part(title, command, answer, needs_s=10))
        from altogether_rt.export.recipes import target_names

        if file not in target_names():
            return self._note(run, Outcome(title, "skipped", f"there is no target {file}"))
        missing = missing_runtime(self._settings.targets.get(file, "cpu"))
        if missing is not None:  # an export takes a minute that something else can use
            return self._note(run, Outcome(title, "skipped", missing))
        options = ("--ckpt", checkpoint, "--target", file, "--out", path)
        return self._part(run, _command(title, "export", *options, needs_s=10))

    def _contestant(
        self, run: _Run, contestant: Contestant, blocked: Outcome | None
    ) -> dict[str, Any]:
        """Its row of the results. If it cannot even load because memory runs out, or dies of it, it
        starts again without its largest batch."""
        if blocked is not None:
            return _without(contestant.name, blocked).to_dict() | {"sizes_out_of_memory": []}
        sizes, beyond = supported_sizes(contestant, self._settings.batch_sizes)
        tried: list[int] = []
        while True:
            left_s = run.deadline.remaining_s
            if left_s < MIN_TURN_S:
                turn = Turn("skipped", no_time(MIN_TURN_S, left_s))
            else:
                self._report(f"[{left_s:.0f} s left] {contestant.name}")
                turn = self._turn(run, contestant, sizes, tried)
            if turn.status != "failed" or not is_out_of_memory(turn.reason or "") or len(sizes) < 2:
                break
            tried.append(sizes.pop())
        return contestant_row(contestant, turn, run.workload, tried, beyond)

    def _turn(
        self, run: _Run, contestant: Contestant, sizes: Sequence[int], tried: Sequence[int]
    ) -> Turn:
        inputs: dict[str, Any] = {
            "pixels": str(run.file("pixels.npy")),
            "slots": max([NUM_SAMPLES, *sizes]),
        }

        def on_news(turn: Turn) -> None:
            row = contestant_row(
                contestant, replace(turn, status="timeout"), run.workload, tried, []
            )
            row["reason"] = "it was being measured when this was written"
            self._save_with(run, row)

        plan = TurnPlan(
            cells=largest_first(map(cell_of, sizes)),
            options=contestant.load_options(run.folder, **inputs),
            run=lambda worker, cell, timeout_s: worker.run(
                run.workload.listed[: cell.images],
                cell.batch,
                timeout_s,
                budget_s=BUDGET_S,
                stages=True,
            ),
            on_load=lambda worker, figures: worker.check(max(run.deadline.remaining_s, 0.0)),
            on_news=on_news,
            report=self._report,
        )
        log = run.file(f"{contestant.name}.log")
        log.unlink(missing_ok=True)

        def start() -> Worker:
            variables = {"PYTHONPATH": python_path()}
            return Worker(sys.executable, contestant.adapter, log=log, variables=variables)

        limited = Deadline(min(run.deadline.remaining_s, LIMIT_S))
        return take_turn(start, plan, limited, Estimates(smaller_batch_factor=math.inf))

    def _floors(self, run: _Run) -> None:
        ceilings = self.results["ceilings"]["data"]
        rate = ceilings.get("operations_per_s", {}).get(self._settings.dtype)
        if rate is None:
            return
        rates = {"operations_per_s": rate, "bytes_per_s": ceilings["bytes_per_s"]}
        answer = run.file("floors.json")
        command = _task(
            "floors",
            answer,
            config=run.config,
            batch_sizes=list(self._settings.batch_sizes),
            rates=rates,
            number_bytes=self._settings.number_bytes,
        )
        outcome = self._part(run, Part("floors", command, answer))
        self.results["configs"][run.name]["floor_s"] = outcome.data.get("floor_s", {})
        self._save(self.results)

    def _part(self, run: _Run, part: Part) -> Outcome:
        limited = replace(part, limit_s=min(part.limit_s, max(run.deadline.remaining_s, 1)))
        return self._note(run, self._run_part(limited, run.deadline))

    def _run_part(self, part: Part, deadline: Deadline) -> Outcome:
        self._report(f"[{deadline.remaining_s:.0f} s left] {part.name}")
        if part.answer is not None:
            part.answer.unlink(missing_ok=True)
        outcome = run_part(part, deadline)
        if not outcome.ok:
            self._report(f"  {outcome.status}: {outcome.reason}")
        return outcome

    def _note(self, run: _Run, outcome: Outcome) -> Outcome:
        self.results["configs"][run.name]["parts"].append(outcome.to_dict())
        self._save(self.results)
        return outcome

    def _keep(self, run: _Run, row: dict[str, Any]) -> None:
        self.results["configs"][run.name]["contestants"].append(row)
        self._save(self.results)

    def _save_with(self, run: _Run, row: dict[str, Any]) -> None:
        """Save the results as they would be with a row that is not finished."""
        listed = self.results["configs"][run.name]["contestants"]
        listed.append(row)
        self._save(self.results)
        listed.pop()


def cell_of(size: int) -> Cell:
    """What is measured of a batch size."""
    return Cell(size, size if size < STEADY_BATCH else BATCHES * size)


def _command(title: str, *arguments: str | Path, needs_s: float = 5) -> Part:
    command = [sys.executable, "-m", "altogether_rt.cli.main", *map(str, arguments), "--quiet"]
    return Part(title, command, needs_s=needs_s)


def _task(task: str, answer: Path, **request: Any) -> list[str]:
    """The command that runs one task of `tasks.py`."""
    text = json.dumps({"task": task, "answer": str(answer), **request})
    return [sys.executable, "-m", "gpu.tasks", text]


def _without(title: str, before: Outcome) -> Outcome:
    return Outcome(title, "skipped", f"{before.name} {before.status}: {before.reason}")
