"""Speed of patch-token captioners beside other software: the same weights, images and prompts.

    python benchmarks/published_vlm.py … --keep --work WORK     # weights, checkpoints, bundles
    python benchmarks/vlm_peers.py --work WORK [--only distilvit2,smolvlm-256m] \\
        [--openvino ENVIRONMENT] [--llama-cpp ENVIRONMENT]

Environments are folders of virtual environments: for OpenVINO with optimum-intel[openvino], nncf
and transformers<4.58, the newest that optimum-intel 2.2 converts these models with; for llama.cpp
with xllamacpp, gguf and numpy. Conversions (8-bit weights; for llama.cpp 4-bit ones of the decoder
too) are made once in WORK. Contestants take turns, one image or several at a time,
each in a process of its own that stays loaded; encoder, mapper and decoder are in the time,
reading the file is not. All write --tokens tokens; ours without drafting. Writes
benchmarks/results/vlm-peers.json and .md, with the load of the machine: trust ratios.

llama.cpp reads a SmolVLM's image in tiles and as a whole, two at least, where the others read one:
it is asked with two and with five, and the table has both and what one would take, extrapolated.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT))

from vlm.preparation import (  # noqa: E402
    TILES,
    llama_cpp_folder,
    openvino_folder,
    write_question,
)

from altogether_rt.bench.report import describe_machine  # noqa: E402

BENCHMARKS, RESULTS = ROOT / "benchmarks", ROOT / "benchmarks" / "results"
LLAMA_CPP_KINDS = ("Q8_0", "Q4_0")
LLAMA_CPP = (
    "llama.cpp reads tiles of the image and then the whole, two at least, where the others read "
    "one. It was asked with two and with five; the row of one tile is two less a third of the "
    "difference, which is a tile's encoder and prefill. Its wheel is compiled for AVX2, without "
    "the 512-bit and VNNI instructions that the others use on this machine."
)


class Contestant:
    """A process that takes turns."""

    def __init__(self, python: str, kind: str, folder: Path, question: Path, options: Any) -> None:
        variables = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join((str(ROOT), str(BENCHMARKS))),
            "OMP_NUM_THREADS": str(options.threads),
            "HF_HUB_OFFLINE": "1",
        }
        arguments = (kind, folder, question, options.tokens, options.threads)
        self._process = subprocess.Popen(
            [python, "-P", "-m", "vlm.contestant", *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=variables,
        )
        self.turns: dict[int, list[dict[str, float]]] = {}
        self._reply()

    def turn(self, images: int, *, keep: bool) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{images}\n")
        self._process.stdin.flush()
        found = self._reply()
        if keep:
            self.turns.setdefault(images, []).append(found)

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def _reply(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("{"):
                reply: dict[str, Any] = json.loads(line)
                return reply
        raise SystemExit(f"a contestant ended: {self._process.args}")


def run(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """All contestants of one structure, taking turns."""
    work = options.work / name
    question = write_question(work)
    mine = sys.executable
    entries: list[tuple[str, str, str, Path]] = [
        (f"ours, {target}", mine, "ours", work / target)
        for target in options.targets.split(",")
        if (work / target).is_dir()
    ]
    entries.append(("transformers, float32", mine, "transformers", work / "published"))
    entries.append(("transformers, bfloat16", mine, "bfloat16", work / "published"))
    if options.openvino is not None:
        converted = openvino_folder(options.openvino, work)
        if converted is not None:
            python = str(options.openvino / "bin" / "python")
            entries.append(("OpenVINO, int8 weights", python, "openvino", converted))
    for kind in LLAMA_CPP_KINDS if options.llama_cpp is not None else ():
        written = llama_cpp_folder(options.llama_cpp, work, kind)
        python = str(options.llama_cpp / "bin" / "python")
        for tiles in TILES if written is not None else ():
            label = f"llama.cpp, {kind}, {tiles} tiles"
            entries.append((label, python, "llama_cpp", written / str(tiles)))
    agreed = _agreement(options.llama_cpp, work, name)
    contestants = {
        label: Contestant(python, kind, folder, question, options)
        for label, python, kind, folder in entries
    }
    load = [os.getloadavg()[0]]
    for index in range(options.turns + 1):
        for images in map(int, options.batches.split(",")):
            for contestant in contestants.values():
                contestant.turn(images, keep=index > 0)  # the first warms up
        load.append(os.getloadavg()[0])
    rows: dict[str, Any] = {}
    for label, contestant in contestants.items():
        contestant.close()
        rows[label] = {
            str(images): {
                "image_s": statistics.median(turn["seconds"] / images for turn in turns),
                "fastest_image_s": min(turn["seconds"] / images for turn in turns),
                "tokens": statistics.median(turn["tokens"] / images for turn in turns),
            }
            for images, turns in contestant.turns.items()
        }
    for kind in LLAMA_CPP_KINDS:
        _extrapolate(rows, f"llama.cpp, {kind}")
    found: dict[str, Any] = {"contestants": rows, "load": [round(value, 1) for value in load]}
    return found if agreed is None else {**found, "llama.cpp": agreed}


def _agreement(environment: Path | None, work: Path, name: str) -> dict[str, Any] | None:
    """How llama.cpp's float16 agrees with transformers; in a process that then frees its memory."""
    if environment is None or llama_cpp_folder(environment, work, "F16") is None:
        return None
    command = [sys.executable, "-P", "-m", "vlm.agreement", environment, work, name]
    variables = {**os.environ, "PYTHONPATH": os.pathsep.join((str(ROOT), str(BENCHMARKS)))}
    run = subprocess.run(
        [*map(str, command)], check=True, stdout=subprocess.PIPE, text=True, env=variables
    )
    agreed: dict[str, Any] = json.loads(run.stdout.splitlines()[-1])
    return agreed


