"""What a name, a bundle, a checkpoint or a device means on this machine: decided here alone."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

from altogether_rt.artifacts.bundle import MANIFEST_NAME, Bundle, find_bundle, is_checkpoint
from altogether_rt.artifacts.stamps import FileStamps
from altogether_rt.config import CaptionerConfig
from altogether_rt.data.embeddings import EncoderStamp
from altogether_rt.errors import AltogetherError, MissingDependencyError
from altogether_rt.hub.lookup import locate_captioner
from altogether_rt.machine.device import Dtype, KVCacheType, find_gpu, has_module, parse_device
from altogether_rt.preprocess.prompts import PromptTokenizer
from altogether_rt.runtime.base import Runtime
from altogether_rt.runtime.select import load_bundle, open_runtime

if TYPE_CHECKING:
    from altogether_rt.runtime.torch.open import ResolvedCheckpoint

__all__ = ["CaptionerParts", "Dtype", "KVCacheType", "ResolvedCaptioner", "resolve_captioner"]


@dataclass(frozen=True)
class CaptionerParts:
    """An opened captioner's parts."""

    config: CaptionerConfig
    runtime: Runtime
    tokenizer: PromptTokenizer
    bundle_id: str
    drafting_state: Path | None  # what earlier captions have taught


@dataclass(frozen=True)
class ResolvedCaptioner:
    """A bundle or a checkpoint that this machine can run on a device.

    Checked once, and then opened wherever it is wanted: it can be sent to other processes.
    """

    name: str  # as the user gave it
    config: CaptionerConfig
    bundle_id: str  # of a checkpoint: 12 hex digits of its weights, configuration and type
    target: str  # `torch` for a checkpoint
    weights: str  # their type: `int8`, `float16`
    cache: str  # its type
    device: str  # as `--device` names it
    bundle: Bundle | None
    checkpoint: ResolvedCheckpoint | None
    stamps: FileStamps  # of the files of a bundle that were hashed

    def open(self, *, threads: int | None = None, num_slots: int | None = None) -> CaptionerParts:
        """Load the weights. threads: of the compute kernels; num_slots: captions at once.

        Raises AltogetherError if a file was changed since it was checked, or for no threads or
        slots.
        """
        _check_counts(threads=threads, num_slots=num_slots)
        if self.bundle is not None:
            self.stamps.check()
            runtime = open_runtime(
                self.bundle, device=self.device, threads=threads, num_slots=num_slots
            )
            tokenizer_path, drafting_state = (
                self.bundle.tokenizer_path,
                self.bundle.drafting_state_path,
            )
        else:
            assert self.checkpoint is not None
            if self.checkpoint.arithmetic.is_reduced:
                from altogether_rt.export.open_compared import open_compared

                runtime = open_compared(self.checkpoint, threads=threads, num_slots=num_slots)
            else:
                runtime = self.checkpoint.open(threads=threads, num_slots=num_slots)
            tokenizer_path, drafting_state = self.checkpoint.tokenizer_path, None
        tokenizer = PromptTokenizer.of_captioner(tokenizer_path, self.config)
        self.stamps.check()  # what was loaded is what was hashed
        return CaptionerParts(self.config, runtime, tokenizer, self.bundle_id, drafting_state)

    def resolve_again(self) -> ResolvedCaptioner:
        """What its name, device and types mean on the machine of this process, maybe another one.

        Raises what `resolve_captioner` does.
        """
        if self.checkpoint is None:
            return resolve_captioner(self.name, device=self.device)
        arithmetic = self.checkpoint.arithmetic
        return resolve_captioner(
            self.name,
            device=self.device,
            dtype=cast("Dtype", arithmetic.dtype),
            kv_cache=arithmetic.kv_cache,
            allow_download=self.checkpoint.allow_download,
        )

    def resolve_same(self) -> ResolvedCaptioner:
        """`resolve_again`; raises AltogetherError too if it is another captioner there."""
        found = self.resolve_again()
        if found.bundle_id != self.bundle_id:
            raise AltogetherError(
                f"{self.name} is {found.bundle_id} here, and was {self.bundle_id} in the process "
                "that sent it: give both the same bundle."
            )
        return found

    def encoder_stamp(self, *, fast_jpeg: bool) -> EncoderStamp:
        """What embeddings of this captioner are marked with. Raises AltogetherError for a
        checkpoint, whose encoder has no graph to identify it, and for an encoder of patch tokens.
        """
        if self.bundle is None:
            raise AltogetherError(
                f"{self.name} is a checkpoint, and embeddings are saved with bundles: export it "
                "first with altogether-rt export."
            )
        if self.config.encoder.grid is not None:
            raise AltogetherError(
                f"{self.name} reads patch tokens, too many of each image to be saved: leave out "
                "--embeddings and --save-embeddings."
            )
        manifest = self.bundle.manifest
        decoding = "fast-jpeg" if fast_jpeg else "exact"
        return EncoderStamp(manifest.encoder_id, manifest.config.encoder.embed_dim, decoding)


