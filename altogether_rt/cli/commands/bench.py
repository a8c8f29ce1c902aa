"""`altogether-rt bench`: what a bundle does on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from altogether_rt.artifacts.files import write_or_send
from altogether_rt.cli.checkpoint import AllowDownload, DtypeOption, KVCacheOption
from altogether_rt.cli.device import DeviceOption, check_gpu
from altogether_rt.cli.downloads import Download, ensure_captioner
from altogether_rt.cli.output import Output, format_bytes, json_line
from altogether_rt.errors import AltogetherError
from altogether_rt.speculation.planner import Speculation

if TYPE_CHECKING:
    from altogether_rt.bench.plan import RunPlan

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
        str, typer.Option(help="Folder of a bundle or a checkpoint, or a name (see models).")
    ] = "starter",
    batch_sizes: Annotated[str, typer.Option(help="Batch sizes, separated by commas.")] = "1,8,32",
    new_tokens: Annotated[int, typer.Option(min=1, help="Maximum caption length in tokens.")] = 64,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Compute threads; by default all cores.")
    ] = None,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "auto",
    kv_cache: KVCacheOption = "auto",
    speculation: Annotated[
        Speculation,
        typer.Option(
            metavar="auto|on|off",
            help="Speculative decoding; turn it off for random weights, whose repeated tokens "
            "are easy to draft.",
        ),
    ] = "auto",
    plan: Annotated[
        str | None,
        typer.Option(
            metavar="IMAGES",
            help="Also estimate what a dataset of this many images takes: 250k, 400M, 1.5B.",
        ),
    ] = None,
    price_per_hour: Annotated[
        float | None, typer.Option(min=0.0, help="With --plan: price of this machine per hour.")
    ] = None,
    shard_size: Annotated[int, typer.Option(min=1, help="With --plan: images per shard.")] = 10_000,
    allow_download: AllowDownload = False,
    download: Download = False,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Also write the JSON line to this file.")
    ] = None,
    quick: Annotated[
        bool,
        typer.Option("--quick", help="Take seconds instead of a minute, for rough figures."),
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print only the JSON line, no table.")
    ] = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Print only the JSON line, and no progress.")
    ] = False,
) -> None:
    """Measure load time, latency, throughput and memory of a bundle, stage by stage, and the
    fraction reached of what this machine can do, measured in the same run.

    Prints a table, then one line of JSON; with --json or --quiet only that line.
    """
    sizes = _batch_sizes(batch_sizes)
    if price_per_hour is not None and plan is None:
        raise typer.BadParameter("it goes with --plan.", param_hint="--price-per-hour")
    check_gpu(device)
    from altogether_rt.bench.plan import parse_count, plan_run
    from altogether_rt.bench.report import COLUMNS, BenchSettings, run_bench
    from altogether_rt.bench.stages import STAGES

    num_images = None if plan is None else parse_count(plan)
    output = Output(as_json=as_json, quiet=quiet)
    ensure_captioner(bundle, output, device=device, download=download)
    settings = BenchSettings(
        sizes, threads, device, new_tokens, quick, speculation, allow_download, dtype, kv_cache
    )
    with output.progress(2 + len(STAGES) * len(sizes), "measurements") as progress:
        report = run_bench(bundle, settings, lambda done: progress.advance(note=done))

    ceilings, memory = report.ceilings, report.memory_bytes
    where = report.device if ceilings is None else f"{ceilings.threads} threads"
    title = f"{report.bundle} ({report.target}), {where}"
    output.show(output.table(title, COLUMNS, report.rows()))
    output.show(
        f"load {1000 * report.load_s:.0f} ms; memory at most {format_bytes(max(memory.values()))}, "
        f"{format_bytes(memory['load'])} after loading"
    )
    output.show(report.reading.sentence())
    if ceilings is not None:
        output.show(
            [
                f"this machine: int8 {ceilings.int8_per_s / 1e9:.0f} GOP/s, "
                f"fp32 {ceilings.fp32_per_s / 1e9:.0f} GFLOP/s, "
                f"memory {ceilings.bytes_per_s / 1e9:.1f} GB/s",
                str(report.to_dict()["formula"]),
            ]
        )
    data = report.to_dict()
    if num_images is not None:
        planned = plan_run(
            report,
            num_images,
            shard_size=shard_size,
            price_per_hour=price_per_hour,
        )
        _show_plan(planned, output)
        data["plan"] = planned.to_dict()
    line = json_line(data)
    if out is not None:
        _write(out, line + "\n")
    print(line)


def _show_plan(plan: RunPlan, output: Output) -> None:
    from altogether_rt.bench.plan import PLAN_COLUMNS

    output.show(output.table(f"{plan.num_images:,} images", PLAN_COLUMNS, plan.rows()))
    output.show(
        f"{1 / plan.seconds_per_image:,.1f} images/s, {plan.machine_hours:,.1f} hours of machines "
        "like this one"
    )
    output.show(
        f"output: {format_bytes(plan.output_bytes)} in {plan.num_shards:,} shards\n"
        + "\n".join(plan.assumptions())
    )


def _write(path: Path, text: str) -> None:
    try:
        write_or_send(path, text)
    except OSError as error:
        raise AltogetherError(
            f"{path} cannot be written ({error.strerror}): choose another --out."
        ) from error
