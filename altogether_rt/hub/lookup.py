"""Which bundle on this machine a name stands for: quick, and nothing is fetched."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Final

from altogether_rt.errors import BundleError
from altogether_rt.hub.cache import find_cached
from altogether_rt.hub.catalogue import read_catalogue
from altogether_rt.hub.names import HubName, find_name
from altogether_rt.machine.device import onnxruntime_providers, parse_device
from altogether_rt.machine.gpu import find_gpus

__all__ = ["TARGETS", "cached_bundle", "locate_bundle", "not_here", "target_for"]

#: The target that a captioner is exported for if its name is given with a device of this kind.
TARGETS: Final = {"cpu": "cpu-int8", "cuda": "cuda-fp16", "tensorrt": "tensorrt-fp16"}


def target_for(device: str) -> str:
    """The target for `device`; `auto` is a GPU if there is one and onnxruntime has its kernels."""
    kind = parse_device(device).kind
    if kind == "auto":
        usable = "cuda" in onnxruntime_providers() and bool(find_gpus().gpus)
        kind = "cuda" if usable else "cpu"
    return TARGETS[kind]


def cached_bundle(name: HubName, device: str = "auto") -> Path | None:
    """The bundle of `name` for `device` on this machine; None if it is still to be made."""
    cached = find_cached(name)
    return None if cached is None else cached.bundle(target_for(device))


def locate_bundle(captioner: str | Path, device: str = "auto") -> str | Path:
    """The folder of the bundle that a name stands for; what is not a name is returned as it is.

    Raises BundleError if it is not on this machine.
    """
    name = find_name(captioner)
    if name is None:
        _check_spelling(str(captioner))
        return captioner
    found = cached_bundle(name, device)
    if found is None:
        raise not_here(name)
    return found


def _check_spelling(text: str) -> None:
    """Raises BundleError for what is not there and nearly a name."""
    names = read_catalogue()
    if text in names or Path(text).exists():
        return
    near = difflib.get_close_matches(text.lower(), names, n=1, cutoff=0.8)
    if near:
        raise BundleError(
            f"there is no bundle at {text}: if you mean {near[0]}, write that; altogether-rt "
            "models lists all names."
        )


def not_here(name: HubName, otherwise: str = "") -> BundleError:
    """What is said of a captioner that is not on this machine. otherwise: another remedy."""
    pull = f"run altogether-rt bundle pull {name.name}{otherwise}"
    if name.entry is not None:
        size = f"{name.entry.bytes / 1e9:.2f} GB, {name.entry.licence}"
        return BundleError(f"{name.name} is not on this machine yet ({size}): {pull}.")
    return BundleError(
        f"there is no bundle at {name.name}, and no captioner of that name from the hub on this "
        f"machine: give a folder made by altogether-rt export, or {pull}."
    )
