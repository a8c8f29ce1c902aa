"""What `altogether-rt caption` takes: its options, in the order of its help."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from altogether_rt.cli.alt_options import (
    AltBeside,
    AltEmbedded,
    AltKey,
    Alts,
    ImageKey,
    Strict,
    WriteAlt,
)
from altogether_rt.cli.caption_options import (
    BatchSize,
    BundleName,
    Checks,
    DryRun,
    Embeddings,
    EngineOption,
    FastJpeg,
    Inputs,
    JoinOn,
    JoinOption,
    Json,
    LayoutOption,
    Limit,
    LoopRepeats,
    MaxNewTokens,
    MaxPixels,
    OnlyMissing,
    Out,
    Overwrite,
    PromptText,
    Quiet,
    RayAddress,
    Recursive,
    RetryErrors,
    Sample,
    SaveEmbeddings,
    Seed,
    Sheet,
    Sidecar,
    SpeculationOption,
    SpoolBytes,
    SpoolOption,
    Style,
    Temperature,
    Threads,
    TopP,
    Update,
    Workers,
)
from altogether_rt.cli.caption_prompt import prompt_text
from altogether_rt.cli.checkpoint import AllowDownload, DtypeOption, KVCacheOption
from altogether_rt.cli.device import DeviceOption
from altogether_rt.cli.downloads import Download
from altogether_rt.cli.hygiene import AltLanguage, DropBoilerplate, DropNoiseAlts, UnescapeAlts
from altogether_rt.cli.run_output import (
    LogFileOption,
    LogJsonOption,
    MetricsFileOption,
    ProgressOption,
    Reporting,
)
from altogether_rt.data.hygiene.clean import HygieneOptions
from altogether_rt.data.images import ImageLimits
from altogether_rt.data.shards.spool import SPOOL_BYTES
from altogether_rt.data.sources.sampling import KeyShare
from altogether_rt.monitoring.display import ProgressMode

__all__ = ["PANELS", "CaptionArguments"]

#: Headings of `--help`. What is used most has none, and comes first.
PANELS: Mapping[str, tuple[str, ...]] = {
    "Alt-texts": (
        "alt_beside",
        "alt_embedded",
        "alt_key",
        "image_key",
        "strict",
        "unescape_alts",
        "drop_noise_alts",
        "drop_boilerplate",
        "alt_language",
    ),
    "Images": (
        "recursive",
        "limit",
        "sample",
        "dry_run",
        "max_pixels",
        "fast_jpeg",
        "embeddings",
    ),
    "Captions": (
        "style",
        "prompt",
        "max_new_tokens",
        "temperature",
        "top_p",
        "seed",
        "loop_repeats",
        "checks",
    ),
    "Further output": ("sidecar", "write_alt", "save_embeddings"),
    "Running again": ("overwrite", "update", "retry_errors"),
    "Shards": (
        "layout",
        "join",
        "join_on",
        "only_missing",
        "spool",
        "spool_bytes",
        "engine",
        "ray_address",
    ),
    "Captioner and performance": (
        "device",
        "dtype",
        "kv_cache",
        "download",
        "allow_download",
        "batch_size",
        "workers",
        "threads",
        "speculation",
    ),
    "Progress and logs": ("progress", "log_file", "log_json", "metrics_file"),
}


@dataclass(frozen=True, kw_only=True)
class CaptionArguments:
    """Of a folder and of shards. None leaves the captioner's own default."""

    inputs: Inputs
    alt: Alts = None
    bundle: BundleName = "starter"
    out: Out = None
    sheet: Sheet = None
    alt_beside: AltBeside = None
    alt_embedded: AltEmbedded = None
    alt_key: AltKey = None
    image_key: ImageKey = None
    strict: Strict = False
    unescape_alts: UnescapeAlts = False
    drop_noise_alts: DropNoiseAlts = False
    drop_boilerplate: DropBoilerplate = False
    alt_language: AltLanguage = False
    recursive: Recursive = True
    limit: Limit = None
    sample: Sample = None
    dry_run: DryRun = False
    max_pixels: MaxPixels = ImageLimits.max_pixels
    fast_jpeg: FastJpeg = False
    embeddings: Embeddings = None
    style: Style = "caption"
    prompt: PromptText = None
    max_new_tokens: MaxNewTokens = None
    temperature: Temperature = None
    top_p: TopP = None
    seed: Seed = 0
    loop_repeats: LoopRepeats = None
    checks: Checks = None
    sidecar: Sidecar = None
    write_alt: WriteAlt = None
    save_embeddings: SaveEmbeddings = None
    overwrite: Overwrite = False
    update: Update = False
    retry_errors: RetryErrors = False
    layout: LayoutOption = "auto"
    join: JoinOption = None
    join_on: JoinOn = "key"
    only_missing: OnlyMissing = False
    spool: SpoolOption = None
    spool_bytes: SpoolBytes = SPOOL_BYTES
    engine: EngineOption = "local"
    ray_address: RayAddress = None
    device: DeviceOption = "auto"
    dtype: DtypeOption = "auto"
    kv_cache: KVCacheOption = "auto"
    download: Download = False
    allow_download: AllowDownload = False
    batch_size: BatchSize = None
    workers: Workers = None
    threads: Threads = None
    speculation: SpeculationOption = "auto"
    progress: ProgressOption = ProgressMode.AUTO
    log_file: LogFileOption = None
    log_json: LogJsonOption = False
    metrics_file: MetricsFileOption = None
    as_json: Json = False
    quiet: Quiet = False

    def reporting(self) -> Reporting:
        """How progress is told. Raises typer.BadParameter for options that need another."""
        return Reporting(self.progress, self.log_file, self.log_json, self.metrics_file)

    def share(self) -> KeyShare | None:
        """Which of the images are captioned; None: all. Raises AltogetherError for no share."""
        return None if self.sample is None else KeyShare(self.sample, self.seed)

    def read_params(self) -> Mapping[str, Any]:
        """Overrides for `caption_params`. Raises AltogetherError for a prompt that is none.

        It may read the prompt from a file, which can be a pipe: call it once.
        """
        return {
            "max_new_tokens": self.max_new_tokens,
            "temperature": self.temperature,
            "top_p": self.top_p,
            "loop_repeats": self.loop_repeats,
            "style": self.style,
            "prompt": prompt_text(self.prompt),
            "seed": self.seed,
        }

    def hygiene(self) -> HygieneOptions:
        """What is done to alt-texts before they are read; of shards, no boilerplate is dropped."""
        return HygieneOptions(
            self.unescape_alts, self.drop_noise_alts, self.drop_boilerplate, self.alt_language
        )

    def execution(self) -> Mapping[str, Any]:
        """How a captioner is run, as `open_executor` takes it."""
        return {
            "threads": self.threads,
            "num_slots": self.batch_size,
            "speculation": self.speculation,
        }
