"""`altogether-rt caption-shard`: one shard, for a scheduler that calls it for each."""

from __future__ import annotations

import dataclasses
from typing import Annotated

import typer

from altogether_rt.cli.alt_options import AltKey, ImageKey
from altogether_rt.cli.caption_options import (
    BatchSize,
    BundleName,
    Checks,
    FastJpeg,
    JoinOn,
    JoinOption,
    Json,
    LayoutOption,
    LoopRepeats,
    MaxNewTokens,
    MaxPixels,
    Overwrite,
    PromptText,
    Quiet,
    RetryErrors,
    Seed,
    SpeculationOption,
    SpoolBytes,
    SpoolOption,
    Style,
    Temperature,
    Threads,
    TopP,
)
from altogether_rt.cli.caption_prompt import prompt_text
from altogether_rt.cli.commands.shards.report import (
    BUSY,
    INCOMPLETE,
    changed_sentence,
    row_sentences,
)
from altogether_rt.cli.commands.shards.sharded import ShardArguments, Shown
from altogether_rt.cli.device import DeviceOption
from altogether_rt.cli.hygiene import hygiene_sentences
from altogether_rt.cli.run_output import (
    INTERRUPTED,
    LogFileOption,
    LogJsonOption,
    MetricsFileOption,
    ProgressOption,
    Reporting,
    RunOutput,
    open_run_output,
)
from altogether_rt.data.images import ImageLimits
from altogether_rt.data.problems import Problems
from altogether_rt.data.shards.spool import SPOOL_BYTES
from altogether_rt.errors import AltogetherError
from altogether_rt.monitoring.display import ProgressMode

__all__ = ["caption_shard_command"]

Shards = Annotated[
    str, typer.Argument(metavar="IN", help="A shard, or a pattern of shards with --index.")
]
Folder = Annotated[str, typer.Argument(metavar="OUT", help="Folder or URL for the captions.")]
Index = Annotated[
    int | None, typer.Option(min=0, help="Which of the shards matching IN to caption, from 0.")
]
Name = Annotated[
    str | None, typer.Option(metavar="NAME", help="Name of the output. Default: the shard's.")
]


def caption_shard_command(
    context: typer.Context,
    shard: Shards,
    out: Folder,
    index: Index = None,
    name: Name = None,
    layout: LayoutOption = "auto",
    join: JoinOption = None,
    join_on: JoinOn = "key",
    image_key: ImageKey = None,
    alt_key: AltKey = None,
    bundle: BundleName = "starter",
    batch_size: BatchSize = None,
    max_new_tokens: MaxNewTokens = None,
    temperature: Temperature = None,
    top_p: TopP = None,
    loop_repeats: LoopRepeats = None,
    style: Style = "caption",
    prompt: PromptText = None,
    checks: Checks = None,
    seed: Seed = 0,
    overwrite: Overwrite = False,
    retry_errors: RetryErrors = False,
    device: DeviceOption = "auto",
    threads: Threads = None,
    speculation: SpeculationOption = "auto",
    max_pixels: MaxPixels = ImageLimits.max_pixels,
    fast_jpeg: FastJpeg = False,
    spool: SpoolOption = None,
    spool_bytes: SpoolBytes = SPOOL_BYTES,
    progress: ProgressOption = ProgressMode.AUTO,
    log_file: LogFileOption = None,
    log_json: LogJsonOption = False,
    metrics_file: MetricsFileOption = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Caption one shard: the unit of work of a Slurm array, a Batch job or Kubernetes.

    It may be called again at any time, by several machines at once. Exit codes: 0 the shard is
    done, 3 it lacks samples, 1 it failed, 75 another process has it.
    """
    arguments = ShardArguments(
        bundle=bundle,
        device=device,
        params={
            "max_new_tokens": max_new_tokens,
            "temperature": temperature,
            "top_p": top_p,
            "loop_repeats": loop_repeats,
            "style": style,
            "prompt": prompt_text(prompt),
            "seed": seed,
        },
        execution={"threads": threads, "num_slots": batch_size, "speculation": speculation},
        out=out,
        layout=layout,
        image_key=image_key,
        alt_key=alt_key,
        join=join,
        join_on=join_on,
        spool=spool,
        spool_bytes=spool_bytes,
        max_pixels=max_pixels,
        fast_jpeg=fast_jpeg,
        overwrite=overwrite,
        retry_errors=retry_errors,
        checks=checks,
    )
    with open_run_output(
        "caption-shard",
        context.params,
        Reporting(progress, log_file, log_json, metrics_file),
        as_json=as_json,
        quiet=quiet,
        interrupted=INTERRUPTED,
    ) as run:
        _run(shard, index, name, arguments, run)


def _run(
    text: str, index: int | None, name: str | None, arguments: ShardArguments, run: RunOutput
) -> None:
    from altogether_rt.data.shards.listing import list_shards
    from altogether_rt.data.sinks.shards.foreign import check_outputs
    from altogether_rt.data.sinks.shards.open_store import open_store
    from altogether_rt.data.sinks.shards.run_file import join_run
    from altogether_rt.jobs.shards.open import check_packages, open_shard_engine
    from altogether_rt.jobs.shards.plan import ShardResult, ShardTask

    shards = list_shards([text], arguments.shard_options())
    if index is None and len(shards) > 1:
        raise AltogetherError(f"{text} names {len(shards):,} shards: choose one with --index.")
    if index is not None and index >= len(shards):
        raise AltogetherError(
            f"--index {index} is too large: {text} names {len(shards):,} shards, from 0."
        )
    shard = shards[index or 0]
    if name is not None:
        shard = dataclasses.replace(shard, name=name)
    check_packages()
    captioner, job = arguments.resolve()
    store = open_store(job.out)
    check_outputs(store, [shard], job.run_id)
    join_run(store, job.run, overwrite=job.overwrite)
    results: list[ShardResult] = []
    with run.output.progress(shard.num_expected, "images", run.observers) as monitor:
        shown = Shown(0, 1, monitor, run.output)
        with open_shard_engine(captioner, **arguments.execution) as engine:
            engine.run([ShardTask(shard)], job, shown.rows, results.append)
    (result,) = results
    data = {
        "shard": result.shard,
        "state": result.state,
        "images": result.counts.rows,
        "captioned": result.counts.captioned,
        "failed": dict(result.counts.errors),
        "captions_empty": result.counts.empty,
        **result.counts.alts.to_dict(),
        **result.counts.checks_data(),
        "rows_made": result.num_new,
        "changed": result.changed,
        "message": result.message,
    }
    summary = [
        f"{result.shard}: {result.state}, {result.counts.captioned:,} of "
        f"{result.counts.rows:,} images captioned."
    ]
    for sentence in hygiene_sentences(result.counts.alts, arguments.hygiene):
        run.output.note(sentence)
    summary += row_sentences(result.counts)
    run.output.result(data, summary)
    if result.changed:
        run.output.note(changed_sentence(Problems(1, [f"{result.shard}: {shard.url}"])))
    if result.state in ("failed", "busy", "incomplete"):
        run.output.error(result.message)
        codes = {"failed": 1, "busy": BUSY, "incomplete": INCOMPLETE}
        raise typer.Exit(codes[result.state])
    if result.replaced:
        raise typer.Exit(INCOMPLETE)
