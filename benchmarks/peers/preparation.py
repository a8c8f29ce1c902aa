"""One random checkpoint, and the form of it that each contestant loads; made once and kept."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from harness.contestant import BENCHMARKS, ROOT

from peers.contestants import PAIRS
from peers.environments import python_of

__all__ = [
    "CONFIGS",
    "HERE",
    "STEPS",
    "Step",
    "decoder_ids",
    "environments_for",
    "make_files",
    "steps_for",
]

#: Named configurations of the two sizes.
CONFIGS = {"small": "altogether-opt-125m", "published": "altogether-opt-1.3b"}

#: Where the scripts of this folder are.
HERE = Path(__file__).resolve().parent

_TOOL = ("-m", "altogether_rt.cli.main")


@dataclass(frozen=True)
class Step:
    """Makes one file or folder. `{work}`, `{config}`, `{out}` and `{here}` are filled in."""

    environment: str
    command: tuple[str, ...]  # arguments of the environment's Python
    after: tuple[str, ...] = ()


STEPS: dict[str, Step] = {
    "checkpoint": Step(
        "tools", (*_TOOL, "init", "--config", "{config}", "--random-weights", "--out", "{out}")
    ),
    "pixels.npy": Step("tools", ("{here}/convert/images.py", "{out}")),
    "huggingface": Step(
        "public", ("{here}/convert/huggingface.py", "{work}/checkpoint", "{out}"), ("checkpoint",)
    ),
    **{
        f"ours-{target}": Step(
            "tools",
            (
                *(*_TOOL, "export", "--ckpt", "{work}/checkpoint"),
                *("--target", f"cpu-{target}", "--out", "{out}"),
            ),
            ("checkpoint",),
        )
        for target in ("fp32", "int8")
    },
    **{
        f"pairs-{source}.json": Step(
            "ours",
            ("{here}/convert/real_pairs.py", source, "{work}/ours-int8", "{out}"),
            ("ours-int8",),
        )
        for source in PAIRS
    },
    "openvino": Step(
        "tools-older",
        ("{here}/convert/openvino_ir.py", "{work}/checkpoint", "{work}/huggingface", "{out}"),
        ("huggingface",),
    ),
    "onnx": Step(
        "optimum-onnx",
        ("{here}/convert/onnx_decoder.py", "{work}/huggingface", "{out}"),
        ("huggingface",),
    ),
    "ctranslate2": Step(
        "tools-older",
        ("{here}/convert/ctranslate.py", "{work}/huggingface", "{out}"),
        ("huggingface",),
    ),
}


def steps_for(files: Iterable[str]) -> list[str]:
    """The steps that make `files`, in order."""
    wanted: list[str] = []
    for name in files:
        for step in (*steps_for(STEPS[name].after), name):
            if step not in wanted:
                wanted.append(step)
    return wanted


def environments_for(work: Path, files: Iterable[str]) -> list[str]:
    """Environments of the steps that are still to be done."""
    missing = [name for name in steps_for(files) if not (work / name).exists()]
    return sorted({STEPS[name].environment for name in missing})


def make_files(work: Path, size: str, files: Iterable[str]) -> dict[str, float]:
    """Make the files that are missing; returns the seconds of each step. Exits if one fails."""
    took = {}
    for name in steps_for(files):
        if (work / name).exists():
            continue
        step, start = STEPS[name], time.monotonic()
        print(f"preparing {name} …", file=sys.stderr, flush=True)
        partial = work / f"partial-{name}"
        shutil.rmtree(partial, ignore_errors=True)
        values = {"work": work, "config": CONFIGS[size], "out": partial, "here": HERE}
        arguments = [argument.format(**values) for argument in step.command]
        # Environments without this package take it from the checkout.
        paths = os.pathsep.join([str(ROOT), str(BENCHMARKS)])
        variables = {**os.environ, "PYTHONPATH": paths, "HF_HUB_OFFLINE": "1"}
        command = [str(python_of(work.parent, step.environment)), *arguments]
        done = subprocess.run(command, env=variables, stdout=subprocess.DEVNULL)
        if done.returncode:
            raise SystemExit(f"{name} could not be made: {' '.join(command)}")
        partial.rename(work / name)
        took[name] = round(time.monotonic() - start, 1)
    return took


def decoder_ids(work: Path) -> dict[str, int]:
    """`vocab_size` and `pad_id` of the checkpoint."""
    decoder = json.loads((work / "checkpoint" / "config.json").read_text("utf-8"))["decoder"]
    return {name: decoder[name] for name in ("vocab_size", "pad_id")}
