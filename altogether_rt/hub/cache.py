"""What of the hub is on this machine: downloads, and what was made of them.

The user's cache folder has a folder for each captioner:

    hub/OWNER--NAME/refs/main             the commit that the main branch stood for
    hub/OWNER--NAME/COMMIT/files/         the files as they were published
    hub/OWNER--NAME/COMMIT/download.json  says that they are whole, and what they are
    hub/OWNER--NAME/COMMIT/TARGET-VERSION/  a bundle of them, exported by this version
    hub/OWNER--NAME/COMMIT/torch-VERSION/   a checkpoint, imported by this version
    hub/OWNER--NAME/COMMIT/published/     a bundle, where one is what was published
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from altogether_rt import __version__
from altogether_rt.artifacts.bundle import MANIFEST_NAME, is_checkpoint
from altogether_rt.artifacts.files import write_whole
from altogether_rt.artifacts.json_file import read_json_file
from altogether_rt.artifacts.private import is_private, make_private_folder
from altogether_rt.artifacts.user_cache import existing_folder, locked, user_cache
from altogether_rt.errors import AltogetherError, ConfigError, reason
from altogether_rt.hub.names import HubName
from altogether_rt.plain_data import from_dict

__all__ = [
    "CachedModel",
    "Download",
    "cached_models",
    "check_room",
    "find_cached",
    "hub_root",
    "in_use",
    "lock",
    "make_folder",
    "model_folder",
    "remember_revision",
    "remove_cached",
]

PUBLISHED = "published"
_COMMIT = re.compile(r"[0-9a-f]{40}")
_MAX_BYTES = 1 << 20


@dataclass(frozen=True)
class Download:
    """What download.json says of the files beside it."""

    hub_id: str
    revision: str  # 40 hex digits
    licence: str
    files: Mapping[str, int]  # bytes of each

    @property
    def bytes(self) -> int:
        return sum(self.files.values())


@dataclass(frozen=True)
class CachedModel:
    """One commit of a captioner on this machine."""

    folder: Path

    @property
    def files(self) -> Path:
        return self.folder / "files"

    @property
    def revision(self) -> str:
        return self.folder.name

    @property
    def hub_id(self) -> str:
        return self.folder.parent.name.replace("--", "/")

    def download(self) -> Download | None:
        """What was downloaded; None if it is not whole."""
        try:
            data = read_json_file(self.folder / "download.json", _MAX_BYTES)
            found = from_dict(Download, data)
            sizes = {name: (self.files / name).stat().st_size for name in found.files}
        except (OSError, ValueError, ConfigError):
            return None
        return found if sizes == found.files else None

    def finish(self, download: Download) -> None:
        """Say that the files are whole."""
        write_whole(self.folder / "download.json", json.dumps(asdict(download), indent=1) + "\n")

    @property
    def is_published_bundle(self) -> bool:
        return (self.folder / PUBLISHED / MANIFEST_NAME).is_file()

    @property
    def is_whole(self) -> bool:
        """Whether nothing is left to be downloaded."""
        return self.is_published_bundle or self.download() is not None

    def captioner_path(self, target: str) -> Path:
        """Where this version's bundle or checkpoint for `target` is, or is to be made."""
        return self.folder / f"{target}-{__version__}"

    def captioner(self, target: str) -> Path | None:
        """The bundle or checkpoint for `target`, or the bundle that was published; None if there is
        neither.
        """
        for path in (self.captioner_path(target), self.folder / PUBLISHED):
            whole = (path / MANIFEST_NAME).is_file() or is_checkpoint(path)
            if whole and is_private(path):
                return path
        return None

    def bundles(self) -> list[str]:
        """Names of the folders of all bundles."""
        return sorted(path.parent.name for path in self.folder.glob(f"[!.]*/{MANIFEST_NAME}"))

    def checkpoints(self) -> list[str]:
        """Names of the folders of all checkpoints."""
        return sorted(path.name for path in self.folder.glob("torch-*") if is_checkpoint(path))

    def remove_others(self, target: str) -> None:
        """Remove what other versions have made for `target`."""
        for path in self.folder.glob(f"{target}-*"):
            if path != self.captioner_path(target):
                shutil.rmtree(path, ignore_errors=True)

    def num_bytes(self) -> int:
        """Bytes that all of it takes on the disk."""
        total = 0
        for folder, _, names in os.walk(self.folder):
            for name in names:
                with suppress(OSError):
                    total += os.lstat(os.path.join(folder, name)).st_size
        return total

    def remove_abandoned(self) -> None:
        """Remove what a process that was killed has left; the captioner's lock must be held."""
        for path in self.folder.glob(".*.tmp"):
            if not path.is_dir():
                path.unlink(missing_ok=True)
                continue
            with suppress(BlockingIOError), locked(path / "lock", wait=False):
                shutil.rmtree(path, ignore_errors=True)


