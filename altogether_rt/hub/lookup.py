"""What on this machine a name stands for: quick, and nothing is fetched."""

from __future__ import annotations

import difflib
from pathlib import Path

from altogether_rt.errors import BundleError
from altogether_rt.hub.cache import find_cached
from altogether_rt.hub.catalogue import read_catalogue
from altogether_rt.hub.names import HubName, find_name
from altogether_rt.hub.target import CHECKPOINT, TARGETS, choose_target

__all__ = ["cached_captioner", "locate_bundle", "locate_captioner", "not_here"]


def cached_captioner(name: HubName, target: str) -> Path | None:
    """The bundle or checkpoint of `name` for `target` on this machine; None if it is still to be
    made.
    """
    cached = find_cached(name)
    return None if cached is None else cached.captioner(target)


def locate_captioner(captioner: str | Path, device: str = "auto") -> str | Path:
    """The folder of the bundle or checkpoint that a name stands for on `device`; what is not a name
    is returned as it is.

    Raises BundleError if it is not on this machine.
    """
    name = find_name(captioner)
    if name is None:
        _check_spelling(str(captioner))
        return captioner
    found = cached_captioner(name, choose_target(device).name)
    if found is None:
        raise not_here(name, device)
    return found


def locate_bundle(captioner: str | Path, device: str | None = None) -> str | Path:
    """The same for what takes bundles alone. device: None: any, first what this machine runs.

    Raises BundleError if there is none on this machine.
    """
    name = find_name(captioner)
    if name is None:
        _check_spelling(str(captioner))
        return captioner
    target = choose_target(device or "auto").name
    targets = [target, *(TARGETS.values() if device is None else ())]
    for each in targets:
        found = None if each == CHECKPOINT else cached_captioner(name, each)
        if found is not None:
            return found
    if cached_captioner(name, CHECKPOINT) is None:
        raise not_here(name, device or "auto")
    raise BundleError(
        f"{name.name} is on this machine as a checkpoint, and this takes a bundle: run "
        f"altogether-rt bundle pull {name.name} --device cpu."
    )


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


def not_here(name: HubName, device: str = "auto", otherwise: str = "") -> BundleError:
    """What is said of a captioner that is not on this machine. otherwise: another remedy."""
    on = "" if device == "auto" else f" --device {device}"
    pull = f"run altogether-rt bundle pull {name.name}{on}{otherwise}"
    if name.entry is not None:
        size = f"{name.entry.bytes / 1e9:.2f} GB, {name.entry.licence}"
        return BundleError(f"{name.name} is not on this machine yet ({size}): {pull}.")
    return BundleError(
        f"there is no bundle at {name.name}, and no captioner of that name from the hub on this "
        f"machine: give a folder made by altogether-rt export, or {pull}."
    )
