"""One image at a time: bundles of the same captioner, for different targets, taking turns.

    altogether-rt init --config altogether-opt-1.3b --random-weights --out ckpt
    altogether-rt export --ckpt ckpt --target cpu-int8 --out int8
    altogether-rt export --ckpt ckpt --target cpu-int4 --out int4
    python benchmarks/one_at_a_time.py --bundles int8,int4 --name opt-1.3b

Each turn reads one drawn scene and its alt-text and writes --tokens tokens, whatever they are:
encoder, mapper, prefill, then a step for each token, without speculation. Turns alternate, so that
what else the machine does falls on all. Writes benchmarks/results/one-at-a-time-NAME.json.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np

from altogether_rt.artifacts.bundle import Bundle
from altogether_rt.bench.report import describe_machine
from altogether_rt.preprocess import Preprocessor, PromptTokenizer
from altogether_rt.runtime.base import Runtime
from altogether_rt.runtime.batches import decode_batch, prefill_batch
from altogether_rt.runtime.cpu.runtime import OnnxRuntime
from altogether_rt.scenes.draw import render
from altogether_rt.scenes.text import make_sample

RESULTS = Path(__file__).parent / "results"


def turn(runtime: Runtime, pixels: np.ndarray, prompt: tuple[int, ...], tokens: int) -> list[float]:
    """Seconds of everything before the first token, and of each step after it."""
    times = [time.perf_counter()]
    visual = runtime.map(runtime.encode(pixels))
    batch = prefill_batch(visual, [prompt])
    length, chosen = int(batch.query_lengths[0]), runtime.step(batch).greedy_ids
    times.append(time.perf_counter())
    for step in range(tokens - 1):
        chosen = runtime.step(decode_batch(chosen, [length + step], runtime.token_width)).greedy_ids
        times.append(time.perf_counter())
    return [float(part) for part in np.diff(times)]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--bundles", required=True, help="folders, separated by commas")
    parser.add_argument("--name", required=True)
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--threads", type=int)
    arguments = parser.parse_args()
    bundles = {name: Bundle.load(name) for name in arguments.bundles.split(",")}
    config = next(iter(bundles.values())).config
    scene = make_sample(1, 0, "test")
    pixels = Preprocessor(config.encoder).pixels(render(scene.scene))[None]
    tokenizer = PromptTokenizer.from_file(
        next(iter(bundles.values())).tokenizer_path, config.prompt, config.decoder.pad_id
    )
    prompt = tokenizer.prompt(scene.alts).ids
    runtimes = {
        name: OnnxRuntime(bundle, threads=arguments.threads, num_slots=1)
        for name, bundle in bundles.items()
    }
    seconds: dict[str, list[list[float]]] = {name: [] for name in bundles}
    for index in range(arguments.turns + 1):
        for name, runtime in runtimes.items():
            parts = turn(runtime, pixels, prompt, arguments.tokens)
            if index:  # the first warms up
                seconds[name].append(parts)
    rows: dict[str, dict[str, Any]] = {}
    for name, turns in seconds.items():
        rows[name] = {
            "target": bundles[name].manifest.target.name,
            "bundle_bytes": sum(spec.bytes for spec in bundles[name].manifest.files.values()),
            "image_s": statistics.median(map(sum, turns)),
            "before_first_token_s": statistics.median(parts[0] for parts in turns),
            "step_s": statistics.median(part for parts in turns for part in parts[1:]),
        }
    first = next(iter(rows.values()))
    for row in rows.values():
        row["times_as_quick"] = {
            part: first[part] / row[part] for part in ("image_s", "before_first_token_s", "step_s")
        }
    result = {
        "command": f"python benchmarks/one_at_a_time.py --bundles {arguments.bundles} "
        f"--name {arguments.name} --turns {arguments.turns} --tokens {arguments.tokens}",
        "machine": describe_machine(),
        "tokens": arguments.tokens,
        "bundles": rows,
    }
    path = RESULTS / f"one-at-a-time-{arguments.name}.json"
    path.write_text(json.dumps(result, indent=2) + "\n", "utf-8")
    print(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