def hub_root() -> Path:
    """The folder that holds all of it."""
    return user_cache() / "hub"


def model_folder(hub_id: str) -> Path:
    """The folder of a captioner, with its commits."""
    return hub_root() / hub_id.replace("/", "--")


def find_cached(name: HubName) -> CachedModel | None:
    """The commit that `name` stood for when it was downloaded; None if it never was."""
    folder, revision = model_folder(name.hub_id), name.revision or "main"
    if not _COMMIT.fullmatch(revision):
        try:
            revision = (folder / "refs" / revision).read_text("ascii")[:80].strip()
        except (OSError, ValueError):
            return None
    if not _COMMIT.fullmatch(revision) or not (folder / revision).is_dir():
        return None
    return CachedModel(folder / revision)


def remember_revision(name: HubName, commit: str) -> CachedModel:
    """Note the commit that `name` stands for, and make its folder. Raises AltogetherError."""
    if not _COMMIT.fullmatch(commit):
        raise AltogetherError(
            f"the hub gives {commit[:60]!r} as a commit of {name.hub_id}, which is none: check "
            "HF_ENDPOINT."
        )
    folder = model_folder(name.hub_id)
    make_folder(folder / commit)
    make_folder(folder / "refs")
    write_whole(folder / "refs" / (name.revision or "main"), commit + "\n")
    return CachedModel(folder / commit)


def make_folder(path: Path) -> None:
    """Make a folder of the cache that only this user may write to. Raises AltogetherError."""
    root = hub_root()
    inner = path.relative_to(root).parts
    try:
        for depth in range(-1, len(inner) + 1):
            make_private_folder(root.parent if depth < 0 else root.joinpath(*inner[:depth]))
    except OSError as error:
        raise AltogetherError(
            f"{path} cannot be made ({reason(error)}): make {root.parent} writable for you alone, "
            "or set XDG_CACHE_HOME to another folder."
        ) from error


def check_room(needed: int, purpose: str) -> None:
    """Raises AltogetherError if the cache's disk has less than `needed` bytes free."""
    folder = existing_folder(hub_root())
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise AltogetherError(
            f"{purpose} takes {needed / 1e9:.2f} GB and {folder} has {free / 1e9:.2f} GB free: "
            "make room there, or set XDG_CACHE_HOME to a folder that has some."
        )


@contextmanager
def lock(hub_id: str, waiting: Callable[[], object]) -> Iterator[None]:
    """Let one process at a time work on a captioner; the system frees it if that is killed.

    waiting: called once if another process has it.
    """
    make_folder(model_folder(hub_id))
    path = model_folder(hub_id) / "lock"
    with ExitStack() as stack:
        try:
            stack.enter_context(locked(path, wait=False))
        except BlockingIOError:
            waiting()
            stack.enter_context(locked(path, wait=True))
        yield


@contextmanager
def in_use(folder: Path) -> Iterator[None]:
    """Keep a temporary folder from being taken for what a killed process has left."""
    with locked(folder / "lock", wait=True):
        yield


def cached_models() -> list[CachedModel]:
    """Every commit of every captioner on this machine, by name."""
    folders = sorted(hub_root().glob("*--*/*"))
    return [CachedModel(path) for path in folders if _COMMIT.fullmatch(path.name)]


def remove_cached(hub_id: str) -> int:
    """Remove all that is here of a captioner; returns the bytes. Raises AltogetherError."""
    models = [model for model in cached_models() if model.hub_id == hub_id]
    freed = sum(model.num_bytes() for model in models)
    with lock(hub_id, lambda: None):
        for path in sorted(model_folder(hub_id).iterdir()):
            if not path.is_dir():
                continue
            try:
                shutil.rmtree(path)
            except OSError as error:
                raise AltogetherError(
                    f"{path} cannot be removed ({reason(error)}): remove it by hand."
                ) from error
    return freed
