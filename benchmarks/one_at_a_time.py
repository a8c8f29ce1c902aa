"""One image at a time: bundles of one captioner for different targets, and OpenVINO, taking turns.

    altogether-rt init --config altogether-opt-1.3b --random-weights --out ckpt
    altogether-rt export --ckpt ckpt --target cpu-int8 --out cpu-int8
    altogether-rt export --ckpt ckpt --target cpu-int4 --out cpu-int4
    python benchmarks/peers/convert/huggingface.py ckpt huggingface
    python benchmarks/peers/convert/openvino_ir.py ckpt huggingface openvino --int4
    python benchmarks/one_at_a_time.py --bundles cpu-int8,cpu-int4 --name opt-1.3b \\
        --openvino ENVIRONMENT --models openvino --embeddings huggingface/embeddings.npy

ENVIRONMENT: a virtual environment with openvino (and, for the conversion, optimum-intel, nncf and
open_clip_torch). Each turn reads one drawn scene and its alt-text and writes --tokens tokens,
whatever they are: encoder, mapper, prompt, then a step for each token, without speculation, on the
same pixels and token ids. Turns alternate, so that what else the machine does falls on all.
Writes benchmarks/results/one-at-a-time-NAME.json and .md, with the load of the machine.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
BENCHMARKS, RESULTS = ROOT / "benchmarks", ROOT / "benchmarks" / "results"
sys.path[:0] = [str(ROOT), str(BENCHMARKS)]

from altogether_rt.artifacts.bundle import Bundle  # noqa: E402
from altogether_rt.bench.report import describe_machine  # noqa: E402
from altogether_rt.preprocess.pixels import Preprocessor  # noqa: E402
from altogether_rt.preprocess.prompts import PromptTokenizer  # noqa: E402
from altogether_rt.runtime.base import Runtime  # noqa: E402
from altogether_rt.runtime.batches import decode_batch, prefill_batch  # noqa: E402
from altogether_rt.runtime.cpu.runtime import OnnxRuntime  # noqa: E402
from altogether_rt.scenes.draw import render  # noqa: E402
from altogether_rt.scenes.text import make_sample  # noqa: E402

#: Seconds of encoder and mapper, of the prompt, and of each step after it.
Turn = Callable[[], list[float]]
PARTS = ("image_s", "vision_s", "prompt_s", "step_s")


def turn(runtime: Runtime, pixels: np.ndarray, prompt: tuple[int, ...], tokens: int) -> list[float]:
    """One image through a bundle."""
    times = [time.perf_counter()]
    visual = runtime.map(runtime.encode(pixels))
    times.append(time.perf_counter())
    batch = prefill_batch(visual, [prompt])
    length, chosen = int(batch.query_lengths[0]), runtime.step(batch).greedy_ids
    times.append(time.perf_counter())
    for step in range(tokens - 1):
        chosen = runtime.step(decode_batch(chosen, [length + step], runtime.token_width)).greedy_ids
        times.append(time.perf_counter())
    return [float(part) for part in np.diff(times)]


class OpenVinoProcess:
    """OpenVINO in a process and an environment of its own, which stays loaded."""

    def __init__(self, python: Path, options: dict[str, Any]) -> None:
        paths = os.pathsep.join((str(ROOT), str(BENCHMARKS)))
        self._process = subprocess.Popen(
            [python, "-P", "-m", "harness.openvino_turns", json.dumps(options)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": paths},
        )
        self.version: str = self._reply()

    def turn(self) -> list[float]:
        assert self._process.stdin is not None
        print(flush=True, file=self._process.stdin)
        parts: list[float] = self._reply()
        return parts

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def _reply(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit("the process of OpenVINO ended")
        return json.loads(line)


def measure(contestants: dict[str, Turn], turns: int) -> tuple[dict[str, Any], list[float]]:
    """Medians by contestant, and the load of the machine before each round."""
    seconds: dict[str, list[list[float]]] = {name: [] for name in contestants}
    load = []
    for index in range(turns + 1):
        load.append(round(os.getloadavg()[0], 1))
        order = list(contestants.items())
        for name, take_turn in order if index % 2 else reversed(order):
            parts = take_turn()
            if index:  # the first warms up
                seconds[name].append(parts)
        print(f"round {index} of {turns}", file=sys.stderr, flush=True)
    rows = {name: _summary(parts) for name, parts in seconds.items()}
    first = next(iter(rows.values()))
    for name, row in rows.items():
        row["times_as_quick"] = {part: first[part] / row[part] for part in PARTS}
        ratios = [
            sum(ours) / sum(theirs)
            for ours, theirs in zip(next(iter(seconds.values())), seconds[name], strict=True)
        ]
        row["times_as_quick"]["image_by_round"] = [round(ratio, 3) for ratio in ratios]
    return rows, load


def _summary(turns: Sequence[Sequence[float]]) -> dict[str, Any]:
    return {
        "image_s": statistics.median(map(sum, turns)),
        "fastest_image_s": min(map(sum, turns)),
        "vision_s": statistics.median(parts[0] for parts in turns),
        "prompt_s": statistics.median(parts[1] for parts in turns),
        "step_s": statistics.median(part for parts in turns for part in parts[2:]),
    }


def document(result: dict[str, Any]) -> str:
    """The Markdown file."""
    machine = result["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    lines = [
        f"# One image at a time: {result['name']}",
        "",
        f"`{result['command']}`, {machine['date']}; {machine['processor']} "
        f"({', '.join(machine['features'])}), {result['threads']} threads; {versions}.",
        "",
        f"Random weights; a prompt of {result['prompt_tokens']} tokens, visual ones included, "
        f"{result['tokens']} new tokens, no speculation. Medians of {result['turns']} turns; in "
        "brackets the fastest turn. × is how many times as quick as the first row. Load of the "
        f"machine, one process measuring: {min(result['load']):g} to {max(result['load']):g}. "
        f"{result['note']}".strip(),
        "",
        "| | files | image s | × | encoder and mapper s | prompt ms | × | step ms | × |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for name, row in result["contestants"].items():
        quick = row["times_as_quick"]
        lines.append(
            f"| {name} | {row['bytes'] / 1e9:.2f} GB | {row['image_s']:.2f} "
            f"({row['fastest_image_s']:.2f}) | {quick['image_s']:.2f} | {row['vision_s']:.2f} | "
            f"{1e3 * row['prompt_s']:.0f} | {quick['prompt_s']:.2f} | {1e3 * row['step_s']:.1f} | "
            f"{quick['step_s']:.2f} |"
        )
    return "\n".join([*lines, ""])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--bundles", required=True, help="folders, separated by commas")
    parser.add_argument("--name", required=True)
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--note", default="", help="how the machine was kept quiet, and the like")
    parser.add_argument("--openvino", type=Path, help="an environment with openvino")
    parser.add_argument("--models", default="", help="folders of openvino_ir.py, by commas")
    parser.add_argument("--embeddings", type=Path, help="embeddings.npy of huggingface.py")
    arguments = parser.parse_args()
    bundles = {Path(name).name: Bundle.load(name) for name in arguments.bundles.split(",")}
    any_bundle = next(iter(bundles.values()))
    config = any_bundle.config
    scene = make_sample(1, 0, "test")
    pixels = Preprocessor(config.encoder).pixels(render(scene.scene))[None]
    tokenizer = PromptTokenizer.from_file(
        any_bundle.tokenizer_path, config.prompt, config.decoder.pad_id
    )
    prompt = tokenizer.prompt(scene.alts).ids
    turns: dict[str, Turn] = {}
    sizes: dict[str, int] = {}
    for name, bundle in bundles.items():
        runtime = OnnxRuntime(bundle, threads=arguments.threads, num_slots=1)
        turns[name] = lambda runtime=runtime: turn(runtime, pixels, prompt, arguments.tokens)
        sizes[name] = sum(spec.bytes for spec in bundle.manifest.files.values())
    processes = {}
    with tempfile.TemporaryDirectory() as folder:
        np.save(f"{folder}/pixels.npy", pixels)
        for model in filter(None, arguments.models.split(",")):
            options = {
                "folder": model,
                "pixels": f"{folder}/pixels.npy",
                "embeddings": str(arguments.embeddings),
                "prompt": list(prompt),
                "tokens": arguments.tokens,
                "threads": arguments.threads,
            }
            label = Path(model).name
            processes[label] = OpenVinoProcess(arguments.openvino / "bin" / "python", options)
            turns[label] = processes[label].turn
            files = [file for file in Path(model).iterdir() if file.suffix in (".xml", ".bin")]
            sizes[label] = sum(file.stat().st_size for file in files)
        rows, load = measure(turns, arguments.turns)
    machine = describe_machine()
    for process in processes.values():
        process.close()
        machine["versions"]["openvino"] = process.version
    for name, row in rows.items():
        row["bytes"] = sizes[name]
    given = f"--openvino ENVIRONMENT --models {','.join(processes)} " if processes else ""
    result = {
        "command": f"python benchmarks/one_at_a_time.py --bundles {','.join(bundles)} --name "
        f"{arguments.name} {given}--turns {arguments.turns} --tokens {arguments.tokens}",
        "name": arguments.name,
        "machine": machine,
        "threads": arguments.threads,
        "turns": arguments.turns,
        "tokens": arguments.tokens,
        "prompt_tokens": len(prompt) + config.mapper.prefix_length,
        "load": load,
        "note": arguments.note,
        "calibrated": {
            name: b.manifest.provenance.get("calibrated", True) for name, b in bundles.items()
        },
        "groups": {name: b.manifest.target.weight_group for name, b in bundles.items()},
        "contestants": rows,
    }
    path = RESULTS / f"one-at-a-time-{arguments.name}.json"
    path.write_text(json.dumps(result, indent=2) + "\n", "utf-8")
    path.with_suffix(".md").write_text(document(result), "utf-8")
    print(path.with_suffix(".md").read_text("utf-8"))


if __name__ == "__main__":
    main()
