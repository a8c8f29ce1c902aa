"""Downloads the files of a captioner: continued where it stopped, and checked by their hashes.

The hub's client keeps no part of a file when it is stopped, so parts are kept here, each under the
hash of the content that it is a part of.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Final, cast

from altogether_rt.artifacts.bundle import hash_file
from altogether_rt.artifacts.files import append_to
from altogether_rt.errors import AltogetherError
from altogether_rt.hub.cache import check_room
from altogether_rt.hub.repository import (
    RemoteFile,
    RemoteModel,
    client_errors,
    endpoint,
    import_hub,
)

__all__ = ["Progress", "download_files"]

#: Called with the bytes that have come since its last call, and the file's name.
Progress = Callable[[int, str], object]

#: What is left free on the disk in any case.
_MARGIN_BYTES: Final = 50_000_000
_BLOCK_BYTES: Final = 1 << 20


def download_files(
    model: RemoteModel, files: Iterable[RemoteFile], folder: Path, progress: Progress
) -> None:
    """Make `folder` hold these files of `model`, all of them checked.

    Files that are there already are kept if their hashes are right. Raises AltogetherError, with
    what has come so far kept for the next attempt.
    """
    files = sorted(files, key=lambda file: file.bytes)  # what is wrong with a small one shows soon
    missing = []
    for file in files:
        if _is_whole(folder / file.name, file):
            progress(file.bytes, file.name)
        else:
            missing.append(file)
    left = sum(file.bytes - _part_bytes(folder, file) for file in missing)
    if missing:
        check_room(left + _MARGIN_BYTES, f"downloading {model.hub_id}")
    for file in missing:
        with client_errors(model.hub_id):
            _download(model, file, folder, progress)


def _download(model: RemoteModel, file: RemoteFile, folder: Path, progress: Progress) -> None:
    hub = import_hub(f"downloading {model.hub_id}")
    from huggingface_hub.file_download import http_get

    hub.utils.disable_progress_bars("huggingface_hub.http_get")
    part = _part_path(folder, file)
    with append_to(part) as stream, _quiet(hub):
        kept = _part_bytes(folder, file)
        if kept > file.bytes:  # no part of it
            stream.truncate(0)
            kept = stream.seek(0)
        progress(kept, file.name)
        if kept < file.bytes:
            counted = _Counted(stream, lambda count: progress(count, file.name))
            http_get(
                hub.hf_hub_url(
                    model.hub_id, file.name, revision=model.revision, endpoint=endpoint()
                ),
                cast("BinaryIO", counted),
                resume_size=kept,
                headers={
                    **hub.utils.build_hf_headers(library_name="altogether-rt"),
                    "Accept-Encoding": "identity",  # bytes of a compressed answer have no range
                },
                expected_size=file.bytes,
            )
    if not _is_whole(part, file):
        part.unlink()
        raise AltogetherError(
            f"{file.name} of {model.hub_id} is not what the hub says it is (its hash differs), and "
            "was removed: run the command again, and if it stays so, do not use it."
        )
    part.replace(folder / file.name)


@contextmanager
def _quiet(hub: Any) -> Iterator[None]:
    """Without the client's own warnings: what becomes of them is said here."""
    logging = hub.utils.logging
    former = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(former)


class _Counted:
    """A binary file that tells how much is written to it."""

    def __init__(self, stream: BinaryIO, wrote: Callable[[int], object]) -> None:
        self._stream = stream
        self._wrote = wrote

    def write(self, data: bytes) -> int:
        view = memoryview(data)
        while view:  # unbuffered files may write less than they are given
            view = view[self._stream.write(view) :]
        self._wrote(len(data))
        return len(data)

    def truncate(self, size: int | None = None) -> int:
        """Of the client, which starts again where a server does not continue."""
        end = self._stream.tell() if size is None else size
        before = self._stream.seek(0, 2)
        self._stream.truncate(end)
        self._wrote(self._stream.seek(end) - before)
        return end

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _part_path(folder: Path, file: RemoteFile) -> Path:
    return folder / f".{file.sha256 or file.git_sha1}.part"


def _part_bytes(folder: Path, file: RemoteFile) -> int:
    try:
        return _part_path(folder, file).lstat().st_size
    except OSError:
        return 0


def _is_whole(path: Path, file: RemoteFile) -> bool:
    """Whether the file has the content that the hub names."""
    if path.is_symlink() or not path.is_file() or path.stat().st_size != file.bytes:
        return False
    if file.sha256 is not None:
        return hash_file(path) == file.sha256
    digest = hashlib.sha1(b"blob %d\0" % file.bytes, usedforsecurity=False)
    with open(path, "rb") as stream:
        while block := stream.read(_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest() == file.git_sha1
