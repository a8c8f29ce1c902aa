"""Compiles a bundle's graphs, into the bundle on export or into the user's cache on first use."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

from altogether_rt.artifacts.bundle import Bundle, hash_file
from altogether_rt.artifacts.engines import EngineSpec
from altogether_rt.artifacts.files import NewFolder
from altogether_rt.artifacts.manifest import GRAPH_NAMES
from altogether_rt.artifacts.private import make_private_folder
from altogether_rt.runtime.tensorrt.compiler import Builder, EngineError
from altogether_rt.runtime.tensorrt.engine_files import (
    SPEC_NAME,
    EngineFile,
    cache_folder,
    engine_key,
    find_engine,
)
from altogether_rt.runtime.tensorrt.profiles import profiles_for

__all__ = ["build_engines", "ensure_engines"]

Report = Callable[[str], None]


def build_engines(
    bundle: Bundle,
    sms: Sequence[int],
    out: Path,
    builder: Builder,
    *,
    graphs: Sequence[str] = GRAPH_NAMES,
    timing_cache: Path | None = None,
    report: Report = lambda message: None,
) -> tuple[EngineSpec, ...]:
    """Compile the bundle's graphs for the compute capabilities `sms` into the folder `out`.

    One plan serves all of `sms`, so weights are stored once; there is a spec for each. Raises
    EngineError if the package cannot compile for one of them, or cannot compile a graph.
    """
    sms = sorted(set(sms))
    builder.check_targets(sms)
    specs: list[EngineSpec] = []
    for graph in graphs:
        label = "-".join(map(str, sms))
        report(f"compiling the {graph} for SM {label.replace('-', ', ')}")
        file = f"{graph}.sm{label}.plan"
        profiles = profiles_for(graph, bundle.config)
        path = out / file
        builder.compile(bundle.graph_path(graph), profiles, sms, path, timing_cache=timing_cache)
        digest = hash_file(path)
        specs += [
            EngineSpec(graph, file, digest, sm, builder.name, builder.version, profiles)  # type: ignore[arg-type]
            for sm in sms
        ]
    return tuple(specs)


def ensure_engines(
    bundle: Bundle,
    sm: int,
    builder: Builder,
    *,
    gpu: str = "",
    report: Report = lambda message: None,
) -> dict[str, EngineFile]:
    """An engine for each graph, for a GPU of compute capability `sm`.

    Engines that are neither in the bundle nor in the user's cache are compiled into the cache,
    which takes seconds to minutes, once. Raises EngineError if that fails.
    """
    engines: dict[str, EngineFile] = {}
    for graph in GRAPH_NAMES:
        identity = (bundle, graph, sm, builder.name, builder.version, gpu)
        found = find_engine(*identity)
        if found is None:
            _compile_into(
                cache_folder() / engine_key(*identity), bundle, graph, sm, builder, report
            )
            found = find_engine(*identity)
        if found is None:
            raise EngineError(
                f"the engine compiled into {cache_folder()} cannot be read back: check "
                "whether that disk is full."
            )
        engines[graph] = found
    return engines


def _compile_into(
    folder: Path, bundle: Bundle, graph: str, sm: int, builder: Builder, report: Report
) -> None:
    """Compile one graph into `folder`; a damaged engine that is there is replaced."""
    try:
        make_private_folder(folder.parent)
        with NewFolder(folder) as new:
            new.path.chmod(0o755)
            (spec,) = build_engines(bundle, [sm], new.path, builder, graphs=[graph], report=report)
            (new.path / SPEC_NAME).write_text(json.dumps(asdict(spec)), encoding="utf-8")
            for path in new.path.iterdir():
                path.chmod(0o644)
            new.commit(first_wins=True)
    except OSError as error:
        raise EngineError(
            f"engines cannot be written to {folder.parent} ({error}): set XDG_CACHE_HOME to a "
            "folder with free space."
        ) from error
