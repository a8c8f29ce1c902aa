"""`caption` and `caption-shard` on datasets in shards: what they share, and what they print."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from altogether_rt.cli.caption_notes import shard_notes
from altogether_rt.cli.caption_prompt import caption_checker
from altogether_rt.cli.commands.caption.report import error_lines
from altogether_rt.cli.commands.shards.report import INCOMPLETE, exit_code, problems_data, report
from altogether_rt.cli.device import check_gpu
from altogether_rt.cli.downloads import ensure_captioner
from altogether_rt.cli.output import Output
from altogether_rt.cli.run_output import RunOutput
from altogether_rt.data.hygiene.clean import HygieneOptions
from altogether_rt.data.images import ImageLimits
from altogether_rt.data.problems import Problems
from altogether_rt.data.shards.base import Shard
from altogether_rt.data.shards.options import (
    Join,
    Layout,
    ShardOptions,
    parse_alt_keys,
    parse_image_keys,
)
from altogether_rt.data.shards.spool import SPOOL_BYTES
from altogether_rt.data.sinks.shards.stats import RowCounts
from altogether_rt.data.sources.base import Sample
from altogether_rt.data.sources.sampling import KeyShare
from altogether_rt.errors import AltogetherError, ImageError
from altogether_rt.machine.device import Dtype, KVCacheType
from altogether_rt.monitoring.monitor import RunMonitor

if TYPE_CHECKING:
    from altogether_rt.jobs.shards.plan import ShardJob, ShardResult
    from altogether_rt.opening import ResolvedCaptioner

__all__ = [
    "ShardArguments",
    "Shown",
    "caption_sharded",
]


@dataclass(frozen=True, kw_only=True)
class ShardArguments:
    """What the commands take, besides the shards."""

    bundle: str
    device: str
    params: Mapping[str, Any]
    execution: Mapping[str, Any]  # as `open_shard_engine` takes it
    workers: int | None = None
    share: KeyShare | None = None
    out: str
    layout: Layout = "auto"
    image_key: str | None = None
    alt_key: str | None = None
    join: str | None = None
    join_on: str = "key"
    spool: Path | None = None
    spool_bytes: int = SPOOL_BYTES
    max_pixels: int = ImageLimits.max_pixels
    fast_jpeg: bool = False
    overwrite: bool = False
    retry_errors: bool = False
    hygiene: HygieneOptions = field(default_factory=HygieneOptions)
    checks: bool | None = None  # of captions; None: of captioners that follow instructions
    dtype: Dtype = "auto"
    kv_cache: KVCacheType = "auto"
    allow_download: bool = False
    download: bool = False

    def shard_options(self) -> ShardOptions:
        """How shards are read. Raises AltogetherError for keys without a name."""
        return ShardOptions(
            layout=self.layout,
            image_keys=parse_image_keys(self.image_key),
            alt_keys=parse_alt_keys(self.alt_key),
            join=None if self.join is None else Join(self.join, self.join_on),
            limits=ImageLimits(max_pixels=self.max_pixels),
        )

    def resolve(self) -> tuple[ResolvedCaptioner, ShardJob]:
        """The captioner and the job. Raises AltogetherError if there is no such captioner."""
        from altogether_rt.captions import caption_params
        from altogether_rt.jobs.plan import CaptionPlan
        from altogether_rt.jobs.shards.plan import ShardJob
        from altogether_rt.jobs.shards.reading import ShardReader
        from altogether_rt.opening import resolve_captioner

        check_gpu(self.device)
        captioner = resolve_captioner(
            self.bundle,
            device=self.device,
            dtype=self.dtype,
            kv_cache=self.kv_cache,
            allow_download=self.allow_download,
        )
        params = caption_params(captioner.config, **self.params)
        options = self.shard_options()
        reading = {
            "image_keys": self.image_key,
            "alt_keys": self.alt_key,
            "join": self.join,
            "join_on": None if self.join is None else self.join_on,
        }
        job = ShardJob(
            out=self.out,
            open_shard=ShardReader(options, self.spool, self.spool_bytes),
            bundle_id=captioner.bundle_id,
            plan=CaptionPlan(params, options.limits, self.fast_jpeg),
            reading={name: keys for name, keys in reading.items() if keys is not None},
            share=self.share,
            hygiene=self.hygiene,
            checker=caption_checker(captioner.config, params, self.checks),
            overwrite=self.overwrite,
            retry_errors=self.retry_errors,
        )
        return captioner, job


def caption_sharded(
    inputs: Sequence[str],
    arguments: ShardArguments,
    run: RunOutput,
    *,
    limit: int | None = None,
    only_missing: bool = False,
    dry_run: bool = False,
) -> None:
    """Caption the shards that `inputs` name; exits with 1, 3 or 75 unless all are done."""
    from altogether_rt.data.shards.listing import list_shards
    from altogether_rt.jobs.shards.open import check_packages, open_shard_engine
    from altogether_rt.jobs.shards.run import caption_shards, plan_run

    output = run.output
    shards = list_shards(inputs, arguments.shard_options())
    if dry_run:
        read_sharded(shards, arguments, run, limit)
        return
    check_packages(arguments.execution.get("engine", "local"))
    ensure_captioner(
        arguments.bundle, run.output, device=arguments.device, download=arguments.download
    )
    captioner, job = arguments.resolve()
    plan = plan_run(shards, job, only_missing=only_missing)
    notes = shard_notes(captioner, plan.unfinished, job.open_shard)
    for note in notes:
        output.note(f"Note: {note}")
    workers = arguments.workers and min(arguments.workers, max(1, len(plan.unfinished)))
    output.event(
        "info", "captioner", f"captions with {captioner.name}", workers=workers,
        bundle=captioner.bundle_id, target=captioner.target, device=captioner.device,
    )  # fmt: skip
    with output.progress(None, "images", run.observers) as monitor:
        engine = open_shard_engine(
            captioner, workers=workers, **arguments.execution,
            on_restart=monitor.restarted, note=output.note,
        )  # fmt: skip
        shown = Shown(len(plan.finished), len(shards), monitor, output)
        monitor.start(plan.num_expected if limit is None else limit)
        monitor.advance(0, shown.note)
        with engine:
            summary = caption_shards(
                plan, job, engine, limit=limit, on_rows=shown.rows, on_result=shown.result
            )
    report(arguments.out, summary, arguments.hygiene, output, notes)
    code = exit_code(summary)
    if code:
        raise typer.Exit(code)


@dataclass
class Shown:
    """Tells of rows and shards as they are done."""

    num_finished: int
    num_shards: int
    monitor: RunMonitor
    output: Output

    @property
    def note(self) -> str:
        return f"{self.num_finished:,}/{self.num_shards:,} shards"

    def rows(self, made: RowCounts) -> None:
        self.monitor.add(
            captioned=made.captioned,
            tokens=made.tokens,
            errors=[
                (kind, "", sentence)
                for kind, count in made.errors.items()
                for sentence in (made.examples[kind] + [""] * count)[:count]
            ],
        )

    def result(self, result: ShardResult) -> None:
        self.num_finished += 1
        self.monitor.advance(0, self.note)
        self.output.event(
            "info", "shard", f"{result.shard} is {result.state}", rows=result.counts.rows
        )
        if result.state in ("incomplete", "failed"):
            self.output.note(result.message)


def read_sharded(
    shards: Sequence[Shard], arguments: ShardArguments, run: RunOutput, limit: int | None
) -> None:
    """Read and decode every sample, write nothing, and say what captioning would meet."""
    from altogether_rt.captions import CaptionParams
    from altogether_rt.jobs.dry_run import read_samples
    from altogether_rt.jobs.plan import CaptionPlan
    from altogether_rt.jobs.shards.reading import ShardReader

    options = arguments.shard_options()
    reader = ShardReader(options, arguments.spool, arguments.spool_bytes)
    plan = CaptionPlan(CaptionParams(1, 0.0, 1.0), options.limits, arguments.fast_jpeg)
    share, bad, code = arguments.share, Problems(), 0
    with run.output.progress(limit, "images", run.observers) as monitor:

        def on_sample(sample: Sample, error: ImageError | None) -> None:
            monitor.answered(sample.key, error)

        for shard in shards:
            if limit is not None and monitor.done >= limit:
                break
            try:
                with reader(shard) as source:
                    chosen = source.samples_where(lambda _, key: share is None or key in share)
                    left = None if limit is None else limit - monitor.done
                    read_samples(islice(chosen, left), plan, on_sample)
                    whole = left is None or monitor.done < (limit or 0)
                    if whole and not source.ending.is_complete:
                        bad.add(f"{shard.name}: {source.ending.message}")
                        code = code or INCOMPLETE
            except (AltogetherError, OSError) as error:
                bad.add(f"{shard.name}: {error}")
                code = 1
    state = monitor.state()
    data = {"images": state.done, "failed": dict(state.errors), "bad_shards": problems_data(bad)}
    lines = [f"{state.done:,} images in {len(shards):,} shards were read, nothing was written."]
    run.output.result(data, lines + error_lines(state) + ([f"  shards: {bad}"] if bad else []))
    if code:
        raise typer.Exit(code)
