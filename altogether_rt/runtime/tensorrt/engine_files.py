"""Finds the engine for a GPU: one compiled for exactly this GPU, package and version."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from altogether_rt.artifacts.bundle import Bundle, hash_file
from altogether_rt.artifacts.engines import EngineSpec
from altogether_rt.artifacts.json_file import read_json_file
from altogether_rt.artifacts.manifest import GRAPH_NAMES
from altogether_rt.artifacts.private import is_private
from altogether_rt.errors import ConfigError
from altogether_rt.plain_data import from_dict
from altogether_rt.runtime.tensorrt.profiles import profiles_for

__all__ = ["SPEC_NAME", "EngineFile", "cache_folder", "engine_key", "find_engine", "find_engines"]

#: The file beside a plan in the user's cache that holds its `EngineSpec`.
SPEC_NAME = "engine.json"
_MAX_SPEC_BYTES = 1 << 20


@dataclass(frozen=True)
class EngineFile:
    """A compiled engine and its file."""

    spec: EngineSpec
    path: Path


def find_engines(
    bundle: Bundle, sm: int, builder: str, version: str, gpu: str = ""
) -> dict[str, EngineFile]:
    """`find_engine` for all graphs; graphs without an engine are left out."""
    found = {name: find_engine(bundle, name, sm, builder, version, gpu) for name in GRAPH_NAMES}
    return {name: engine for name, engine in found.items() if engine is not None}


def find_engine(
    bundle: Bundle, graph: str, sm: int, builder: str, version: str, gpu: str = ""
) -> EngineFile | None:
    """The engine of a graph for a GPU of compute capability `sm`, from the bundle or the cache.

    gpu: the GPU's name, for packages that compile for one GPU model. None if neither has an engine
    compiled for exactly this GPU, package and version, from exactly this graph and its weights.
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
    """The name of an engine in the cache, a hash of all that the engine depends on."""
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
    """The folder of the engines compiled on this machine, each in a folder of its own."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "altogether-rt" / "engines"


def _cached(folder: Path) -> EngineFile | None:
    """A cached engine.

    None if there is none, its file was changed or damaged, or somebody else may write to it.
    """
    if not all(map(is_private, (folder.parent, folder, folder / SPEC_NAME))):
        return None
    try:
        spec = from_dict(EngineSpec, read_json_file(folder / SPEC_NAME, _MAX_SPEC_BYTES))
        file = folder / spec.file
        if file.name != spec.file or not is_private(file) or hash_file(file) != spec.sha256:
            return None
    except (OSError, ValueError, ConfigError):
        return None
    return EngineFile(spec, folder / spec.file)
