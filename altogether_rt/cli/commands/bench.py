"""`altogether-rt bench`: what a bundle does on this machine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from altogether_rt.cli.device import DeviceOption, check_gpu
from altogether_rt.cli.output import Output, format_bytes
from altogether_rt.errors import AltogetherError
from altogether_rt.speculation.planner import Speculation

__all__ = ["bench_command"]

MAX_BATCH = 4096


def _batch_sizes(text: str) -> tuple[int, ...]:
    try:
        sizes = tuple(sorted({int(part) for part in text.split(",")}))
    except ValueError:
        sizes = ()
    if not sizes or not 1 <= sizes[0] <= sizes[-1] <= MAX_BATCH:
        raise typer.BadParameter(
            f"{text!r} is not a list of numbers from 1 to {MAX_BATCH} such as 1,8,32.",
            param_hint="--batch-sizes",
        )
    return sizes


def bench_command(
    bundle: Annotated[
        str, typer.Option(help="A bundle's folder, or `starter`, which ships with the package.")
    ] = "starter",
    batch_sizes: Annotated[
        str, typer.Option(help="Images at once, separated by commas.")
    ] = "1,8,32",
    new_tokens: Annotated[int, typer.Option(min=1, help="Most tokens of a caption.")] = 64,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Compute threads; default: all cores.")
    ] = None,
    device: DeviceOption = "auto",
    speculation: Annotated[
        Speculation,
        typer.Option(
            metavar="auto|on|off",
            help="Of whole captions; off where weights are random, whose captions repeat tokens.",
        ),
    ] = "auto",
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Also write the JSON line to this file.")
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Seconds instead of a minute; rough figures.")
    ] = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="No table and no progress, only the JSON line.")
    ] = False,
) -> None:
    """Measure load time, latency, throughput and memory of a bundle, stage by stage, and the
    fraction reached of what this machine can do, measured in the same run.

    Prints a table, then one line of JSON.
    """
    sizes = _batch_sizes(batch_sizes)
    check_gpu(device)
    from altogether_rt.bench.report import COLUMNS, BenchSettings, run_bench
    from altogether_rt.bench.stages import STAGES

    out = Output(quiet=quiet)
    settings = BenchSettings(sizes, threads, device, new_tokens, quick, speculation)
    with out.progress(2 + len(STAGES) * len(sizes), "measurements") as progress:
        report = run_bench(bundle, settings, lambda done: progress.advance(note=done))

    ceilings, memory = report.ceilings, report.memory_bytes
    where = report.device if ceilings is None else f"{ceilings.threads} threads"
    title = f"{report.bundle} ({report.target}), {where}"
    out.show(out.table(title, COLUMNS, report.rows()))
    out.show(
        f"load {1000 * report.load_s:.0f} ms; memory at most {format_bytes(max(memory.values()))}, "
        f"{format_bytes(memory['load'])} after loading"
    )
    if ceilings is not None:
        out.show(
            f"this machine: int8 {ceilings.int8_per_s / 1e9:.0f} GOP/s, "
            f"fp32 {ceilings.fp32_per_s / 1e9:.0f} GFLOP/s, "
            f"memory {ceilings.bytes_per_s / 1e9:.1f} GB/s\n"
            f"{report.to_dict()['formula']}"
        )
    line = json.dumps(report.to_dict(), ensure_ascii=False)
    if json_file is not None:
        _write(json_file, line + "\n")
    print(line)


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, "utf-8")
    except OSError as error:
        raise AltogetherError(
            f"{path} cannot be written ({error.strerror}): choose another --json."
        ) from error
