"""The exported artifact: a folder with a manifest, checked before anything in it is loaded.

A bundle is `bundle.json` (the manifest), one ONNX graph each for encoder, mapper and decoder, one
file of weights that the graphs share and map into memory, `tokenizer.json` and optionally a file of
drafting state, learnt from captions. A bundle may come from a stranger, so the manifest
can only name plain files beside it, and every file is hashed before it is used.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import stat
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from types import TracebackType

from altogether_rt.artifacts.files import NewFile, NewFolder
from altogether_rt.artifacts.json_file import read_json_file
from altogether_rt.artifacts.manifest import (
    SCHEMA_VERSION,
    TOKENIZER_NAME,
    BundleManifest,
    FileSpec,
)
from altogether_rt.config import CaptionerConfig
from altogether_rt.errors import BundleError, ConfigError, reason

__all__ = [
    "MANIFEST_NAME",
    "Bundle",
    "BundleWriter",
    "find_bundle",
    "find_source",
    "hash_file",
    "is_checkpoint",
    "is_starter",
    "manifest_json",
    "read_manifest",
]

MANIFEST_NAME = "bundle.json"
_MAX_MANIFEST_BYTES = 1 << 20
_HASH_BLOCK_BYTES = 1 << 20


@dataclass(frozen=True)
class Bundle:
    """A bundle on disk whose manifest and files have been checked."""

    path: Path
    manifest: BundleManifest
    #: Files that were not hashed because a prepared copy is read instead of them.
    unverified: frozenset[str] = field(default=frozenset(), compare=False)

    @classmethod
    def load(cls, name_or_path: str | Path, *, verify_hashes: bool = True) -> Bundle:
        """Read a bundle's manifest and check its files.

        Raises BundleError (one sentence) for a manifest that cannot be understood, a file that is
        missing, of another size or, with `verify_hashes`, of another content.
        """
        path = find_bundle(name_or_path)
        manifest = read_manifest(path / MANIFEST_NAME)
        for name, spec in manifest.files.items():
            _check_size(path, name, spec)
        bundle = cls(path, manifest)
        if verify_hashes:
            bundle.verify_hashes()
        return bundle

    def verify_hashes(self, unread: Collection[str] = ()) -> None:
        """Hash all files except `unread`, which are not going to be read. Raises BundleError."""
        for name, spec in self.manifest.files.items():
            if name not in unread and hash_file(self.path / name) != spec.sha256:
                raise _differs(self.path / name)

    @property
    def config(self) -> CaptionerConfig:
        return self.manifest.config

    @property
    def bundle_id(self) -> str:
        return self.manifest.bundle_id

    @property
    def is_half(self) -> bool:
        """Whether its graphs compute in float16."""
        return self.manifest.cache.dtype == "float16"

    @property
    def tokenizer_path(self) -> Path:
        return self.path / TOKENIZER_NAME

    @property
    def drafting_state_path(self) -> Path | None:
        """File written by `altogether-rt learn`; None if there is none."""
        name = self.manifest.drafting_state
        return None if name is None else self.path / name

    def graph_path(self, name: str) -> Path:
        return self.path / self.manifest.graphs[name].file

    def with_drafting_state(self, write: Callable[[Path], None]) -> Bundle:
        """Replace the bundle's drafting state, on disk too, by the file that `write` writes.

        The folder holds a whole bundle at any time: the one of before or the one that is returned.
        The file that is replaced stays there, and belongs to the bundle no more. Bundles of older
        versions call it `guesses.….npz`, which is read as any name in a manifest is.
        """
        old = self.manifest.drafting_state
        with (
            NewFile(self.path / "drafting.npz") as new,
            NewFile(self.path / MANIFEST_NAME) as manifest_file,
        ):
            write(new.path)
            spec = FileSpec(new.path.stat().st_size, hash_file(new.path))
            name = f"drafting.{spec.sha256[:8]}.npz"
            files = {n: s for n, s in self.manifest.files.items() if n != old}
            manifest = dataclasses.replace(
                self.manifest, drafting_state=name, files={**files, name: spec}
            )
            manifest_file.file.write(manifest_json(manifest))
            new.commit(self.path / name)
            manifest_file.commit()
        return Bundle(self.path, manifest)


def find_bundle(name_or_path: str | Path) -> Path:
    """The folder of a bundle: `starter` is the one inside the package, anything else is a path.

    Raises BundleError if there is none.
    """
    if str(name_or_path) == "starter":
        path = Path(str(resources.files("altogether_rt").joinpath("starter")))
        if not (path / MANIFEST_NAME).is_file():
            raise BundleError(
                "the starter bundle is missing from this installation: reinstall altogether-rt, "
                "or give a bundle's folder."
            )
        return path
    path = Path(name_or_path)
    if not path.is_dir():
        raise BundleError(
            f"there is no bundle at {path}: give a folder made by altogether-rt export, or "
            "one of the names that altogether-rt models lists."
        )
    if not (path / MANIFEST_NAME).is_file():
        advice = (
            "export this checkpoint first" if is_checkpoint(path) else "give an exported folder"
        )
        raise BundleError(f"{path} is not a bundle (no {MANIFEST_NAME}): {advice}.")
    return path


def find_source(path: Path) -> Path | None:
    """The folder of the bundle at `path`; None if it is something else, such as a checkpoint.

    `starter` is the bundle inside the package, unless a file or folder has that name.
    """
    if (path / MANIFEST_NAME).is_file():
        return path
    is_starter = str(path) == "starter" and not path.exists()
    return find_bundle("starter") if is_starter else None


def is_starter(path: Path) -> bool:
    """Whether `path` is the bundle inside the package, which is trusted as the package is."""
    try:
        return path.samefile(find_bundle("starter"))
    except (OSError, BundleError):
        return False


def is_checkpoint(path: str | Path) -> bool:
    """Whether `path` is a folder written by training rather than by export."""
    folder = Path(path)
    return (folder / "config.json").is_file() and not (folder / MANIFEST_NAME).is_file()


def hash_file(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        while block := stream.read(_HASH_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


def read_manifest(path: Path) -> BundleManifest:
    """A `bundle.json`. Raises BundleError, one sentence, for one that cannot be understood."""
    try:
        size = path.stat().st_size
        if size > _MAX_MANIFEST_BYTES:
            raise BundleError(f"{path} has {size} bytes, too many for a manifest: export it again.")
        data = read_json_file(path, _MAX_MANIFEST_BYTES)
    except (OSError, ValueError) as error:
        raise BundleError(
            f"{path} cannot be read ({reason(error)}): export the bundle again."
        ) from error
    if not isinstance(data, dict) or not isinstance(data.get("schema"), int):
        raise BundleError(
            f"{path} is not a bundle's manifest: give a folder made by altogether-rt export."
        )
    if data["schema"] != SCHEMA_VERSION:
        advice = "update altogether-rt" if data["schema"] > SCHEMA_VERSION else "export it again"
        raise BundleError(
            f"{path} has schema {data['schema']} and this version reads {SCHEMA_VERSION}: {advice}."
        )
    try:
        return BundleManifest.from_dict(data)
    except ConfigError as error:
        raise BundleError(f"{path} is not valid: {error}") from error


def manifest_json(manifest: BundleManifest) -> bytes:
    """The content of a `bundle.json`."""
    return (json.dumps(manifest.to_dict(), indent=2, ensure_ascii=False) + "\n").encode("utf-8")


def _check_size(folder: Path, name: str, spec: FileSpec) -> None:
    path = folder / name
    try:
        status = path.stat()
    except OSError as error:
        raise BundleError(f"the bundle {folder} has no {name}: copy or export it again.") from error
    if not stat.S_ISREG(status.st_mode):
        raise BundleError(f"{path} is not a regular file: copy or export the bundle again.")
    if status.st_size != spec.bytes:
        raise _differs(path)


def _differs(path: Path) -> BundleError:
    return BundleError(
        f"{path} is not the file that was exported (its hash differs): copy or export it again."
    )


class BundleWriter:
    """Writes a bundle beside its destination and renames it, so that it is whole or absent.

    with BundleWriter(out) as writer:
        ... write files into writer.folder ...
        manifest = BundleManifest(..., files=writer.describe_files())
        writer.commit(manifest)
    """

    def __init__(self, out: Path, *, overwrite: bool = False) -> None:
        self.out = Path(os.path.abspath(out))
        if self.out.exists() and not overwrite:
            raise BundleError(f"{out} exists already: choose another --out, or pass --overwrite.")
        if self.out.exists() and not (self.out / MANIFEST_NAME).is_file():
            raise BundleError(
                f"{out} exists and is not a bundle, so it is not replaced: choose another --out."
            )
        self._new = NewFolder(self.out)
        self.folder = self._new.path

    def __enter__(self) -> BundleWriter:
        self._new.__enter__()
        return self

    def describe_files(self) -> dict[str, FileSpec]:
        """Size and hash of each file written so far, by name."""
        return {
            path.name: FileSpec(path.stat().st_size, hash_file(path))
            for path in sorted(self.folder.iterdir())
        }

    def commit(self, manifest: BundleManifest) -> Bundle:
        """Write the manifest and move the folder into place."""
        (self.folder / MANIFEST_NAME).write_bytes(manifest_json(manifest))
        self._new.commit()
        return Bundle(self.out, manifest)

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._new.__exit__(exc_type, exc, traceback)
