"""Says what a file of weights is before it is loaded, and what to do if it is something else."""

from __future__ import annotations

import json
import re
import zipfile
from pathlib import Path
from typing import Final

from altogether_rt.errors import AltogetherError, reason

__all__ = ["check_weights_file", "loading_failure"]

_ZIP: Final = b"PK\x03\x04"
_HEAD_BYTES: Final = 512
_MAX_HEADER_BYTES: Final = 64 << 20
_MAX_MEMBERS: Final = 1 << 20

#: The class or function that a pickle needs, in the message of torch's reader.
_GLOBAL: Final = re.compile(r"GLOBAL ([\w.]+)")


def check_weights_file(path: Path, *, torchscript: bool = False) -> None:
    """Raises AltogetherError if `path` is recognised as anything but whole weights.

    That is: a folder, an empty file, a Git LFS pointer, a web page, a text, a TorchScript archive
    unless `torchscript` allows it, or a zip or safetensors file that is cut off. What is not
    recognised passes.
    """
    if path.is_dir():
        raise AltogetherError(f"{path} is a folder: give the file of weights in it.")
    if not path.is_file():
        raise AltogetherError(f"{path} does not exist: give a file of weights.")
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(_HEAD_BYTES)
    if not head:
        raise AltogetherError(f"{path} is empty: download or copy it again.")
    _check_text(path, head)
    if head.startswith(_ZIP):
        _check_zip(path, size, torchscript)
    elif path.suffix == ".safetensors" or head[8:9] == b"{":
        _check_safetensors(path, size)


def loading_failure(path: Path, error: BaseException) -> AltogetherError:
    """What to raise when torch could not read `path`, a file that `check_weights_file` passed."""
    found = _GLOBAL.search(str(error))
    if found is None:
        return AltogetherError(
            f"{path} is damaged, or is not a file of weights ({reason(error, 100)}), and was not "
            "loaded: download it again, or give a state dict saved by torch.save."
        )
    name = found[1]
    advice = "save only the state dict, torch.save(model.state_dict(), …), where you trust the file"
    if name.startswith(("numpy.", "collections.", "argparse.", "omegaconf.")):
        advice = "save only its weights, torch.save(checkpoint['model'], …), where you trust it"
    return AltogetherError(
        f"{path} contains more than tensors, {name:.100}, which could run code, so it was not "
        f"loaded: {advice}."
    )


def _check_text(path: Path, head: bytes) -> None:
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n")
    if start.startswith(b"version https://git-lfs"):
        raise AltogetherError(
            f"{path} is a Git LFS pointer instead of the weights: run git lfs pull in that folder, "
            "or download the file itself."
        )
    if start[:1] == b"<":
        raise AltogetherError(
            f"{path} is a web page instead of weights, as a failed download leaves it: download "
            "the file itself, with a login if the page asks for one."
        )
    try:
        text = head.decode("utf-8") if len(head) < _HEAD_BYTES else head[:-4].decode("utf-8")
    except UnicodeDecodeError:
        return
    if text.isascii() and all(char.isprintable() or char in "\r\n\t" for char in text):
        raise AltogetherError(
            f"{path} is a text ({text.strip()[:40]!r}) instead of weights: give the file of "
            "weights itself."
        )


def _check_zip(path: Path, size: int, torchscript: bool) -> None:
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise AltogetherError(
            f"{path} is cut off or damaged (the end of its zip archive is missing): download or "
            "copy it again."
        ) from error
    names = {member.filename.partition("/")[2] for member in members}
    if torchscript:
        return
    if "constants.pkl" in names or any(name.startswith("code/") for name in names):
        raise AltogetherError(
            f"{path} is a TorchScript archive, a program with its weights, which is not run: where "
            "you trust it, load it with torch.jit.load and torch.save its state_dict()."
        )
    unpacked = sum(member.file_size for member in members)
    if len(members) > _MAX_MEMBERS or unpacked > size:  # torch.save does not compress
        raise AltogetherError(
            f"{path} is a compressed archive, not a file of torch.save: unpack it first."
        )


def _check_safetensors(path: Path, size: int) -> None:
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        whole = size >= 8 and length <= min(size - 8, _MAX_HEADER_BYTES)
        header = file.read(length) if whole else b""
    problem = "the list of its tensors is cut off"
    if whole:
        try:
            tensors = json.loads(header)
            ends = [t["data_offsets"][1] for name, t in tensors.items() if name != "__metadata__"]
            expected = 8 + length + max((end for end in ends if isinstance(end, int)), default=0)
            if expected <= size:
                return
            problem = f"it has {size} bytes instead of {expected}"
        except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError):
            problem = "the list of its tensors is damaged"
    raise AltogetherError(
        f"{path} is not a whole safetensors file ({problem}): download or copy it again."
    )
