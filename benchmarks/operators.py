"""Where the time goes: seconds of each operator in calls of encoder, mapper and decoder.

    python benchmarks/operators.py --bundle starter
    python benchmarks/operators.py --bundle DIR --rows 1,8,32

Encoder and mapper take one image, and as many as fit one call. The decoder reads prompts of 60
tokens (prefill), writes a token for each row (decode) and, for one row, verifies four and eight
(verify), with 100 tokens in the cache. `call` is measured without the profiler, operators with it,
which makes small ones look larger. All are medians. For matrix products, the rates at which they
read weights and multiply stand beside those of this machine. Writes
benchmarks/results/operators-NAME.json and .md.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import tempfile
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from altogether_rt.artifacts.bundle import Bundle
from altogether_rt.bench.ceilings import measure_ceilings
from altogether_rt.bench.report import describe_machine, digits
from altogether_rt.bench.timing import measure
from altogether_rt.errors import AltogetherError
from altogether_rt.runtime.base import StepBatch, StepRow
from altogether_rt.runtime.cpu.call_sizes import embeddings_per_call, images_per_call
from altogether_rt.runtime.cpu.runtime import OnnxRuntime

RESULTS = Path(__file__).parent / "results"
PROMPT_TOKENS, PAST_TOKENS, VERIFIED = 60, 100, (4, 8)

#: Operators that multiply by weights.
PRODUCTS = frozenset({"FusedMatMul", "Gemm", "MatMul", "MatMulIntegerToFloat"})

#: Operators with a line of their own in the table: those with the largest share of any call.
MAX_LINES = 14


@dataclass(frozen=True)
class Call:
    """One run of one graph, to be repeated."""

    name: str
    graph: str
    run: Callable[[OnnxRuntime], object]


@dataclass
class Profile:
    """What the profiler recorded of one run."""

    seconds: Counter[str]  # by operator
    product_operations: int = 0  # multiply-adds, counted as two
    product_weights: int = 0  # numbers that products multiply by

    @property
    def product_s(self) -> float:
        return sum(self.seconds[kind] for kind in PRODUCTS)


def calls(bundle: Bundle, rows: Sequence[int]) -> Iterator[Call]:
    """The calls to measure."""
    config = bundle.config
    encoder, decoder = config.encoder, config.decoder
    rng = np.random.default_rng(0)
    for number in sorted({1, images_per_call(encoder)}):
        shape = (number, encoder.image_size, encoder.image_size, 3)
        pixels = rng.integers(0, 256, shape, np.uint8)
        yield Call(f"encoder ×{number}", "encoder", partial(OnnxRuntime.encode, pixels=pixels))
    for number in sorted({1, embeddings_per_call(config)}):
        embeddings = rng.standard_normal((number, encoder.embed_dim), np.float32)
        embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
        yield Call(f"mapper ×{number}", "mapper", partial(OnnxRuntime.map, embeddings=embeddings))
    steps = [("prefill", PROMPT_TOKENS, 0, rows), ("decode", 1, PAST_TOKENS, rows)]
    steps += [(f"verify {tokens}", tokens, PAST_TOKENS, (1,)) for tokens in VERIFIED]
    for name, tokens, past, numbers in steps:
        for number in numbers:
            ids = rng.integers(5, decoder.vocab_size, number * tokens)
            batch = _step(ids, number, past, decoder.token_width, every=name.startswith("verify"))
            yield Call(f"{name} ×{number}", "decoder", partial(OnnxRuntime.step, batch=batch))


def _step(ids: NDArray[np.int64], rows: int, past: int, width: int, *, every: bool) -> StepBatch:
    """Rows with as many tokens each. every: a next token is chosen after each of them."""
    each = len(ids) // rows
    num_choices = each if every else 1
    return StepBatch.from_rows(
        (StepRow(row, past, None, num_choices) for row in ids.reshape(rows, each).tolist()), width
    )


def profile(
    bundle: Bundle, threads: int, slots: int, listed: Sequence[Call], repeats: int
) -> dict[str, list[Profile]]:
    """Profiles of each call, `repeats` of them; the calls take turns."""
    order: dict[str, list[str]] = {}
    profiles: dict[str, list[Profile]] = {call.name: [] for call in listed}
    with tempfile.TemporaryDirectory() as folder:
        with OnnxRuntime(bundle, threads=threads, num_slots=slots, profile=Path(folder)) as runtime:
            for _ in range(repeats + 1):
                for call in listed:
                    call.run(runtime)
                    order.setdefault(call.graph, []).append(call.name)
        for graph, names in order.items():
            (path,) = Path(folder).glob(f"{graph}_*.json")
            runs = read_profile(json.loads(path.read_text("utf-8")))
            assert len(runs) == len(names), "a call is one run of its graph"
            for name, run in zip(names, runs, strict=True):
                profiles[name].append(run)
    return {name: runs[1:] for name, runs in profiles.items()}  # the first one warmed up


def read_profile(events: Sequence[Mapping[str, Any]]) -> list[Profile]:
    """The runs of one session, in order, from onnxruntime's events."""
    starts = sorted(event["ts"] for event in events if event["name"] == "model_run")
    runs = [Profile(Counter()) for _ in starts]
    for event in events:
        if event["cat"] != "Node" or not event["name"].endswith("kernel_time"):
            continue
        run, arguments = runs[bisect_right(starts, event["ts"]) - 1], event["args"]
        kind = arguments["op_name"]
        run.seconds[kind] += event["dur"] / 1e6
        if kind in PRODUCTS:
            *outer, inner = _shape(arguments["input_type_shape"][0])
            width = _shape(arguments["output_type_shape"][0])[-1]
            run.product_operations += 2 * int(np.prod(outer)) * inner * width
            run.product_weights += inner * width
    return runs


