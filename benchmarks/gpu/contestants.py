"""Who is compared on a GPU. All run in the environment of the suite itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.contestant import Contestant

__all__ = ["Settings", "contestants"]

#: Batch of the public pipeline.
PUBLISHED_BATCH = 128

#: Below half precision: a name, which products are in fp8, and how the cache is kept.
REDUCED = (
    ("torch-fp8-all-int8-cache", "all", "int8"),
    ("torch-fp8", "prompts", "same"),
    ("torch-int8-cache", "none", "int8"),
)

_OURS = "harness.adapters.ours:Ours"
_RECORDING = {"recording": "recording.pickle"}
_CHECKPOINT = {"checkpoint": "checkpoint"}
_JPEGS = {"images": "jpegs"}


@dataclass(frozen=True)
class Settings:
    """What to measure, and where."""

    device: str  # cuda, cpu
    configs: Sequence[str]  # names, or paths of .toml files
    batch_sizes: Sequence[int]
    work: Path  # folder for checkpoints and bundles
    #: target -> device that its bundle runs on
    targets: Mapping[str, str] = field(default_factory=dict)
    #: Target that is exported for its parity alone.
    yardstick: str | None = "cpu-fp32"
    #: Names of the contestants to measure; None: all.
    only: Sequence[str] | None = None

    @property
    def dtype(self) -> str:
        """Precision of the contestants. On a CPU the suite itself is tested, not the speed."""
        return "float16" if self.device == "cuda" else "float32"

    @property
    def autocast(self) -> str:
        return "float16" if self.device == "cuda" else "bfloat16"

    @property
    def number_bytes(self) -> int:
        return 2 if self.dtype == "float16" else 4


def contestants(settings: Settings) -> list[Contestant]:
    """Those of `settings`, the most informative first; the last ones are lost if time runs out."""
    dtype = settings.dtype
    common = {"device": settings.device}
    published = (min(PUBLISHED_BATCH, max(settings.batch_sizes)),)
    peers = [
        _peer(
            "public-pipeline",
            "huggingface:HuggingFace",
            {**common, "dtype": "float32", "autocast": settings.autocast},
            published,
        ),
        _peer(
            "hf-static-compile",
            "huggingface:HuggingFace",
            {
                **common,
                "dtype": dtype,
                "tuned": True,
                "generate": {"cache_implementation": "static"},
            },
        ),
        _peer(
            "hf-continuous-batching",
            "huggingface:ContinuousBatching",
            {**common, "dtype": dtype},
        ),
        _peer("vllm", "vllm_embeddings:Vllm", {**common, "dtype": dtype}),
    ]
    name = f"torch-{dtype}"
    torch = Contestant(
        name, name, None, _OURS, _CHECKPOINT | _RECORDING, {**common, "dtype": dtype}
    )
    reduced = [
        _ours(
            each,
            "ours_torch:Reduced",
            _CHECKPOINT | _RECORDING,
            {**common, "dtype": dtype, "float8": float8, "kept": kept},
        )
        for each, float8, kept in REDUCED
    ]
    end_to_end = _ours(
        "end-to-end",
        "end_to_end:EndToEnd",
        _CHECKPOINT | _JPEGS,
        {**common, "dtype": dtype},
        # A few images at a time say nothing of reading beside them.
        tuple(size for size in settings.batch_sizes if size >= 32) or None,
    )
    plain = _ours(
        f"torch-plain-{dtype}",
        "ours_torch:PlainTorch",
        _CHECKPOINT | _RECORDING,
        {**common, "dtype": dtype},
    )
    bundles = [_bundle(target, device) for target, device in settings.targets.items()]
    listed = [torch, peers[0], reduced[0], end_to_end, *reduced[1:], *bundles, *peers[1:], plain]
    if settings.yardstick is not None:
        listed.append(_bundle(settings.yardstick, "cpu", batch_sizes=()))
    return [one for one in listed if settings.only is None or one.name in settings.only]


def _peer(
    name: str, adapter: str, options: dict[str, Any], batch_sizes: tuple[int, ...] | None = None
) -> Contestant:
    """Its decoder has random weights of its own, so there is no parity to measure."""
    return Contestant(
        name,
        name,
        None,
        f"harness.adapters.{adapter}",
        _CHECKPOINT,
        options,
        batch_sizes=batch_sizes,
    )


def _ours(
    name: str,
    adapter: str,
    files: Mapping[str, str],
    options: dict[str, Any],
    batch_sizes: tuple[int, ...] | None = None,
) -> Contestant:
    return Contestant(
        name, name, None, f"harness.adapters.{adapter}", files, options, batch_sizes=batch_sizes
    )


def _bundle(target: str, device: str, batch_sizes: tuple[int, ...] | None = None) -> Contestant:
    # A bundle that this run has exported is not hashed again.
    options = {"device": device, "verify_hashes": False}
    files = {"bundle": target} | _RECORDING
    return Contestant(target, target, None, _OURS, files, options, batch_sizes=batch_sizes)
