"""Which engine may run where: exactly the GPU, the package and the version it was compiled for."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from altogether_rt.artifacts.bundle import Bundle, hash_file
from altogether_rt.artifacts.manifest import GRAPH_NAMES, EngineSpec
from altogether_rt.errors import ConfigError
from altogether_rt.plain_data import from_dict
from altogether_rt.runtime.tensorrt.profiles import profiles_for

__all__ = ["SPEC_NAME", "EngineFile", "cache_folder", "engine_key", "find_engine", "find_engines"]

#: Beside a plan in the user's cache: its `EngineSpec`.
SPEC_NAME = "engine.json"


@dataclass(frozen=True)
class EngineFile:
    """An engine and where it is."""

    spec: EngineSpec
    path: Path


def find_engines(
    bundle: Bundle, sm: int, builder: str, version: str, gpu: str = ""
) -> dict[str, EngineFile]:
    """`find_engine` for all graphs; those without an engine are left out."""
    found = {name: find_engine(bundle, name, sm, builder, version, gpu) for name in GRAPH_NAMES}
    return {name: engine for name, engine in found.items() if engine is not None}


def find_engine(
    bundle: Bundle, graph: str, sm: int, builder: str, version: str, gpu: str = ""
) -> EngineFile | None:
    """The engine of a graph for a GPU of compute capability `sm`: the bundle's, else the cache's.

    gpu: the GPU's name, for packages that compile for one model. None if neither has one that was
    compiled for exactly this GPU, package and version, from exactly these graphs and weights.
    """
    for spec in bundle.manifest.engines:
        if (spec.graph, spec.sm, spec.builder, spec.builder_version) == (
            graph,
            sm,
            builder,
            version,
        ):
            return EngineFile(spec, bundle.path / spec.file)
    return _cached(cache_folder() / engine_key(bundle, graph, sm, builder, version, gpu))


def engine_key(
    bundle: Bundle, graph: str, sm: int, builder: str, version: str, gpu: str = ""
) -> str:
    """Names an engine in the cache: another key for anything that makes it another engine."""
    manifest = bundle.manifest
    spec = manifest.graphs[graph]
    identity: Mapping[str, object] = {
        "graph": [graph, spec.sha256],
        "weights": [manifest.files[name].sha256 for name in spec.weights],
        "sm": sm,
        "gpu": gpu,
        "builder": [builder, version],
        "profiles": [asdict(profile) for profile in profiles_for(graph, manifest.config)],
    }
    text = json.dumps(identity, sort_keys=True, separators=(",", ":"))
    return f"{graph}-sm{sm}-{hashlib.sha256(text.encode()).hexdigest()[:24]}"


def cache_folder() -> Path:
    """Where engines compiled on this machine are kept, a folder each."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "altogether-rt" / "engines"


def _cached(folder: Path) -> EngineFile | None:
    """A cached engine; None if there is none or it is not what was written."""
    try:
        spec = from_dict(EngineSpec, json.loads((folder / SPEC_NAME).read_bytes()))
        if Path(spec.file).name != spec.file or hash_file(folder / spec.file) != spec.sha256:
            return None
    except (OSError, ValueError, ConfigError):
        return None
    return EngineFile(spec, folder / spec.file)
