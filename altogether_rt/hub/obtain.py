"""From a name to a bundle or a checkpoint on this machine: downloads, imports and exports.

Nothing here asks; who calls has asked. What is here already is not fetched again, one process at a
time works on a captioner, and what one that was killed has left is continued or removed.
"""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from altogether_rt.artifacts.bundle import MANIFEST_NAME, Bundle
from altogether_rt.errors import AltogetherError, BundleError, MissingDependencyError
from altogether_rt.hub.cache import (
    PUBLISHED,
    CachedModel,
    Download,
    check_room,
    find_cached,
    in_use,
    lock,
    make_folder,
    remember_revision,
)
from altogether_rt.hub.download import Progress, download_files
from altogether_rt.hub.names import HubName
from altogether_rt.hub.repository import RemoteFile, RemoteModel, look_up
from altogether_rt.hub.target import CHECKPOINT
from altogether_rt.machine.device import has_module

__all__ = ["Steps", "check_extras", "obtain_captioner", "obtain_checkpoint"]

#: A model may have grown since the catalogue was written; by more than this it is another.
_MAX_GROWTH: Final = 1.25
#: What import and export write, of the bytes of the weights: a checkpoint, and a bundle in float32.
_WRITTEN: Final = 3
#: What is needed beside the hub's client to import weights; to export them too.
_TO_IMPORT: Final = ("torch", "safetensors", "open_clip")
_TO_EXPORT: Final = (*_TO_IMPORT, "onnx", "onnxscript")


@dataclass(frozen=True)
class Steps:
    """Who is told of what happens."""

    report: Callable[[str], None] = lambda message: None
    #: Entered with the bytes of a download.
    progress: Callable[[int], Any] | None = None


def check_extras(name: HubName, target: str | None = None) -> None:
    """Raises MissingDependencyError if what an import needs is not installed, or an export.

    target: what it is imported for; None: an export to any.
    """
    kept = target == CHECKPOINT
    extra, product = ("train", "checkpoint") if kept else ("export", "bundle")
    for package in _TO_IMPORT if kept else _TO_EXPORT:
        if not has_module(package):
            raise MissingDependencyError(package, extra, f"making a {product} of {name.name}")


def obtain_captioner(name: HubName, target: str, steps: Steps) -> Path:
    """The folder of a bundle of `name` for `target`, or of the bundle that was published; for
    CHECKPOINT that of its checkpoint, which is kept.

    Raises AltogetherError: one sentence for whatever is in the way.
    """
    with _lock(name, steps):
        cached = find_cached(name)
        found = cached.captioner(target) if cached else None
        if found is not None:
            return found
        cached = _obtain_files(name, cached, steps, target)
        if cached.is_published_bundle:
            return cached.folder / PUBLISHED
        if target == CHECKPOINT:
            return _keep_checkpoint(name, cached, steps)
        return _export(name, cached, target, steps)


@contextmanager
def obtain_checkpoint(name: HubName, steps: Steps) -> Iterator[Path]:
    """A temporary checkpoint of `name`, on the cache's disk; or the bundle that was published.

    Raises AltogetherError as `obtain_captioner` does.
    """
    with ExitStack() as stack:
        with _lock(name, steps):
            cached = _obtain_files(name, find_cached(name), steps)
            if cached.is_published_bundle:
                folder = cached.folder / PUBLISHED
            else:
                folder = _import_temporarily(name, cached, steps)
                stack.callback(shutil.rmtree, folder.parent, ignore_errors=True)
                stack.enter_context(in_use(folder.parent))
        yield folder


def _lock(name: HubName, steps: Steps) -> AbstractContextManager[None]:
    return lock(name.hub_id, lambda: steps.report(f"waiting for another process with {name.name}"))


def _obtain_files(
    name: HubName, cached: CachedModel | None, steps: Steps, target: str | None = None
) -> CachedModel:
    """Download what is not here yet, to be made into `target`; the lock must be held."""
    if cached is not None:
        cached.remove_abandoned()
        if cached.is_whole:
            return cached
    model = look_up(name.hub_id, name.revision)
    _check_agreed(name, model)
    if not model.is_bundle:
        check_extras(name, target)
    cached = remember_revision(name, model.revision)
    steps.report(f"{model.hub_id} at {model.revision[:12]}, licence {model.licence}")
    if model.is_bundle:
        _pull(model, cached, steps)
        return cached
    make_folder(cached.files)
    with _progress(model.bytes, steps) as progress:
        settings = [file for file in model.files if file.name.endswith(".json")]
        download_files(model, settings, cached.files, progress)
        _check_kind(name, cached)
        rest = [file for file in model.files if file not in settings]
        download_files(model, rest, cached.files, progress)
    sizes = {file.name: file.bytes for file in model.files}
    cached.finish(Download(model.hub_id, model.revision, model.licence, sizes))
    return cached


