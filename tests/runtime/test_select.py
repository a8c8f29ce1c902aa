from __future__ import annotations

import sys
from dataclasses import replace

import pytest

from altogether_rt.artifacts.bundle import Bundle
from altogether_rt.errors import AltogetherError, MissingDependencyError
from altogether_rt.runtime.select import open_runtime
from tests.machine.fake_driver import pretend_gpus
from tests.runtime.conftest import BundleOf


def test_the_bundle_decides_where_it_runs(bundle_of: BundleOf) -> None:
    with open_runtime(bundle_of("opt", "cpu-int8"), threads=1, num_slots=2) as runtime:
        assert runtime.device == "cpu"
        assert runtime.num_slots == 2


def test_a_device_it_was_not_exported_for_is_refused(
    bundle_of: BundleOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend_gpus(monkeypatch, 89)
    bundle = bundle_of("opt", "cpu-int8")
    for given, device, advice in (
        (bundle, "cuda", f"import {bundle.path} --out CHECKPOINT, then give --bundle CHECKPOINT,"),
        (Bundle.load("starter"), "cuda:0", "import starter --out starter-checkpoint, then give"),
        (bundle, "tensorrt", "export --ckpt CHECKPOINT --target tensorrt-fp16, and give that"),
    ):
        with pytest.raises(AltogetherError, match=f"was exported for cpu, not for {device}") as no:
            open_runtime(given, device=device)
        assert advice in str(no.value)
    on_cuda = replace(bundle.manifest.target, device="cuda")
    exported = Bundle(bundle.path, replace(bundle.manifest, target=on_cuda))
    with pytest.raises(AltogetherError, match="not for cpu: export the checkpoint again with a ta"):
        open_runtime(exported, device="cpu")


def test_a_target_of_a_later_version_is_refused(bundle_of: BundleOf) -> None:
    bundle = bundle_of("opt", "cpu-int8")
    target = replace(bundle.manifest.target, runtime="abacus")
    later = Bundle(bundle.path, replace(bundle.manifest, target=target))
    with pytest.raises(AltogetherError, match="needs the runtime abacus"):
        open_runtime(later)


def test_a_missing_runtime_is_named(bundle_of: BundleOf, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = bundle_of("opt", "cpu-int8")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'altogether-rt\[cpu\]'"):
        open_runtime(bundle)


@pytest.mark.parametrize(("slots", "threads"), [(1, 1), (7, 1), (8, None)])
def test_few_rows_of_a_small_bundle_take_one_thread(
    slots: int, threads: int | None, bundle_of: BundleOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = []

    class Spy:
        def __init__(self, bundle: Bundle, *, threads: int | None, num_slots: int) -> None:
            given.append(threads)

    monkeypatch.setattr("altogether_rt.runtime.cpu.runtime.OnnxRuntime", Spy)
    bundle = bundle_of("opt", "cpu-int8")
    open_runtime(bundle, num_slots=slots)
    open_runtime(bundle, num_slots=slots, threads=3)
    files = {name: replace(spec, bytes=20 << 20) for name, spec in bundle.manifest.files.items()}
    large = Bundle(bundle.path, replace(bundle.manifest, files=files))
    open_runtime(large, num_slots=slots)
    assert given == [threads, 3, None]
