"""Every kind of bundle can be prepared, and computes the same to the bit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from altogether_rt.runtime.cpu.prepared import find_prepared, prepare
from altogether_rt.runtime.cpu.runtime import OnnxRuntime
from tests.runtime.conftest import BundleOf
from tests.runtime.rows import Row, run_step
from tests.tiny import FAMILIES


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("target", ["cpu-fp32", "cpu-int8"])
def test_outputs_are_the_same(
    family: str,
    target: str,
    bundle_of: BundleOf,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    bundle = bundle_of(family, target)
    size = bundle.config.encoder.image_size
    pixels = np.random.default_rng(0).integers(0, 256, (2, size, size, 3), np.uint8)
    outputs = []
    for state in ("exported", "prepared"):
        assert (find_prepared(bundle) is not None) == (state == "prepared")
        with OnnxRuntime(bundle, threads=1, num_slots=2) as runtime:
            visual = runtime.map(runtime.encode(pixels))
            first, second = Row(), Row()
            prompts = run_step(
                runtime, [first.bring([5, 6, 7], visual[0]), second.bring([8], visual[1])]
            )
            steps = run_step(runtime, [first.bring([9]), second.bring([10])])
        outputs.append([visual, *prompts, *steps])
        prepare(bundle)
    for exported, prepared in zip(*outputs, strict=True):
        np.testing.assert_array_equal(exported, prepared)
