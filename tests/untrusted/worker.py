"""Runs many inputs in forked processes, so that one that ends its process is found and counted."""

from __future__ import annotations

import contextlib
import faulthandler
import gc
import multiprocessing
import os
import resource
import signal
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import pyarrow

from altogether_rt.errors import AltogetherError, ImageError

__all__ = ["MAX_PEAK_BYTES", "Outcome", "run_all"]

MAX_PEAK_BYTES = 1 << 30
_MAX_GROWTH_BYTES = 500_000_000
_MAX_SECONDS = 300.0  # without an answer
_MAX_CPU_SECONDS = 30.0  # of using one input: no matter how busy the machine is
_MAX_ADDRESS_SPACE = 24 << 30
_INPUTS_PER_PROCESS = 40


@dataclass(frozen=True)
class Outcome:
    """What became of one input."""

    number: int
    kind: str  # used, refused; traceback, signal, memory, slow: failures
    message: str

    @property
    def failed(self) -> bool:
        return self.kind not in ("used", "refused")


#: Makes the input of a number, and gives what uses it, which alone is judged.
Prepare = Callable[[int], Callable[[], object]]


def run_all(numbers: list[int], prepare: Prepare) -> Iterator[Outcome]:
    """Prepare and use the input of every number, in forked processes; one outcome for each."""
    context = multiprocessing.get_context("fork")
    rest = list(numbers)
    while rest:
        batch = rest[:_INPUTS_PER_PROCESS]
        ours, theirs = context.Pipe()
        process = context.Process(target=_serve, args=(theirs, batch, prepare))
        process.start()
        theirs.close()
        done = 0
        for number in batch:
            try:
                answer = ours.recv() if ours.poll(_MAX_SECONDS) else None
            except EOFError:
                process.join()
                code = process.exitcode or 0
                name = signal.Signals(-code).name if code < 0 else f"exit {code}"
                yield Outcome(number, "signal", name)
                done += 1
                break
            done += 1
            if answer is None:
                process.kill()
                yield Outcome(number, "slow", f"more than {_MAX_SECONDS:.0f} s")
                break
            yield answer
            if answer.kind == "memory":  # it may never give the memory back
                process.kill()
                break
        ours.close()
        process.join()
        rest = rest[done:]


def _serve(connection: Connection, batch: list[int], prepare: Prepare) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (_MAX_ADDRESS_SPACE, _MAX_ADDRESS_SPACE))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    faulthandler.disable()  # the parent tells which signal it was
    silent = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silent, 1)
    os.dup2(silent, 2)
    # A process of the whole suite holds more than a fuzzer alone: that is not the input's doing.
    Path("/proc/self/clear_refs").write_text("5")
    limit = max(MAX_PEAK_BYTES, _peak_bytes() + _MAX_GROWTH_BYTES)
    for number in batch:
        use = prepare(number)
        gc.collect()
        pyarrow.default_memory_pool().release_unused()
        Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
        before = time.process_time()
        kind, message = _judge(use)
        seconds = time.process_time() - before
        peak = _peak_bytes()
        if peak > limit and kind in ("used", "refused"):
            kind, message = "memory", f"{peak / 1e9:.2f} GB ({kind}: {message:.200})"
        if seconds > _MAX_CPU_SECONDS and kind in ("used", "refused"):
            kind, message = "slow", f"{seconds:.0f} s of processor time"
        connection.send(Outcome(number, kind, message))
    connection.close()
    os._exit(0)


def _judge(use: Callable[[], object]) -> tuple[str, str]:
    try:
        use()
    except (AltogetherError, ImageError) as error:
        message = str(error)
        whole = message.endswith(".") and "\n" not in message and len(message) < 2000
        return (
            ("refused", message) if whole else ("traceback", f"not a sentence: {message[:300]!r}")
        )
    except BaseException as error:  # a Rust panic is no Exception
        frames = traceback.extract_tb(error.__traceback__)
        where = [
            f"{Path(f.filename).name}:{f.lineno}" for f in frames if "altogether_rt" in f.filename
        ]
        with contextlib.suppress(Exception):
            return "traceback", f"{type(error).__name__}: {error!s:.160} at {where[-2:]}"
        return "traceback", type(error).__name__
    return "used", ""


def _peak_bytes() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0
