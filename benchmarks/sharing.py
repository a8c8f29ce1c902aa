"""Callers that share a captioner: each waits for `caption`, or for what it has submitted.

    altogether-rt init --config altogether-opt-125m --random-weights --out ckpt
    altogether-rt export --ckpt ckpt --target cpu-int8 --out cpu-int8
    python benchmarks/sharing.py --bundles starter,cpu-int8 --tokens 40

As many threads as there are clients ask for one caption after another, as the handlers of a web
service do, of drawn scenes that are in memory. Both ways take turns, in an order that changes from
round to round; every caption is checked to be the same. Writes benchmarks/results/sharing.json and
.md: medians over the rounds of images/s and of the seconds that a client waits.
"""

from __future__ import annotations

import argparse
import json
import os
import queue
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median, quantiles
from typing import Any, TypeAlias

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "sharing.json"
sys.path[:0] = [str(ROOT)]

from altogether_rt.bench.report import describe_machine  # noqa: E402
from altogether_rt.captioner import Captioner  # noqa: E402
from altogether_rt.machine.limits import available_cores  # noqa: E402
from altogether_rt.scenes.draw import render  # noqa: E402
from altogether_rt.scenes.text import make_sample  # noqa: E402

#: An image and its alt-texts.
Pair: TypeAlias = tuple[np.ndarray, tuple[str, ...]]
Ask: TypeAlias = Callable[[Pair], str]


def draw(num: int, seed: int = 2026) -> list[Pair]:
    """Scenes, each with pixels and alt-texts of its own."""
    samples = [make_sample(seed, index, "test") for index in range(num)]
    return [(np.asarray(render(sample.scene)), tuple(sample.alts)) for sample in samples]


def run(ask: Ask, pairs: Sequence[Pair], clients: int) -> tuple[float, list[float], list[str]]:
    """Seconds of all, seconds that each caption was waited for, and the captions, in order."""
    waiting: queue.SimpleQueue[tuple[int, Pair]] = queue.SimpleQueue()
    for numbered in enumerate(pairs):
        waiting.put(numbered)
    waited_s, texts = [0.0] * len(pairs), [""] * len(pairs)

    def client() -> None:
        while True:
            try:
                index, pair = waiting.get_nowait()
            except queue.Empty:
                return
            start_s = time.perf_counter()
            texts[index] = ask(pair)
            waited_s[index] = time.perf_counter() - start_s

    threads = [threading.Thread(target=client) for _ in range(clients)]
    start_s = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return time.perf_counter() - start_s, waited_s, texts


def measure(
    bundle: str, counts: Sequence[int], num: int, rounds: int, tokens: int | None = None
) -> dict[str, Any]:
    """Of one bundle, by number of clients and way of asking. tokens: at most, of a caption."""
    pairs = draw(num)
    with Captioner.load(bundle) as captioner:
        params = captioner.params(max_new_tokens=tokens)
        ways: dict[str, Ask] = {
            "caption": lambda pair: captioner.caption(*pair, params)[0].text,
            "submit": lambda pair: captioner.submit(*pair, params).result().text,
        }
        expected = [ways["caption"](pair) for pair in pairs]
        found: dict[str, dict[str, Any]] = {}
        for clients in counts:
            rates: dict[str, list[float]] = {way: [] for way in ways}
            waits: dict[str, list[float]] = {way: [] for way in ways}
            for turn in range(rounds):
                for way in sorted(ways, reverse=turn % 2 == 1):
                    seconds, waited_s, texts = run(ways[way], pairs, clients)
                    if texts != expected:
                        raise SystemExit(f"{bundle}: {way} wrote other captions.")
                    rates[way].append(num / seconds)
                    waits[way] += waited_s
            found[str(clients)] = {
                way: {
                    "images_per_s": round(median(rates[way]), 3),
                    "wait_median_s": round(median(waits[way]), 4),
                    "wait_p95_s": round(quantiles(waits[way], n=20)[-1], 4),
                }
                for way in ways
            }
        return {"config": captioner.config.name, "captions": num, "clients": found}


def to_markdown(result: dict[str, Any]) -> str:
    machine = result["machine"]
    lines = [
        f"`{result['command']}`: {machine['processor']}, {result['cores']} cores, "
        f"{machine['date']}; medians of {result['rounds']} rounds. Every caption is the same. "
        "Waits are medians, with the 95th percentile.",
        "",
        "| | clients | images/s, `caption` | images/s, `submit` | | waits, `caption` | `submit` |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for bundle in result["bundles"]:
        for clients, ways in bundle["clients"].items():
            one, other = ways["caption"], ways["submit"]
            ratio = other["images_per_s"] / one["images_per_s"]
            waits = [
                f"{1000 * way['wait_median_s']:,.0f} ms ({1000 * way['wait_p95_s']:,.0f})"
                for way in (one, other)
            ]
            lines.append(
                f"| {bundle['config']} | {clients} | {one['images_per_s']:.3g} "
                f"| {other['images_per_s']:.3g} | {ratio:.2f} × | {waits[0]} | {waits[1]} |"
            )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--bundles", default="starter", help="names or folders, comma-separated")
    parser.add_argument("--clients", default="1,4,16", help="comma-separated")
    parser.add_argument("--num", type=int, default=96, help="captions of a turn")
    parser.add_argument("--tokens", type=int, help="of a caption at most; random weights write all")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    counts = [int(count) for count in arguments.clients.split(",")]
    result: dict[str, Any] = {
        "command": " ".join(["python benchmarks/sharing.py", *sys.argv[1:]]),
        "machine": describe_machine(),
        "cores": available_cores(),
        "rounds": arguments.rounds,
        "load": os.getloadavg()[0],
        "bundles": [
            measure(bundle, counts, arguments.num, arguments.rounds, arguments.tokens)
            for bundle in arguments.bundles.split(",")
        ],
    }
    text = to_markdown(result)
    arguments.out.write_text(json.dumps(result, indent=2, ensure_ascii=False) + "\n", "utf-8")
    arguments.out.with_suffix(".md").write_text(text + "\n", "utf-8")
    print(text)


if __name__ == "__main__":
    main()
