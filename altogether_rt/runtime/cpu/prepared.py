"""A second copy of a bundle's graphs and weights, laid out for this machine's kernels.

When onnxruntime opens a graph it optimises the graph and packs the weights again. This takes
seconds for billions of weights, and each process holds its own packed copy. A *prepared* bundle
keeps the result: opening it maps the file, so captioning starts at once and processes share one
copy. Kernels and captions are the same.

The copy is in the user's cache folder, not in the bundle's: onnxruntime uses packed weights
unchecked, so packed weights of a stranger's bundle could corrupt this process's memory. It is used
only on processors of the same kind and with the same version of onnxruntime, if nobody else may
write to it, and if its files are those that were written: untouched since, or else of the same
hashes.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from altogether_rt.artifacts.bundle import Bundle, hash_file
from altogether_rt.artifacts.files import NewFolder
from altogether_rt.artifacts.json_file import read_json_file
from altogether_rt.artifacts.manifest import GRAPH_NAMES, TOKENIZER_NAME
from altogether_rt.artifacts.private import is_private, make_private_folder
from altogether_rt.artifacts.user_cache import existing_folder, locked, user_cache
from altogether_rt.errors import BundleError, ConfigError
from altogether_rt.machine.cpuinfo import CPUINFO, read_cpuinfo
from altogether_rt.plain_data import from_dict
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
_SCHEMA = 2
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
    files = (_NAME, *(f"{name}.onnx" for name in GRAPH_NAMES))
    root = prepared_root()
    if not all(map(is_private, (root.parent, root, folder, *(folder / name for name in files)))):
        return None
    try:
        data = read_json_file(folder / _NAME, _MAX_BYTES)
        kept = {name: from_dict(_KeptFile, value) for name, value in data["files"].items()}
        whole = data["bundle_id"] == bundle.bundle_id and {*files[1:]} <= set(kept)
        if not whole or not all(_is_kept(folder / name, file) for name, file in kept.items()):
            return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ConfigError):
        return None
    return _prepared(bundle, folder, {name: file.bytes for name, file in kept.items()})


@dataclass(frozen=True)
class _KeptFile:
    """What is known of a file that was written here."""

    bytes: int
    sha256: str
    changed_ns: int  # when, by the file system's clock, which no program can set back

    @classmethod
    def of(cls, path: Path) -> _KeptFile:
        digest, status = hash_file(path), path.stat()
        return cls(status.st_size, digest, status.st_ctime_ns)


def _is_kept(path: Path, file: _KeptFile) -> bool:
    """Whether a file is the one that was written. One touched since is hashed. Raises OSError."""
    if os.path.basename(path.name) != path.name or not is_private(path):
        return False
    status = path.stat()
    if status.st_size != file.bytes:
        return False
    return status.st_ctime_ns == file.changed_ns or hash_file(path) == file.sha256


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
        make_private_folder(folder.parent.parent)
        make_private_folder(folder.parent)
        with locked(folder.parent.with_suffix(".lock")):
            found = find_prepared(bundle)  # another process may have made it meanwhile
            return found or _make(bundle, folder, done)
    except OSError as error:
        raise BundleError(
            f"{folder} cannot be written ({error.strerror}): "
            "make room there, or set XDG_CACHE_HOME to a folder that has some."
        ) from error


def _make(bundle: Bundle, folder: Path, done: Callable[[str], object]) -> Prepared:
    """Make the copy while the lock is held. Raises OSError, and BundleError as `prepare` does."""
    for abandoned in folder.parent.glob(f".{folder.name}.*.tmp"):  # by a process that was killed
        shutil.rmtree(abandoned, ignore_errors=True)
    with NewFolder(folder) as new:
        new.path.chmod(0o755)
        for name in GRAPH_NAMES:
            save_optimized(bundle.graph_path(name), new.path, name, half=bundle.is_half)
            done(name)
        paths = sorted(new.path.iterdir())
        for path in paths:
            path.chmod(0o644)
        kept = {path.name: asdict(_KeptFile.of(path)) for path in paths}
        data = {"bundle_id": bundle.bundle_id, "files": kept}
        (new.path / _NAME).write_text(json.dumps(data, indent=1) + "\n", "utf-8")
        (new.path / _NAME).chmod(0o644)
        new.commit()
    return _prepared(bundle, folder, {name: file["bytes"] for name, file in kept.items()})


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
    return user_cache() / "prepared"


def _check_room(bundle: Bundle) -> None:
    """Check the free space before minutes are spent; onnxruntime does not report a full disk."""
    needed = int(_SIZE_RATIO * sum(spec.bytes for spec in bundle.manifest.files.values()))
    free = shutil.disk_usage(existing_folder(prepared_root())).free
    if free < needed:
        raise BundleError(
            f"{prepared_root()} has room for {_size(free)}, and {_size(needed)} are "
            "needed: make room there, or set XDG_CACHE_HOME to a folder that has some."
        )


def _size(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:.3g} GB" if num_bytes >= 1e9 else f"{num_bytes / 1e6:.3g} MB"


def _folder(bundle: Bundle) -> Path:
    return prepared_root() / f"{bundle.bundle_id}-{machine_key()}"


def _prepared(bundle: Bundle, folder: Path, sizes: Mapping[str, int]) -> Prepared:
    unread = frozenset(bundle.manifest.files) - {TOKENIZER_NAME}
    return Prepared(folder, sum(sizes.values()), unread)


def _for_cpu(bundle: Bundle) -> bool:
    target = bundle.manifest.target
    return (target.runtime, target.device) == ("onnxruntime", "cpu")
