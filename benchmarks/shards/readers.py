"""Other readers of WebDataset tars, given faulty ones."""

from __future__ import annotations

import importlib.util
import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
import warnings
from pathlib import Path

from PIL import Image

from benchmarks.shards.outcome import Outcome, count_rows

__all__ = ["keys_of", "ray_rows", "webdataset"]

#: Seconds in which a run of Ray must end.
_TIMEOUT_S = 420

RAY = "Ray rows"


def keys_of(inputs: Path) -> set[str]:
    """The keys of all samples in whole tars."""
    keys = set()
    for path in inputs.glob("*.tar"):
        with tarfile.open(path) as tar:
            keys |= {name.partition(".")[0] for name in tar.getnames() if name.endswith(".png")}
    return keys


def webdataset(fault: str, inputs: Path, expected: set[str]) -> Outcome:
    """What webdataset yields, told to warn and to go on; its captions are not written."""
    outcome = Outcome(fault, "webdataset", 1, 0, 0)
    try:
        import webdataset as wds
    except ImportError:
        outcome.skipped = "webdataset is not installed"
        return outcome
    found: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        urls = sorted(map(str, inputs.glob("*.tar")))
        for sample in wds.WebDataset(urls, handler=wds.warn_and_continue, shardshuffle=False):
            try:
                Image.open(io.BytesIO(sample["png"])).convert("RGB")
            except (KeyError, OSError):
                continue
            found.append(sample["__key__"])
    outcome.lost = len(expected - set(found))
    outcome.doubled = len(found) - len(set(found))
    said = [
        str(warning.message).splitlines()[0][:160]
        for warning in caught
        if issubclass(warning.category, UserWarning)
    ]
    outcome.told = f"a warning: {said[-1]}" if said else "nothing"
    return outcome


def ray_rows(
    tars: list[tuple[str, Path, set[str]]], inputs: Path, keys: set[str], out: Path
) -> list[Outcome]:
    """Ray's rows over faulty tars, and after its driver was killed."""
    kill = "kill -9 of a driver"
    if importlib.util.find_spec("ray") is None:
        skipped = "ray is not installed"
        return [Outcome(fault, RAY, 1, 0, 0, skipped=skipped) for fault in [*_names(tars), kill]]
    outcomes = []
    pairs = [str(part) for fault, folder, _ in tars for part in (folder, out / fault)]
    done = subprocess.run(
        _command(pairs), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=_TIMEOUT_S
    )
    said = [json.loads(line)["error"] for line in done.stdout.splitlines() if line[:1] == b"{"]
    for (fault, _, expected), error in zip(tars, said, strict=True):
        lost, doubled = count_rows((out / fault).glob("*.parquet"), expected)
        told = f"the run ends: {error[:120]}" if error else "nothing"
        outcomes.append(Outcome(fault, RAY, 1, lost, doubled, told=told))
    outcomes.append(_killed_driver(kill, inputs, keys, out / "killed"))
    return outcomes


def _killed_driver(fault: str, inputs: Path, keys: set[str], out: Path) -> Outcome:
    outcome = Outcome(fault, RAY, 0, 0, 0, reruns=0)
    command = _command([str(inputs), str(out)], "--delay", "0.05")
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    deadline = time.monotonic() + _TIMEOUT_S
    while process.poll() is None and time.monotonic() < deadline:
        if len(list(out.glob("*.parquet"))) >= 2:
            process.send_signal(signal.SIGKILL)
            outcome.times = 1
            break
        time.sleep(0.05)
    process.wait()
    time.sleep(10)  # until Ray's own processes have noticed
    outcome.reruns = 1
    subprocess.run(
        _command([str(inputs), str(out)]),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        timeout=_TIMEOUT_S,
        env={**os.environ},
    )
    outcome.lost, outcome.doubled = count_rows(out.glob("*.parquet"), keys)
    return outcome


def _names(tars: list[tuple[str, Path, set[str]]]) -> list[str]:
    return [fault for fault, _, _ in tars]


def _command(folders: list[str], *options: str) -> list[str]:
    return [
        sys.executable,
        "-m",
        "benchmarks.shards.ray_rows",
        *folders,
        "--workers",
        "2",
        *options,
    ]
