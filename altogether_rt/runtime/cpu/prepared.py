"""A second copy of a bundle's graphs and weights, laid out for this machine's kernels.

When onnxruntime opens a graph it optimises the graph and packs the weights again. This takes
seconds for billions of weights, and each process holds its own packed copy. A *prepared* bundle
keeps the result: opening it maps the file, so captioning starts at once and processes share one
copy. Kernels and captions are the same.

The copy is in the user's cache folder, not in the bundle's: onnxruntime uses packed weights
unchecked, so packed weights of a stranger's bundle could corrupt this process's memory. It is used
only on processors of the same kind and with the same version of onnxruntime.
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

#: Size of a prepared bundle, relative to the bundle: weights unpacked and packed, and a margin.
_SIZE_RATIO = 2.2


@dataclass(frozen=True)
class Prepared:
    """A prepared bundle for this machine."""

    path: Path
    bytes: int
    unread: frozenset[str]  # files of the bundle that are not read, as this replaces them

    def graph_path(self, name: str) -> Path:
        return self.path / f"{name}.onnx"


def machine_key(cpuinfo: Path = CPUINFO) -> str:
    """A short hash of all that packed weights depend on.

    Kernels are chosen by the processor's flags, and their layouts may change with the version of
    onnxruntime.
    """
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
    """The prepared form of `bundle` for this machine; None if there is none, or not a whole one."""
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
    """Prepare `bundle` for this machine; `done` is called with the name of each finished graph.

    Raises BundleError for a bundle of another runtime, or if it cannot be written.
    """
    target = bundle.manifest.target
    if not _for_cpu(bundle):
        raise BundleError(
            f"bundle {bundle.path} was exported for {target.runtime} on {target.device}: "
            "only bundles for onnxruntime on cpu can be prepared."
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
    """Remove all prepared forms of `bundle`, for any processor, and return their folders.

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
    """The folder that holds the prepared bundles, each in a folder of its own."""
    return platformdirs.user_cache_path("altogether-rt", appauthor=False) / "prepared"


def _check_room(bundle: Bundle) -> None:
    """Check the free space before minutes are spent; onnxruntime does not report a full disk."""
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