def resolve_captioner(
    captioner: str | Path | Bundle = "starter",
    *,
    device: str = "auto",
    dtype: Dtype = "auto",
    kv_cache: KVCacheType = "auto",
    allow_download: bool = False,
) -> ResolvedCaptioner:
    """What `captioner` means: a bundle's folder, a checkpoint's, `starter`, or a name from the
    catalogue or the hub that is on this machine, as what is fastest there on `device`: a bundle or
    a checkpoint (`hub.target`).

    dtype: of a checkpoint's mapper and decoder; auto is float16 on a GPU, float32 elsewhere.
    float8: products of encoder, mapper and prompts in fp8, the rest in float16, on GPUs from
    compute capability 8.9 on; float8-all: those of decode steps too. kv_cache: how a checkpoint on
    a GPU keeps keys and values; auto: as they are computed. Opening what is in fp8, or keeps eight
    bits, compares it with float32, and fails if the two differ too much.
    allow_download: whether a checkpoint may name an encoder that is fetched, or files outside of
    its folder. Quick but for hashes: no backend is opened. Raises BundleError if the bundle cannot
    be used, AltogetherError for a device that is not there, MissingDependencyError for a missing
    package.
    """
    given = captioner
    if not isinstance(captioner, Bundle):
        captioner = locate_captioner(captioner, device)
        if is_checkpoint(captioner):
            # By name it is a checkpoint for the sake of a GPU: the CPU is not taken instead of it.
            on = "cuda" if device == "auto" and captioner != given else device
            return _resolve_checkpoint(
                str(given), Path(captioner), on, dtype, kv_cache, allow_download
            )
    stamps = _bundle_stamps(captioner)
    bundle = captioner if isinstance(captioner, Bundle) else load_bundle(captioner, device)
    name = str(bundle.path if isinstance(captioner, Bundle) else given)
    _check_types(name, dtype, kv_cache)
    manifest = bundle.manifest
    return ResolvedCaptioner(
        name=name,
        config=bundle.config,
        bundle_id=bundle.bundle_id,
        target=manifest.target.name,
        weights=manifest.target.weights,
        cache=manifest.cache.dtype,
        device=device,
        bundle=bundle,
        checkpoint=None,
        stamps=stamps,
    )


def _check_counts(**counts: object) -> None:
    for name, count in counts.items():
        if count is not None and (not isinstance(count, int) or count < 1):
            raise AltogetherError(f"{name} must be an int of at least 1, not {count!r}.")


def _check_types(name: str, dtype: Dtype, kv_cache: KVCacheType) -> None:
    """Raises AltogetherError for the types of a checkpoint where `name` is a bundle."""
    for option, value, what in (("dtype", dtype, "weights"), ("kv-cache", kv_cache, "cache")):
        if value != "auto":
            raise AltogetherError(
                f"{name} is a bundle here: its target fixes the type of its {what}; leave out "
                f"--{option}, or make a checkpoint: altogether-rt import {name} --out CHECKPOINT."
            )


def _bundle_stamps(captioner: str | Path | Bundle) -> FileStamps:
    """Of all files of a bundle but its drafting state, which `learn` may replace at any time."""
    if isinstance(captioner, Bundle):
        manifest = captioner.manifest
        names = [name for name in manifest.files if name != manifest.drafting_state]
        return FileStamps.take(captioner.path / name for name in names)
    folder = find_bundle(captioner)
    kept = (path for path in folder.iterdir() if path.suffix != ".npz" and path.is_file())
    return FileStamps.take(path for path in kept if path.name != MANIFEST_NAME)


def _resolve_checkpoint(
    name: str,
    folder: Path,
    device: str,
    dtype: Dtype,
    kv_cache: KVCacheType,
    allow_download: bool,
) -> ResolvedCaptioner:
    if parse_device(device).on_gpu:
        find_gpu(parse_device(device))
    for package in ("torch", "safetensors", "open_clip"):
        if not has_module(package):
            raise MissingDependencyError(package, "train", "captioning with a checkpoint")
    from altogether_rt.runtime.torch.open import resolve_checkpoint

    checkpoint = resolve_checkpoint(
        folder, device=device, dtype=dtype, kv_cache=kv_cache, allow_download=allow_download
    )
    return ResolvedCaptioner(
        name=name,
        config=checkpoint.config,
        bundle_id=checkpoint.identity,
        target="torch",
        weights=checkpoint.arithmetic.dtype,
        cache=checkpoint.arithmetic.cache,
        device=device,
        bundle=None,
        checkpoint=checkpoint,
        stamps=FileStamps({}),
    )
