"""Chooses the backend that can run a bundle on a device, and says early what is in the way."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from altogether_rt.artifacts.bundle import Bundle, is_starter
from altogether_rt.errors import AltogetherError
from altogether_rt.machine.device import (
    Device,
    check_cuda_python,
    check_driver,
    check_onnxruntime_gpu,
    check_tensorrt,
    find_gpu,
    parse_device,
)
from altogether_rt.runtime.base import DEFAULT_SLOTS, Runtime
from altogether_rt.runtime.cpu.prepared import find_prepared

__all__ = ["DEFAULT_SLOTS", "check_device", "load_bundle", "open_runtime", "resolve_device"]

#: A bundle below this size, with fewer rows at once than that, is computed by one thread.
_SMALL_BYTES, _FEW_SLOTS = 16 << 20, 8

#: Kinds of device that each runtime runs a target's device on; the first is what `auto` means.
_DEVICES = {
    ("onnxruntime", "cpu"): ("cpu",),
    ("onnxruntime", "cuda"): ("cuda", "tensorrt"),  # tensorrt: onnxruntime's own use of it
    ("tensorrt", "cuda"): ("tensorrt", "cuda"),
}


def load_bundle(name_or_path: str | Path, device: str = "auto") -> Bundle:
    """`Bundle.load`, once it is clear that this machine can run the bundle on `device`.

    A bundle of gigabytes is not hashed to say that there is no driver, nor where it was prepared
    and so is not read. Its graphs are run in another process first, if this machine has never
    run them. Raises BundleError as `Bundle.load` does, or if they fail there; AltogetherError and
    MissingDependencyError as `check_device` does.
    """
    bundle = Bundle.load(name_or_path, verify_hashes=False)
    check_device(bundle, device)
    prepared = find_prepared(bundle)
    unread = prepared.unread if prepared else frozenset()
    bundle.verify_hashes(unread)
    if not is_starter(bundle.path) and prepared is None:
        _check_graphs(bundle)
    return replace(bundle, unverified=unread)


def _check_graphs(bundle: Bundle) -> None:
    """Raises BundleError for graphs that cannot be trusted not to end this process."""
    from altogether_rt.runtime.graph_files import check_graph_files

    target = bundle.manifest.target
    if (target.runtime, target.device) == ("onnxruntime", "cpu"):
        from altogether_rt.runtime.cpu.trial import ensure_tried

        ensure_tried(bundle)
    else:
        check_graph_files(bundle)


def check_device(bundle: Bundle, device: str = "auto") -> Device:
    """The device that `bundle` would run on. Quick: no backend is imported.

    Raises AltogetherError if the machine or the bundle is not for it, MissingDependencyError if a
    package is not installed.
    """
    wanted = parse_device(device)
    if wanted.on_gpu:
        find_gpu(wanted)
    resolved = resolve_device(bundle, wanted)
    if resolved.on_gpu:
        find_gpu(resolved, instead="give a bundle that was exported for cpu")
    runtime = bundle.manifest.target.runtime
    if resolved.on_gpu:
        check_driver()
    if runtime == "tensorrt":
        check_tensorrt()
    elif resolved.on_gpu:
        check_onnxruntime_gpu()
        check_cuda_python("captioning on CUDA", "gpu")
    return resolved


def resolve_device(bundle: Bundle, wanted: Device) -> Device:
    """What `wanted` means for `bundle`. Raises AltogetherError if it was exported for another."""
    target = bundle.manifest.target
    kinds = _DEVICES.get((target.runtime, target.device))
    if kinds is None:
        raise AltogetherError(
            f"bundle {bundle.path} needs the runtime {target.runtime} on {target.device}, "
            "which this version does not have: update altogether-rt."
        )
    if wanted.kind == "auto":
        return parse_device(kinds[0])
    if wanted.kind not in kinds:
        raise AltogetherError(
            f"bundle {bundle.path} was exported for {target.device}, not for {wanted}: "
            f"{_instead(bundle, wanted)}."
        )
    return wanted


def _instead(bundle: Bundle, wanted: Device) -> str:
    """What to do about a bundle that was exported for another device than `wanted`."""
    target = bundle.manifest.target
    again = f"export the checkpoint again with a target for {wanted.kind}"
    if (target.runtime, target.device) != ("onnxruntime", "cpu"):
        return again
    given, out = bundle.path, "CHECKPOINT"
    if is_starter(bundle.path):
        given, out = Path("starter"), "starter-checkpoint"
    recover = f"altogether-rt import {given} --out {out}"
    if wanted.kind == "cuda":
        return f"run {recover}, then give --bundle {out}, which PyTorch runs on GPUs"
    return (
        f"run {recover}, then altogether-rt export --ckpt {out} --target tensorrt-fp16, and give "
        "that bundle"
    )


def open_runtime(
    bundle: Bundle,
    device: str = "auto",
    threads: int | None = None,
    num_slots: int | None = None,
) -> Runtime:
    """Open `bundle` for running.

    device: `auto` is what the bundle was exported for. threads: of the compute kernels; None: all
    cores this process may use, or one where more do not help. num_slots: captions decoded at once;
    None: as many as are fast there.

    Raises AltogetherError for a device this bundle cannot run on, MissingDependencyError where the
    backend is not installed.
    """
    resolved = check_device(bundle, device)
    slots = num_slots or DEFAULT_SLOTS
    if bundle.manifest.target.runtime == "tensorrt":
        from altogether_rt.runtime.tensorrt.open import open_tensorrt

        return open_tensorrt(bundle, resolved, slots)
    if resolved.on_gpu:
        from altogether_rt.runtime.cuda.onnx import open_onnx_gpu

        return open_onnx_gpu(bundle, resolved, num_slots)
    from altogether_rt.runtime.cpu.runtime import OnnxRuntime

    return OnnxRuntime(bundle, threads=threads or _threads(bundle, slots), num_slots=slots)


def _threads(bundle: Bundle, num_slots: int) -> int | None:
    """One where a step is so small that handing out its parts takes as long as they do.

    The starter one image at a time: as quick on a quiet machine, a third quicker on a busy one.
    """
    num_bytes = sum(spec.bytes for spec in bundle.manifest.files.values())
    return 1 if num_bytes < _SMALL_BYTES and num_slots < _FEW_SLOTS else None
