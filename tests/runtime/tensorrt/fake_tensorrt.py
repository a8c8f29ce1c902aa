"""TensorRT without a GPU: an "engine" names an ONNX graph, which onnxruntime runs on the processor.

It works in the fake device memory of `FakeCuda`, at the addresses it is given, when the stream gets
there; sizes outside the profile, addresses that are missing or too small, a cache whose past and
present differ, and a capture of sizes that were never run are mistakes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np

from altogether_rt.artifacts.engines import EngineProfile
from altogether_rt.runtime.ort_session import open_session
from altogether_rt.runtime.tensorrt.compiler import Builder
from tests.runtime.cuda.fake_cuda import CudaMisuse, FakeCuda, as_array

VERSION = "1.7.1.116"
SCRATCH_BYTES = 1000
_DTYPES = {
    "tensor(int8)": "int8",
    "tensor(uint8)": "uint8",
    "tensor(int32)": "int32",
    "tensor(int64)": "int64",
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
}


class TensorIOMode(Enum):
    NONE, INPUT, OUTPUT = range(3)


class ExecutionContextAllocationStrategy(Enum):
    STATIC, ON_PROFILE_CHANGE, USER_MANAGED = range(3)


class DynamicShapesKernelSpecializationStrategy(Enum):
    LAZY, EAGER, NONE = range(3)


class Logger:
    ERROR = 1

    def __init__(self, severity: int) -> None:
        self.severity = severity


@dataclass
class FakeModule:
    """Stands in for the module `tensorrt_rtx`."""

    cuda: FakeCuda

    __version__ = VERSION
    Logger = Logger
    TensorIOMode = TensorIOMode
    ExecutionContextAllocationStrategy = ExecutionContextAllocationStrategy
    DynamicShapesKernelSpecializationStrategy = DynamicShapesKernelSpecializationStrategy

    def Runtime(self, logger: Any) -> FakeRuntime:
        return FakeRuntime(self.cuda)


@dataclass
class FakeRuntime:
    cuda: FakeCuda

    def deserialize_cuda_engine(self, data: bytes) -> FakeEngine | None:
        try:
            plan = json.loads(data)
        except ValueError:
            return None
        return FakeEngine(self.cuda, plan)


@dataclass
class FakeConfig:
    strategy: ExecutionContextAllocationStrategy | None = None
    dynamic_shapes_kernel_specialization_strategy: Any = None

    def set_execution_context_allocation_strategy(
        self, strategy: ExecutionContextAllocationStrategy
    ) -> None:
        self.strategy = strategy


class FakeEngine:
    device_memory_size_v2 = SCRATCH_BYTES

    def __init__(self, cuda: FakeCuda, plan: dict[str, Any]) -> None:
        self.cuda = cuda
        self.profiles = plan["profiles"]
        self.session = open_session(Path(plan["graph"]), threads=1)
        self.inputs = {node.name: _DTYPES[node.type] for node in self.session.get_inputs()}
        outputs = self.session.get_outputs()
        self.outputs = {node.name: (_DTYPES[node.type], node.shape) for node in outputs}
        self.names = [*self.inputs, *self.outputs]

    @property
    def num_io_tensors(self) -> int:
        return len(self.names)

    @property
    def num_optimization_profiles(self) -> int:
        return len(self.profiles)

    def get_tensor_name(self, index: int) -> str:
        return self.names[index]

    def get_tensor_mode(self, name: str) -> TensorIOMode:
        return TensorIOMode.INPUT if name in self.inputs else TensorIOMode.OUTPUT

    def create_runtime_config(self) -> FakeConfig:
        return FakeConfig()

    def create_execution_context(self, config: FakeConfig) -> FakeContext:
        assert config.strategy is ExecutionContextAllocationStrategy.USER_MANAGED
        return FakeContext(self)

    def shape_range(self, profile: int, name: str) -> Sequence[Sequence[int]]:
        shapes = self.profiles[profile]
        found = shapes["past"] if name.startswith(("past_key", "past_value")) else shapes[name]
        minimum, _, maximum = found
        return minimum, maximum


class FakeContext:
    def __init__(self, engine: FakeEngine) -> None:
        self.engine = engine
        self.profile: int | None = None
        self.scratch = 0
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.addresses: dict[str, int] = {}
        self.settled: dict[str, tuple[int, ...]] | None = None  # sizes of the last run

    def set_device_memory(self, address: int, size: int) -> None:
        assert address % 256 == 0
        assert size >= SCRATCH_BYTES
        self.scratch = address

    def set_optimization_profile_async(self, profile: int, stream: int) -> bool:
        self.profile = profile
        return profile < len(self.engine.profiles)

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        assert self.profile is not None
        minimum, maximum = self.engine.shape_range(self.profile, name)
        self.shapes[name] = shape
        within = all(a <= n <= b for a, n, b in zip(minimum, shape, maximum, strict=True))
        return len(shape) == len(minimum) and within

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.addresses[name] = address
        return name in self.engine.names

    def is_stream_capturable(self, stream: int) -> bool:
        return True

    def execute_async_v3(self, stream: int) -> bool:
        missing = set(self.engine.names) - set(self.addresses)
        missing |= set(self.engine.inputs) - set(self.shapes)
        if missing:
            raise CudaMisuse(f"{sorted(missing)} are not bound")
        cuda = self.engine.cuda
        if stream in cuda._capturing and self.settled != self.shapes:
            raise CudaMisuse("sizes are captured that were never run")
        self.settled = dict(self.shapes)
        shapes, addresses, scratch = dict(self.shapes), dict(self.addresses), self.scratch

        def run() -> None:
            cuda.view(scratch, SCRATCH_BYTES)[:] = 0xAA
            _execute(self.engine, shapes, addresses)

        cuda.enqueue(stream, run)
        return True


def _execute(
    engine: FakeEngine, shapes: Mapping[str, tuple[int, ...]], addresses: Mapping[str, int]
) -> None:
    """One run of the graph on fake device memory, cache in place."""
    arrays = {
        name: _tensor(engine.cuda, addresses[name], dtype, shapes[name])
        for name, dtype in engine.inputs.items()
    }
    if "pad_index" in arrays:
        _trim_padding(arrays)
    binding = engine.session.io_binding()
    sizes = {"B": 0, "L": 0, "N": 0}
    if "logit_index" in shapes:
        sizes |= {"L": shapes["logit_index"][0], "B": shapes["pad_index"][0]}
    for name, array in arrays.items():
        sizes["N"] = len(array)
        binding.bind_input(name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)
    for name, (dtype, template) in engine.outputs.items():
        past = name.replace("present_", "past_")
        if past != name:
            if addresses[name] != addresses[past]:
                raise CudaMisuse(f"{name} does not lie where {past} does")
            shape = shapes[past]
        else:
            shape = tuple(sizes[size] if isinstance(size, str) else size for size in template)
        array = _tensor(engine.cuda, addresses[name], dtype, shape)
        binding.bind_output(name, "cpu", 0, array.dtype.type, shape, array.ctypes.data)
    engine.session.run_with_iobinding(binding)


def _trim_padding(arrays: dict[str, np.ndarray]) -> None:
    """GroupQueryAttention refuses more padding than the longest sequence has tokens."""
    padded = arrays["pad_index"].shape[1]
    lengths = arrays["past_lengths"] + np.maximum(arrays["query_lengths"], 2)
    chunk = min(padded, int(lengths.max()))
    row, place = np.divmod(arrays["unpad_index"], padded)
    arrays["unpad_index"] = row * chunk + place
    arrays["pad_index"] = np.ascontiguousarray(arrays["pad_index"][:, :chunk])


def _tensor(cuda: FakeCuda, address: int, dtype: str, shape: tuple[int, ...]) -> np.ndarray:
    nbytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
    return as_array(cuda.view(address, nbytes), dtype, shape)


@dataclass(frozen=True)
class FakeBuilder(Builder):
    """Its plans are JSON that names the graph."""

    def compile(
        self,
        graph: Path,
        profiles: Sequence[EngineProfile],
        sms: Sequence[int],
        out: Path,
        *,
        timing_cache: Path | None = None,
    ) -> None:
        shapes = [profile.shapes for profile in profiles]
        out.write_text(json.dumps({"graph": str(graph), "profiles": shapes}))


def fake_tensorrt(cuda: FakeCuda) -> FakeBuilder:
    return FakeBuilder("tensorrt_rtx", VERSION, FakeModule(cuda))