def _check_agreed(name: HubName, model: RemoteModel) -> None:
    """Raises AltogetherError if the hub has something else than was agreed to."""
    entry = name.entry
    if entry is None:
        return
    otherwise = f"pass its id, {name.hub_id}, with --download if you want it all the same"
    if model.bytes > _MAX_GROWTH * entry.bytes:
        raise AltogetherError(
            f"{name.name} was agreed to at {entry.bytes / 1e9:.2f} GB and the hub now has "
            f"{model.bytes / 1e9:.2f} GB: {otherwise}."
        )
    if model.licence.lower() not in (entry.licence.lower(), "unknown"):
        raise AltogetherError(
            f"{name.name} was agreed to under the licence {entry.licence} and the hub now says "
            f"{model.licence}: {otherwise}."
        )


@contextmanager
def _progress(total: int, steps: Steps) -> Iterator[Progress]:
    if steps.progress is None:
        yield lambda count, file: None
        return
    with steps.progress(total) as progress:
        yield progress


def _check_kind(name: HubName, cached: CachedModel) -> None:
    """Raises AltogetherError, before the weights are fetched, if they could not be imported."""
    from altogether_rt.importing.huggingface import read_json
    from altogether_rt.importing.vision_language import is_vision_language

    if not (cached.files / "config.json").is_file():
        raise AltogetherError(f"{name.hub_id} has no config.json, so it is not a captioner.")
    if not is_vision_language(cached.files):
        kind = str(read_json(cached.files / "config.json").get("model_type"))[:60]
        raise AltogetherError(
            f"{name.hub_id} is a model of type {kind!r}, which is not a captioner that can be "
            "imported: see altogether-rt models for some that can."
        )


def _import(
    name: HubName, cached: CachedModel, steps: Steps, folder: Path, target: str | None = None
) -> None:
    """Import what was downloaded as the checkpoint `folder`, to be made into `target`."""
    from altogether_rt.artifacts.checkpoint import save_checkpoint
    from altogether_rt.importing.vision_language import import_vision_language

    download = cached.download()
    assert download is not None
    check_extras(name, target)
    check_room(_WRITTEN * download.bytes, f"importing {name.name}")
    steps.report(f"importing {name.hub_id}")
    config, state, tokenizer = import_vision_language(cached.files, _title(name))
    origin = {"id": download.hub_id, "revision": download.revision, "licence": download.licence}
    about = {"imported_from": download.hub_id, "hub": origin}
    save_checkpoint(folder, config, state, tokenizer, about)


def _title(name: HubName) -> str:
    return name.hub_id.partition("/")[2]


def _import_temporarily(name: HubName, cached: CachedModel, steps: Steps) -> Path:
    """Import what was downloaded into a temporary folder of its own."""
    folder = cached.folder / f".checkpoint.{secrets.token_hex(8)}.tmp" / _title(name)
    _import(name, cached, steps, folder)
    return folder


def _keep_checkpoint(name: HubName, cached: CachedModel, steps: Steps) -> Path:
    folder = cached.captioner_path(CHECKPOINT)
    _import(name, cached, steps, folder, CHECKPOINT)
    cached.remove_others(CHECKPOINT)
    _make_private(folder)
    return folder


def _make_private(folder: Path) -> None:
    """What the umask lets others write to is not trusted later.

    The folder comes last: that it is private says that its files are.
    """
    for path in folder.iterdir():
        path.chmod(0o644)
    folder.chmod(0o755)


def _export(name: HubName, cached: CachedModel, target: str, steps: Steps) -> Path:
    from altogether_rt.export.from_checkpoint import export_checkpoint
    from altogether_rt.export.recipes import find_recipe

    checkpoint = _import_temporarily(name, cached, steps)
    steps.report(f"exporting {name.name} for {target}: once, it takes a while")
    try:
        bundle = export_checkpoint(
            checkpoint, find_recipe(target), cached.captioner_path(target), report=steps.report
        )
    finally:
        shutil.rmtree(checkpoint.parent, ignore_errors=True)
    cached.remove_others(target)
    _make_private(bundle.path)
    _prepare(bundle, steps)
    return bundle.path


def _prepare(bundle: Bundle, steps: Steps) -> None:
    """Lay the weights out for this machine, so that the bundle opens at once from now on."""
    if bundle.manifest.target.device != "cpu":
        return
    from altogether_rt.runtime.cpu.prepared import prepare

    try:
        steps.report("preparing it for this machine")
        prepare(bundle)
    except BundleError as error:  # it opens without, only more slowly
        steps.report(f"not prepared: {error}")


def _pull(model: RemoteModel, cached: CachedModel, steps: Steps) -> None:
    """Download a bundle that was published, whole or not at all."""
    from altogether_rt.hub.bundles import assemble, manifest_files

    listed = {file.name: file for file in model.all_files}
    make_folder(cached.files)
    download_files(model, [listed[MANIFEST_NAME]], cached.files, lambda count, file: None)
    names = manifest_files(cached.files / MANIFEST_NAME, model.hub_id)
    wanted: list[RemoteFile] = []
    for file, spec in names.items():
        remote = listed.get(file)
        if remote is None or remote.bytes != spec.bytes:
            raise BundleError(
                f"{model.hub_id} lacks {file}, or has another than its manifest says: it was not "
                "published whole."
            )
        wanted.append(remote)
    with _progress(sum(file.bytes for file in wanted), steps) as progress:
        download_files(model, wanted, cached.files, progress)
    assemble(cached.files, cached.folder / PUBLISHED)
    shutil.rmtree(cached.files, ignore_errors=True)
