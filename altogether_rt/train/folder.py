"""The folder of a run, `<out>.training`: names of what lies there, and who may write it."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from altogether_rt.errors import AltogetherError

__all__ = [
    "ENCODER_NAME",
    "RECORD_NAME",
    "TOKENIZER_NAME",
    "check_folders",
    "has_states",
    "opened",
    "run_folder",
    "state_path",
]

ENCODER_NAME: Final = "encoder.safetensors"
RECORD_NAME: Final = "run.json"
TOKENIZER_NAME: Final = "tokenizer.json"


def run_folder(out: Path) -> Path:
    """Where the training of the checkpoint `out` keeps its state and logs."""
    return out.parent / f"{out.name}.training"  # `with_name` refuses the current folder


def state_path(folder: Path, stage: str) -> Path:
    """The saved state of a stage of the run in `folder`."""
    return folder / f"state-{stage}.pt"


def has_states(folder: Path) -> bool:
    """Whether a run has come so far that it can be resumed."""
    return any(folder.glob("state-*.pt"))


def check_folders(out: Path, folder: Path, resume: bool) -> None:
    """Raises AltogetherError if there is a checkpoint already, or a run that is not resumed."""
    if out.exists():
        raise AltogetherError(f"{out} already exists: give another --out.")
    # Without a state only prepared images are there, which serve any run of the same data.
    if has_states(folder) and not resume:
        raise AltogetherError(
            f"{folder} has an unfinished run: add --resume to continue it, or remove the folder."
        )


@contextmanager
def opened(folder: Path) -> Iterator[None]:
    """The folder of a run, for this process alone; made if it is not there.

    A folder that was made is removed if what follows fails before it holds a record: nothing in it
    serves another run. Raises AltogetherError if another process trains there.
    """
    is_new = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    with _locked(folder):
        try:
            yield
        except BaseException:
            if is_new and not (folder / RECORD_NAME).exists():
                shutil.rmtree(folder, ignore_errors=True)
            raise


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(folder / "lock", flags, 0o666)  # less the umask
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise AltogetherError(f"another process is training in {folder}.") from error
        except OSError:
            pass  # a file system without locks
        yield
    finally:
        os.close(descriptor)
