"""Bundles that are passed on: copied to a folder or taken from one, checked by their manifest."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from altogether_rt.artifacts.bundle import MANIFEST_NAME, Bundle, read_manifest
from altogether_rt.artifacts.files import NewFolder
from altogether_rt.artifacts.manifest import FileSpec
from altogether_rt.errors import BundleError
from altogether_rt.hub.card import CARD_NAME

__all__ = ["assemble", "copy_bundle", "manifest_files"]


def manifest_files(path: Path, hub_id: str) -> Mapping[str, FileSpec]:
    """The files that a published bundle's manifest names. Raises BundleError if it has faults."""
    files = read_manifest(path).files
    if MANIFEST_NAME in files or CARD_NAME in files:
        raise BundleError(f"the manifest of {hub_id} names itself or its card as a part.")
    return files


def assemble(source: Path, out: Path) -> Bundle:
    """Make `out` the bundle whose files are in `source`, which may be moved there.

    Raises BundleError unless all files are those of the manifest.
    """
    bundle = Bundle.load(source)
    with NewFolder(out) as new:
        new.path.chmod(0o755)
        for name in (*bundle.manifest.files, MANIFEST_NAME):
            try:
                os.link(source / name, new.path / name, follow_symlinks=False)
            except OSError:  # a disk without links
                shutil.copyfile(source / name, new.path / name)
        new.commit(first_wins=True)
    return Bundle(out, bundle.manifest)


def copy_bundle(source: Path, out: Path, card: str | None = None) -> Bundle:
    """Copy a bundle to a folder that does not exist yet, with its card, whole or not at all.

    Raises BundleError if there is something at `out`, or if the bundle or its copy is not what its
    manifest says.
    """
    if out.exists():
        raise BundleError(f"{out} exists already: choose another folder.")
    bundle = Bundle.load(source)
    with NewFolder(out) as new:
        for name in (*bundle.manifest.files, MANIFEST_NAME):
            shutil.copyfile(source / name, new.path / name)
        Bundle.load(new.path)
        if card is not None:
            (new.path / CARD_NAME).write_text(card, "utf-8")
        new.commit()
    return Bundle(out, bundle.manifest)