def _shape(described: Mapping[str, list[int]]) -> list[int]:
    """The shape of a tensor, which onnxruntime describes as {element type: shape}."""
    return next(iter(described.values()))


def call_seconds(
    bundle: Bundle, threads: int, slots: int, listed: Sequence[Call], budget_s: float
) -> dict[str, float]:
    """Median seconds of each call without the profiler."""
    with OnnxRuntime(bundle, threads=threads, num_slots=slots) as runtime:
        return {
            call.name: measure(partial(call.run, runtime), budget_s=budget_s).p50_s
            for call in listed
        }


def summarise(seconds: float, runs: Sequence[Profile], weight_bytes: int) -> dict[str, Any]:
    """One call's figures. weight_bytes: of one weight."""
    kinds = sorted({kind for run in runs for kind in run.seconds})
    operators = {kind: 1000 * median(run.seconds[kind] for run in runs) for kind in kinds}
    product_s = median(run.product_s for run in runs)
    return {
        "call_ms": round(1000 * seconds, 3),
        "operators_ms": {
            kind: round(operators[kind], 3) for kind in sorted(kinds, key=lambda k: -operators[k])
        },
        "products": {
            "ms": round(1000 * product_s, 3),
            "gb_per_s": round(weight_bytes * runs[0].product_weights / product_s / 1e9, 2),
            "gop_per_s": round(runs[0].product_operations / product_s / 1e9, 1),
        },
    }


def to_markdown(result: Mapping[str, Any]) -> str:
    """A table with a column for each call and a line for each of the slowest operators."""
    figures = result["calls"]
    shares: Counter[str] = Counter()  # the largest of any call
    for one in figures.values():
        whole = sum(one["operators_ms"].values())
        for kind, taken in one["operators_ms"].items():
            shares[kind] = max(shares[kind], taken / whole)
    shown = [kind for kind, _ in shares.most_common(MAX_LINES)]
    lines = [["milliseconds", *figures]]
    lines.append(["**call**", *(f"**{digits(one['call_ms'])}**" for one in figures.values())])
    for kind in shown:
        lines.append(
            [kind, *(digits(one["operators_ms"].get(kind, 0)) for one in figures.values())]
        )
    rest = [
        sum(taken for kind, taken in one["operators_ms"].items() if kind not in shown)
        for one in figures.values()
    ]
    lines.append(["all others", *map(digits, rest)])
    for key, label in (("gb_per_s", "products, GB/s of weights"), ("gop_per_s", "products, GOP/s")):
        lines.append([label, *(digits(one["products"][key]) for one in figures.values())])
    table = ["| " + " | ".join(line) + " |" for line in lines]
    table.insert(1, "|---|" + "---:|" * len(figures))
    ceiling, machine = result["ceilings"], result["machine"]
    return "\n".join(table) + (
        f"\n\n{result['bundle']} ({result['target']}), {machine['processor']}, "
        f"{machine['threads']} threads, {machine['date']}. This machine in the same run: int8 "
        f"{ceiling['int8_gop_per_s']} GOP/s, float32 {ceiling['fp32_gop_per_s']} GFLOP/s, memory "
        f"{ceiling['gb_per_s']} GB/s. Operators are timed with the profiler on, the call without.\n"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--bundle", default="starter", help="a bundle for onnxruntime on the CPU")
    parser.add_argument("--name", help="name of the result; default: the bundle's")
    parser.add_argument("--rows", default="1,8,32", help="numbers of rows in decoder calls")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=7, help="runs with the profiler")
    parser.add_argument(
        "--budget-s", type=float, default=3.0, help="for each call without the profiler"
    )
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for the result")
    arguments = parser.parse_args()
    try:
        bundle = Bundle.load(arguments.bundle)
    except AltogetherError as error:
        raise SystemExit(str(error)) from error
    target = bundle.manifest.target
    if (target.runtime, target.device) != ("onnxruntime", "cpu"):
        raise SystemExit(
            f"{arguments.bundle} was exported for {target.runtime} on {target.device}."
        )
    rows = sorted({int(part) for part in arguments.rows.split(",")})
    listed, options = list(calls(bundle, rows)), (bundle, arguments.threads, max(rows))
    seconds = call_seconds(*options, listed, arguments.budget_s)
    profiles = profile(*options, listed, arguments.repeats)
    ceilings = measure_ceilings(arguments.threads)
    weight_bytes = np.dtype(target.weights).itemsize
    result = {
        "command": shlex.join(["python", *sys.argv]),
        "machine": {**describe_machine(), "threads": arguments.threads},
        "bundle": bundle.config.name,
        "bundle_id": bundle.bundle_id,
        "target": target.name,
        "ceilings": {
            "int8_gop_per_s": round(ceilings.int8_per_s / 1e9, 1),
            "fp32_gop_per_s": round(ceilings.fp32_per_s / 1e9, 1),
            "gb_per_s": round(ceilings.bytes_per_s / 1e9, 1),
        },
        "calls": {
            call.name: summarise(seconds[call.name], profiles[call.name], weight_bytes)
            for call in listed
        },
    }
    out = arguments.out / f"operators-{arguments.name or bundle.config.name}.json"
    out.write_text(json.dumps(result, indent=1) + "\n", "utf-8")
    table = to_markdown(result)
    out.with_suffix(".md").write_text(table, "utf-8")
    print(table)


if __name__ == "__main__":
    main()
