"""A bundle's graphs and weights once more, as this machine's kernels want them.

When onnxruntime opens a graph it optimises it and packs its weights anew, which takes seconds for
billions of weights, and every process packs a copy of its own. Of a *prepared* bundle the result is
kept: opening maps the file, so that it starts at once and processes share one copy. Kernels and
captions are the same.

It is kept in the user's cache folder and not in the bundle's: packed weights are taken as they are,
which would be trusting whoever the bundle comes from with this process's memory. It serves on
processors of the same kind with the same onnxruntime; others do not look at it.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from altogether_rt.artifacts.bundle import Bundle
from altogether_rt.artifacts.files import NewFolder
from altogether_rt.artifacts.manifest import GRAPH_NAMES, TOKENIZER_NAME
from altogether_rt.errors import BundleError
from altogether_rt.machine.cpuinfo import CPUINFO, read_cpuinfo
from altogether_rt.runtime.ort_session import (
    import_onnxruntime,
    products_saturate,
    save_optimized,
)

__all__ = [
    "Prepared",
    "find_prepared",
    "machine_key",
    "prepare",
    "prepared_root",
    "remove_prepared",
]

_NAME = "prepared.json"
_SCHEMA = 1
_MAX_BYTES = 1 << 16

#: Weights as they are and packed, and a little.
_SIZE_RATIO = 2.2


@dataclass(frozen=True)
class Prepared:
    """A prepared bundle for this machine."""

    path: Path
    bytes: int
    unread: frozenset[str]  # files of the bundle that it stands in for

    def graph_path(self, name: str) -> Path:
        return self.path / f"{name}.onnx"


def machine_key(cpuinfo: Path = CPUINFO) -> str:
    """What packed weights depend on, as a short hash: kernels are chosen by the processor's flags,
    and their layouts may change with onnxruntime's version."""
    values = read_cpuinfo(cpuinfo)
    wanted = ("model name", "flags", "features", "cpu part")
    parts = [
        _SCHEMA,
        import_onnxruntime().__version__,
        platform.system(),
        platform.machine(),
        platform.processor(),
        products_saturate(),
        *(sorted(values.get(key, "").split()) for key in wanted),
    ]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:12]


def find_prepared(bundle: Bundle) -> Prepared | None:
    """What was prepared of `bundle` for this machine and is whole; None if nothing was."""
    if not prepared_root().is_dir() or not _for_cpu(bundle):
        return None
    folder = _folder(bundle)
    try:
        if (folder / _NAME).stat().st_size > _MAX_BYTES:
            return None
        data = json.loads((folder / _NAME).read_bytes())
        sizes = {name: (folder / name).stat().st_size for name in data["files"]}
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    plain = all(os.path.basename(name) == name for name in sizes)
    if not plain or sizes != data["files"] or data.get("bundle_id") != bundle.bundle_id:
        return None
    if not {f"{name}.onnx" for name in GRAPH_NAMES} <= set(sizes):
        return None
    return _prepared(bundle, folder, sizes)


def prepare(bundle: Bundle, done: Callable[[str], object] = lambda name: None) -> Prepared:
    """Writes what `find_prepared` finds, whole or not at all; `done` is told each graph's name.

    Raises BundleError for a bundle of another runtime, or if it cannot be written.
    """
    target = bundle.manifest.target
    if not _for_cpu(bundle):
        raise BundleError(
            f"bundle {bundle.path} was exported for {target.runtime} on {target.device}: "
            "only bundles for onnxruntime on cpu are prepared."
        )
    folder = _folder(bundle)
    _check_room(bundle)
    try:
        with NewFolder(folder) as new:
            for name in GRAPH_NAMES:
                save_optimized(bundle.graph_path(name), new.path, name, half=bundle.is_half)
                done(name)
            sizes = {path.name: path.stat().st_size for path in sorted(new.path.iterdir())}
            data = {"bundle_id": bundle.bundle_id, "files": sizes}
            (new.path / _NAME).write_text(json.dumps(data, indent=1) + "\n", "utf-8")
            new.commit(first_wins=True)
    except OSError as error:
        raise BundleError(
            f"{folder} cannot be written ({error.strerror}): "
            "make room there, or set XDG_CACHE_HOME to a folder that has some."
        ) from error
    return _prepared(bundle, folder, sizes)


def remove_prepared(bundle: Bundle) -> list[Path]:
    """Removes what was prepared of `bundle`, for any processor; the folders that are gone.

    Raises BundleError if one cannot be removed.
    """
    folders = sorted(prepared_root().glob(f"*{bundle.bundle_id}-*"))
    for folder in folders:
        try:
            shutil.rmtree(folder)
        except OSError as error:
            raise BundleError(
                f"{folder} cannot be removed ({error.strerror}): remove it by hand."
            ) from error
    return folders


def prepared_root() -> Path:
    """Where prepared bundles are, a folder each."""
    return platformdirs.user_cache_path("altogether-rt", appauthor=False) / "prepared"


def _check_room(bundle: Bundle) -> None:
    """Before minutes are spent: onnxruntime's own error about a full disk does not name it."""
    parent = prepared_root()
    while not parent.exists():
        parent = parent.parent
    needed = int(_SIZE_RATIO * sum(spec.bytes for spec in bundle.manifest.files.values()))
    free = shutil.disk_usage(parent).free
    if free < needed:
        raise BundleError(
            f"{prepared_root()} has room for {free / 1e9:.1f} GB, and {needed / 1e9:.1f} GB are "
            "needed: make room there, or set XDG_CACHE_HOME to a folder that has some."
        )


def _folder(bundle: Bundle) -> Path:
    return prepared_root() / f"{bundle.bundle_id}-{machine_key()}"


def _prepared(bundle: Bundle, folder: Path, sizes: Mapping[str, int]) -> Prepared:
    unread = frozenset(bundle.manifest.files) - {TOKENIZER_NAME}
    return Prepared(folder, sum(sizes.values()), unread)


def _for_cpu(bundle: Bundle) -> bool:
    target = bundle.manifest.target
    return (target.runtime, target.device) == ("onnxruntime", "cpu")
