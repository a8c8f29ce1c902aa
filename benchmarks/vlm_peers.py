"""Speed of patch-token captioners beside other software: the same weights, images and prompts.

    python benchmarks/published_vlm.py … --keep --work WORK     # weights, checkpoints, bundles
    python benchmarks/vlm_peers.py --work WORK [--only distilvit2,smolvlm-256m] \\
        [--openvino ENVIRONMENT]

ENVIRONMENT: a virtual environment with optimum-intel[openvino], nncf and transformers<4.58, the
newest that optimum-intel 2.2 converts these models with; the conversion (8-bit weights) is made
once in WORK. Contestants take turns, one image or several at a time,
each in a process of its own that stays loaded; encoder, mapper and decoder are in the time,
reading the file is not. All write --tokens tokens; ours without drafting. Writes
benchmarks/results/vlm-peers.json and .md, with the load of the machine: trust ratios.
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT))

from altogether_rt.bench.report import describe_machine  # noqa: E402

BENCHMARKS, RESULTS = ROOT / "benchmarks", ROOT / "benchmarks" / "results"
LLAMA_CPP = (
    "llama.cpp's multimodal is not in the table: its weights would have to be written as GGUF with "
    "a second file for encoder and connector, which this benchmark does not do yet."
)

#: optimum-cli, beside a torchvision that was built for another torch.
_CONVERT = (
    "from altogether_rt.model._torchvision import make_torchvision_importable as make; make(); "
    "from optimum.commands.optimum_cli import main; main()"
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


def write_question(work: Path) -> Path:
    """The first photograph with its alt-text, as `published_vlm.py` asked it."""
    about = json.loads((work / "published" / "config.json").read_text("utf-8"))
    asked = pickle.loads((work / "found").read_bytes())[0][0]
    image = about.get("image_token_id")
    visual = [] if image is None else [*asked.before_ids, *[image] * asked.num_visual]
    question = {"pixels": asked.pixels, "ids": [*visual, *asked.prompt_ids], "alt": asked.alts[0]}
    path = work / "question"
    path.write_bytes(pickle.dumps(question))
    return path


def openvino_folder(environment: Path, work: Path) -> Path | None:
    """The model as optimum-intel converts it; None for a model that it does not know."""
    about = json.loads((work / "published" / "config.json").read_text("utf-8"))
    folder = work / "openvino"
    if about["model_type"] not in ("idefics3", "smolvlm"):
        return None
    if not folder.exists():
        command = [environment / "bin" / "python", "-c", _CONVERT, "export", "openvino", "--model"]
        command += [work / "published", "--task", "image-text-to-text", "--weight-format", "int8"]
        variables = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
        subprocess.run([*map(str, command), str(folder)], check=True, env=variables)
    return folder


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
    return {"contestants": rows, "load": [round(value, 1) for value in load]}


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
        "machine: its load stands beside each structure.",
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
    lines += ["", "optimum-intel does not know DistilViT2's model type.", "", LLAMA_CPP, ""]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--only", default="distilvit2,smolvlm-256m,smolvlm-500m")
    parser.add_argument("--targets", default="cpu-int8,cpu-int4", help="bundles that there are")
    parser.add_argument("--openvino", type=Path, help="environment with optimum-intel")
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
            f"{' --openvino ENVIRONMENT' if options.openvino else ''}",
            "machine": describe_machine(),
            "threads": options.threads,
            "tokens": options.tokens,
            "structures": structures,
        }
        options.out.write_text(json.dumps(result, indent=2) + "\n", "utf-8")
        options.out.with_suffix(".md").write_text(document(result), "utf-8")


if __name__ == "__main__":
    main()
