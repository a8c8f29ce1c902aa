"""Chooses the backend that can run a bundle on a device."""

from __future__ import annotations

from altogether_rt.bundle import Bundle
from altogether_rt.errors import AltogetherError
from altogether_rt.runtime.base import Runtime

__all__ = ["open_runtime"]

DEFAULT_SLOTS = 16


def open_runtime(
    bundle: Bundle,
    device: str = "auto",
    threads: int | None = None,
    num_slots: int | None = None,
) -> Runtime:
    """Open `bundle` for running.

    device: `auto` is what the bundle was exported for. threads: of the compute kernels; None: all
    cores this process may use. num_slots: captions decoded at once.

    Raises AltogetherError for a device this bundle cannot run on, MissingDependencyError where the
    backend is not installed.
    """
    target = bundle.manifest.target
    wanted = target.device if device == "auto" else device
    if wanted != target.device:
        raise AltogetherError(
            f"bundle {bundle.path} was exported for {target.device}, not for {wanted}: "
            f"export the checkpoint again with a target for {wanted}."
        )
    if target.runtime != "onnxruntime" or target.device != "cpu":
        raise AltogetherError(
            f"bundle {bundle.path} needs the runtime {target.runtime} on {target.device}, "
            "which this version does not have: update altogether-rt."
        )
    from altogether_rt.runtime.ort_runtime import OnnxRuntime

    return OnnxRuntime(bundle, threads=threads, num_slots=num_slots or DEFAULT_SLOTS)
