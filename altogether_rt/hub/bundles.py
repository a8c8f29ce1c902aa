"""Bundles that are passed on: copied to a folder or taken from one, checked by their manifest."""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from altogether_rt.artifacts.bundle import MANIFEST_NAME, Bundle, manifest_json, read_manifest
from altogether_rt.artifacts.files import NewFolder
from altogether_rt.artifacts.manifest import FileSpec
from altogether_rt.errors import BundleError
from altogether_rt.hub.card import CARD_NAME

__all__ = ["assemble", "copy_bundle", "copy_checkpoint", "manifest_files", "published_files"]


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


def published_files(bundle: Bundle, *, with_learnt: bool) -> dict[str, Path | bytes]:
    """Names of the files to publish, each with its path or its content.

    with_learnt: with what it has learnt from captions, which holds runs of their words; a captioner
    writes the same captions without.
    """
    manifest = bundle.manifest
    learnt = manifest.drafting_state
    if learnt is not None and not with_learnt:
        files = {name: spec for name, spec in manifest.files.items() if name != learnt}
        manifest = dataclasses.replace(manifest, files=files, drafting_state=None)
    parts: dict[str, Path | bytes] = {name: bundle.path / name for name in manifest.files}
    return {**parts, MANIFEST_NAME: manifest_json(manifest)}


def copy_checkpoint(source: Path, out: Path) -> None:
    """Copy a checkpoint's files to a folder that does not exist yet, whole or not at all.

    Raises BundleError if there is something at `out`.
    """
    _check_absent(out)
    with NewFolder(out) as new:
        for path in source.iterdir():
            shutil.copyfile(path, new.path / path.name)
        new.commit()


def copy_bundle(files: Mapping[str, Path | bytes], out: Path) -> Bundle:
    """Write the files of a bundle to a folder that does not exist yet, whole or not at all.

    Raises BundleError if there is something at `out`, or if the files are not what their manifest
    says.
    """
    _check_absent(out)
    with NewFolder(out) as new:
        for name, content in files.items():
            if isinstance(content, Path):
                shutil.copyfile(content, new.path / name)
            else:
                (new.path / name).write_bytes(content)
        bundle = Bundle.load(new.path)
        new.commit()
    return Bundle(out, bundle.manifest)


def _check_absent(out: Path) -> None:
    if out.exists():
        raise BundleError(f"{out} exists already: choose another folder.")
