"""Packages that are missing, hollow or limited: each says so in one sentence."""

from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any

import pytest

from altogether_rt.errors import MissingDependencyError
from altogether_rt.runtime.tensorrt.compiler import BUILDERS, Builder, EngineError, open_builder

pytestmark = pytest.mark.lean


def module(name: str, **names: Any) -> types.ModuleType:
    made = types.ModuleType(name)
    made.__dict__.update({"__version__": "1.2.3", **names})
    return made


class Capability:
    NONE = CURRENT = 0
    SM80 = SM89 = SM120 = 1


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Installs stand-ins; what is not given is not installed."""

    def install(**modules: types.ModuleType) -> None:
        for name in BUILDERS:
            monkeypatch.setitem(sys.modules, name, modules.get(name))

    return install


def test_none_installed(installed: Any) -> None:
    installed()
    with pytest.raises(MissingDependencyError) as caught:
        open_builder()
    assert "tensorrt_rtx, which is not installed: run pip install 'altogether-rt[tensorrt]'" in str(
        caught.value
    )


def test_a_package_without_its_libraries(installed: Any) -> None:
    installed(tensorrt=module("tensorrt"))
    with pytest.raises(EngineError, match=r"tensorrt is installed but does not work \(it holds"):
        open_builder()
    installed(tensorrt=module("tensorrt"), tensorrt_rtx=module("tensorrt_rtx", Builder=object))
    assert open_builder().name == "tensorrt_rtx"


def test_a_package_that_fails_to_load(
    installed: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    installed()
    monkeypatch.delitem(sys.modules, "tensorrt_rtx")
    monkeypatch.syspath_prepend(tmp_path)
    folder = tmp_path / "tensorrt_rtx"
    folder.mkdir()
    (folder / "__init__.py").write_text("raise OSError('libnvinfer.so.11: cannot open')")
    with pytest.raises(EngineError, match=r"does not work \(libnvinfer.so.11: cannot open\)"):
        open_builder()
    monkeypatch.delitem(sys.modules, "tensorrt_rtx", raising=False)
    (folder / "__init__.py").write_text("import no_such_module_of_tensorrt")
    with pytest.raises(EngineError, match="no_such_module_of_tensorrt"):
        open_builder()


def test_gpus_it_does_not_compile_for() -> None:
    anywhere = Builder("tensorrt_rtx", "1.7", module("tensorrt_rtx", ComputeCapability=Capability))
    assert anywhere.targets == (80, 89, 120)
    anywhere.check_targets([80, 120])
    with pytest.raises(EngineError, match=r"1.7 compiles for SM 80, 89, 120, not for 90: leave it"):
        anywhere.check_targets([89, 90])
    with pytest.raises(EngineError, match="give --sm"):
        anywhere.check_targets([])
    with pytest.raises(EngineError, match="a timing cache needs a GPU"):
        anywhere.compile(Path("g.onnx"), (), [89], Path("g.plan"), timing_cache=Path("t"))
    here = Builder("tensorrt", "11.4", module("tensorrt"))
    assert here.targets == ()
    here.check_targets([90])
    here.check_timing_cache()
    with pytest.raises(EngineError, match="only for the GPU of this machine"):
        here.check_targets([80, 89])


class FakeConfig:
    """Takes some compute capabilities, and remembers which were set."""

    def __init__(self, accepted: set[str]) -> None:
        self.accepted = accepted
        self.targets: dict[int, str] = {}
        self.num_compute_capabilities = 0

    def set_compute_capability(self, capability: str, index: int) -> bool:
        self.targets[index] = capability
        return capability in self.accepted


@pytest.mark.parametrize("accepted", [{"89", "120"}, {"89"}])
def test_every_target_is_set_and_a_refusal_is_an_error(tmp_path: Path, accepted: set[str]) -> None:
    config = FakeConfig(accepted)
    parser = types.SimpleNamespace(parse_from_file=lambda path: True)
    builder = types.SimpleNamespace(
        create_network=lambda flags: None,
        create_builder_config=lambda: config,
        build_serialized_network=lambda network, config: b"plan",
    )

    class Logger:
        Severity = types.SimpleNamespace(ERROR=1)

    fake = module(
        "tensorrt_rtx",
        ILogger=Logger,
        Builder=lambda log: builder,
        OnnxParser=lambda network, log: parser,
        ComputeCapability=types.SimpleNamespace(SM89="89", SM120="120"),
    )
    out = tmp_path / "decoder.plan"
    compiler = Builder("tensorrt_rtx", "1.0", fake)
    if accepted == {"89"}:
        with pytest.raises(EngineError, match="does not accept SM 120"):
            compiler.compile(tmp_path / "g.onnx", [], [89, 120], out)
        assert not out.exists()
    else:
        compiler.compile(tmp_path / "g.onnx", [], [89, 120], out)
        assert out.read_bytes() == b"plan"
    assert config.targets == {0: "89", 1: "120"}
    assert config.num_compute_capabilities == 2