def _extrapolate(rows: dict[str, Any], label: str) -> None:
    """Add what llama.cpp would take for one tile."""
    (few, fewer), (many, more) = ((n, rows.get(f"{label}, {n} tiles")) for n in sorted(TILES))
    if fewer is None or more is None:
        return
    row = {}
    for images, times in fewer.items():
        row[images] = {"tokens": times["tokens"]}
        for key in ("image_s", "fastest_image_s"):
            tile = (more[images][key] - times[key]) / (many - few)
            row[images][key] = times[key] - (few - 1) * tile
    rows[f"{label}, 1 tile, extrapolated"] = row


def document(result: dict[str, Any]) -> str:
    """The Markdown file."""
    machine = result["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    lines = [
        "# Patch-token captioners beside other software",
        "",
        f"`{result['command']}`, {machine['date']}; {machine['processor']}, {result['threads']} "
        f"threads; {versions}.",
        "",
        f"Random weights; {result['tokens']} tokens. Median seconds an image, in brackets the "
        "fastest turn, and how many times as quick the first row is. Other work ran on the "
        "machine: its load stands beside each structure."
        + (" The contestants had real-time priority over it." if result["real_time"] else ""),
    ]
    for name, structure in result["structures"].items():
        rows = structure["contestants"]
        batches = list(next(iter(rows.values())))
        low, high = min(structure["load"]), max(structure["load"])
        lines += ["", f"## {name} (load {low:g} to {high:g})", ""]
        heads = [f"{b} at a time | ratio" for b in batches]
        lines += [f"| | {' | '.join(heads)} |", "|---|" + "---:|---:|" * len(batches)]
        first = next(iter(rows.values()))
        for label, row in rows.items():
            cells = [
                f"{row[b]['image_s']:.2f} ({row[b]['fastest_image_s']:.2f}) | "
                f"{row[b]['image_s'] / first[b]['image_s']:.2f}"
                for b in batches
            ]
            lines.append(f"| {label} | {' | '.join(cells)} |")
    lines += ["", "optimum-intel and llama.cpp do not know DistilViT2's model type.", ""]
    agreed = {n: s["llama.cpp"] for n, s in result["structures"].items() if "llama.cpp" in s}
    if agreed:
        same = "; ".join(
            f"{name}: {one['tokens_equal']} of {one['tokens']} tokens equal, the first's "
            f"log-probabilities within {one['first_logprob_difference']:.0e}"
            for name, one in agreed.items()
        )
        version = next(iter(agreed.values()))["version"]
        lines += [LLAMA_CPP, ""]
        lines += [
            f"That it runs the same model (xllamacpp {version}): its float16 beside transformers' "
            f"float32, two tiles. {same}.",
            "",
        ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--only", default="distilvit2,smolvlm-256m,smolvlm-500m")
    parser.add_argument("--targets", default="cpu-int8,cpu-int4", help="bundles that there are")
    parser.add_argument("--openvino", type=Path, help="environment with optimum-intel")
    parser.add_argument("--llama-cpp", type=Path, help="environment with xllamacpp and gguf")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=30)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--batches", default="1,4", help="images at a time")
    parser.add_argument("--out", type=Path, default=RESULTS / "vlm-peers.json")
    options = parser.parse_args()
    structures: dict[str, Any] = {}
    for name in options.only.split(","):
        structures[name] = run(name, options)
        print(json.dumps({name: structures[name]}), flush=True)
        result = {
            "command": f"python benchmarks/vlm_peers.py --work WORK --only {options.only} "
            f"--turns {options.turns} --tokens {options.tokens} --batches {options.batches}"
            f"{' --openvino ENVIRONMENT' if options.openvino else ''}"
            f"{' --llama-cpp ENVIRONMENT' if options.llama_cpp else ''}",
            "machine": describe_machine(),
            "threads": options.threads,
            "real_time": os.sched_getscheduler(0) != os.SCHED_OTHER,
            "tokens": options.tokens,
            "structures": structures,
        }
        options.out.write_text(json.dumps(result, indent=2) + "\n", "utf-8")
        options.out.with_suffix(".md").write_text(document(result), "utf-8")


if __name__ == "__main__":
    main()
