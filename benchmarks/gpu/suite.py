"""Which parts a run has, in which order, and what each needs from the ones before it."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from .clock import Deadline
from .parts import LIMIT_S, Outcome, Part, run_part, worker_command

__all__ = ["Settings", "Suite", "write_json"]

#: Batch of the public pipeline.
PUBLISHED_BATCH = 128


@dataclass(frozen=True)
class Settings:
    """What to measure, and where."""

    device: str  # cuda, cpu
    configs: Sequence[str]  # names, or paths of .toml files
    batch_sizes: Sequence[int]
    work: Path  # folder for checkpoints and bundles
    #: target -> device that its bundle runs on
    targets: dict[str, str] = field(default_factory=dict)
    #: Target that is exported for its parity alone.
    yardstick: str | None = "cpu-fp32"
    peers: Sequence[str] = (
        "public-pipeline", "hf-static-compile", "hf-continuous-batching", "vllm",
    )  # fmt: skip

    @property
    def dtype(self) -> str:
        """Precision of the contestants; on a CPU the code is tested and not the speed."""
        return "float16" if self.device == "cuda" else "float32"

    @property
    def number_bytes(self) -> int:
        return 2 if self.dtype == "float16" else 4


@dataclass(frozen=True)
class _Checkpoint:
    config: str
    folder: Path
    deadline: Deadline

    def file(self, name: str) -> Path:
        return self.folder / name


class Suite:
    """Runs all parts; `results` is complete after each of them."""

    def __init__(
        self,
        settings: Settings,
        deadline: Deadline,
        save: Callable[[dict[str, Any]], None],
        report: Callable[[str], None],
    ) -> None:
        self._settings = settings
        self._deadline = deadline
        self._save = save
        self._report = report
        self.results: dict[str, Any] = {"ceilings": {}, "configs": {}}

    def run(self) -> dict[str, Any]:
        settings = self._settings
        answer = settings.work / "ceilings.json"
        dtypes = [settings.dtype]
        command = worker_command("ceilings", answer, device=settings.device, dtypes=dtypes)
        ceilings = self._run(Part("ceilings", command, answer, limit_s=60), self._deadline)
        self.results["ceilings"] = ceilings.to_dict()
        for index, config in enumerate(settings.configs):
            deadline = self._deadline.share(len(settings.configs) - index)
            name = Path(config).stem if config.endswith(".toml") else config
            self.results["configs"][name] = {"parts": [], "contestants": []}
            checkpoint = _Checkpoint(config, settings.work / name, deadline)
            checkpoint.folder.mkdir(parents=True, exist_ok=True)
            self._config(name, checkpoint)
        return self.results

    def _config(self, name: str, at: _Checkpoint) -> None:
        """What shows the most comes first: what is left when time runs out is the least."""
        settings, ckpt = self._settings, at.file("checkpoint")
        init = ("init", "--config", at.config, "--random-weights", "--out", ckpt, "--quiet")
        made = Outcome("init", "ok")
        if not ckpt.exists():
            made = self._part(name, at, _command("init", *init))
        self._floors(name, at)
        common = {"checkpoint": str(ckpt), "device": settings.device}
        recording = {"recording": str(at.file("recording.pickle"))}
        self._task(name, at, made, "reference", "reference", needs_s=10, **common, **recording)
        own = {**common, **recording, "dtype": settings.dtype}
        self._contestant(name, at, made, f"torch-{settings.dtype}", "runtime", **own)
        for peer in settings.peers[:1]:
            self._peer(name, at, made, peer, common)
        for target, device in settings.targets.items():
            exported = self._export(name, at, made, target)
            bundle = {"bundle": str(at.file(target)), "device": device, **recording}
            self._contestant(name, at, exported, target, "runtime", **bundle)
        for peer in settings.peers[1:]:
            self._peer(name, at, made, peer, common)
        if settings.yardstick is not None:
            exported = self._export(name, at, made, settings.yardstick)
            bundle = {"bundle": str(at.file(settings.yardstick)), "device": "cpu", **recording}
            self._contestant(name, at, exported, settings.yardstick, "runtime", sizes=(), **bundle)

    def _peer(self, name: str, at: _Checkpoint, made: Outcome, peer: str, common: Any) -> None:
        dtype = self._settings.dtype
        autocast = "float16" if self._settings.device == "cuda" else "bfloat16"
        sizes = self._settings.batch_sizes
        if peer == "public-pipeline":
            sizes = [min(PUBLISHED_BATCH, max(sizes))]
        extra = {"dtype": dtype, "autocast": autocast}
        self._contestant(name, at, made, peer, peer, sizes=sizes, **common, **extra)

    def _export(self, name: str, at: _Checkpoint, made: Outcome, target: str) -> Outcome:
        from altogether_rt.export.recipes import target_names

        title = f"export {target}"
        if target not in target_names():
            return self._note(name, Outcome(title, "skipped", f"there is no target {target}"))
        ckpt, out = at.file("checkpoint"), at.file(target)
        if out.exists():
            return Outcome(title, "ok")
        if not made.ok:
            return self._note(name, _without(title, made))
        export = ("export", "--ckpt", ckpt, "--target", target, "--out", out, "--quiet")
        return self._part(name, at, _command(title, *export, needs_s=10))

    def _floors(self, name: str, at: _Checkpoint) -> None:
        ceilings = self.results["ceilings"]["data"]
        rate = ceilings.get("operations_per_s", {}).get(self._settings.dtype)
        if rate is None:
            return
        rates = {"operations_per_s": rate, "bytes_per_s": ceilings["bytes_per_s"]}
        outcome = self._task(
            name, at, Outcome("ceilings", "ok"), "floors", "floors",
            config=at.config, batch_sizes=list(self._settings.batch_sizes), rates=rates,
            number_bytes=self._settings.number_bytes,
        )  # fmt: skip
        self.results["configs"][name]["floor_s"] = outcome.data.get("floor_s", {})

    def _contestant(
        self,
        name: str,
        at: _Checkpoint,
        before: Outcome,
        contestant: str,
        task: str,
        *,
        sizes: Sequence[int] | None = None,
        **request: Any,
    ) -> None:
        """A contestant that runs out of memory goes again without its largest batch."""
        left = sorted(self._settings.batch_sizes if sizes is None else sizes)
        tried: list[int] = []
        while True:
            outcome = self._task(
                None, at, before, contestant, task, needs_s=15, batch_sizes=left, **request
            )
            out_of_memory = "out of memory" in (outcome.reason or "").lower()
            if outcome.status != "failed" or not out_of_memory or len(left) < 2:
                break
            tried.append(left.pop())
        row = outcome.to_dict() | {"sizes_out_of_memory": tried}
        self.results["configs"][name]["contestants"].append(row)
        self._save(self.results)

    def _task(
        self,
        name: str | None,
        at: _Checkpoint,
        before: Outcome,
        title: str,
        task: str,
        needs_s: float = 5,
        **request: Any,
    ) -> Outcome:
        """Runs a task of the worker; name None: its outcome is the caller's to keep."""
        if not before.ok:
            outcome = _without(title, before)
            return outcome if name is None else self._note(name, outcome)
        answer = at.file(f"{title}.json")
        answer.unlink(missing_ok=True)
        seconds = max(min(at.deadline.remaining_s, LIMIT_S) - needs_s, 0)
        command = worker_command(task, answer, seconds=seconds, **request)
        part = Part(title, command, answer, needs_s)
        return self._part(name, at, part)

    def _part(self, name: str | None, at: _Checkpoint, part: Part) -> Outcome:
        part = replace(part, limit_s=min(part.limit_s, max(at.deadline.remaining_s, 1)))
        outcome = self._run(part, at.deadline)
        return outcome if name is None else self._note(name, outcome)

    def _run(self, part: Part, deadline: Deadline) -> Outcome:
        self._report(f"[{deadline.remaining_s:.0f} s left] {part.name}")
        outcome = run_part(part, deadline)
        if not outcome.ok:
            self._report(f"    {outcome.status}: {outcome.reason}")
        return outcome

    def _note(self, name: str, outcome: Outcome) -> Outcome:
        self.results["configs"][name]["parts"].append(outcome.to_dict())
        self._save(self.results)
        return outcome


def _command(title: str, *arguments: str | Path, needs_s: float = 5) -> Part:
    command = [sys.executable, "-m", "altogether_rt.cli.main", *map(str, arguments)]
    return Part(title, command, needs_s=needs_s)


def _without(title: str, before: Outcome) -> Outcome:
    return Outcome(title, "skipped", f"{before.name} {before.status}: {before.reason}")


def write_json(path: Path, data: dict[str, Any]) -> None:
    """Replaces `path` at once, so that it is whole whenever the run is stopped."""
    temporary = path.with_suffix(".new")
    temporary.write_text(json.dumps(data, indent=2, ensure_ascii=False) + "\n", "utf-8")
    temporary.replace(path)
