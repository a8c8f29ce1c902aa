"""TensorRT engines and execution contexts, for both `tensorrt_rtx` and `tensorrt`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from altogether_rt.errors import AltogetherError, BundleError
from altogether_rt.runtime.cuda.graph import Tensor
from altogether_rt.runtime.tensorrt.compiler import Builder

__all__ = ["TensorRTContext", "TensorRTEngine", "load_engine"]


def load_engine(builder: Builder, file: Path) -> TensorRTEngine:
    """Deserialise an engine with the package that built it. Raises BundleError if that fails."""
    module = builder.module
    runtime = module.Runtime(module.Logger(module.Logger.ERROR))
    engine = runtime.deserialize_cuda_engine(file.read_bytes())
    if engine is None:
        raise BundleError(
            f"{builder.name} {builder.version} cannot load {file}: delete that file, or export the "
            "bundle again."
        )
    return TensorRTEngine(module, runtime, engine, file)


class TensorRTEngine:
    """A deserialised engine; implements `DeviceGraph`."""

    def __init__(self, module: Any, runtime: Any, engine: Any, file: Path) -> None:
        self._module = module
        self._runtime = runtime  # must outlive the engine
        self._engine = engine
        self.file = file

    @property
    def tensor_names(self) -> tuple[str, ...]:
        """Names of its inputs and outputs."""
        return tuple(
            self._engine.get_tensor_name(index) for index in range(self._engine.num_io_tensors)
        )

    @property
    def scratch_bytes(self) -> int:
        """Device memory that a context of any profile needs while it runs."""
        return int(self._engine.device_memory_size_v2)

    def context(
        self, profile: int, scratch: int, stream: int, *, dedicated: bool = False
    ) -> TensorRTContext:
        """See `DeviceGraph.context`."""
        managed = self._module.ExecutionContextAllocationStrategy.USER_MANAGED
        if hasattr(self._engine, "create_runtime_config"):
            config = self._engine.create_runtime_config()
            config.set_execution_context_allocation_strategy(managed)
            kernels = getattr(self._module, "DynamicShapesKernelSpecializationStrategy", None)
            if (
                kernels is not None
            ):  # tensorrt_rtx: compile kernels for a size on first use, not in the background
                config.dynamic_shapes_kernel_specialization_strategy = kernels.EAGER
            context = self._engine.create_execution_context(config)
        else:
            context = self._engine.create_execution_context(managed)
        if context is None:
            raise AltogetherError(
                f"TensorRT cannot prepare {self.file}, usually because GPU memory is short: use a "
                "smaller --batch-size."
            )
        context.set_device_memory(scratch, self.scratch_bytes)
        self._check(
            context.set_optimization_profile_async(profile, stream),
            "does not take an optimisation profile",
        )
        return TensorRTContext(context, self.file)

    def _check(self, done: bool, what: str) -> None:
        if not done:
            raise BundleError(f"the engine {self.file} {what}: export the bundle again.")


class TensorRTContext:
    """An execution context; implements `DeviceContext`."""

    def __init__(self, context: Any, file: Path) -> None:
        self._context = context
        self._file = file

    def bind(self, inputs: Mapping[str, Tensor], outputs: Mapping[str, Tensor]) -> None:
        """See `DeviceContext.bind`."""
        for name, tensor in inputs.items():
            if not self._context.set_input_shape(name, tensor.shape):
                raise BundleError(
                    f"the engine {self._file} does not take {name} of shape {tensor.shape}: export "
                    "the bundle again."
                )
        for name, tensor in (*inputs.items(), *outputs.items()):
            done = self._context.set_tensor_address(name, tensor.address)
            assert done, f"{self._file} has no tensor {name}"

    def run(self, stream: int) -> None:
        """Enqueue the engine on `stream`."""
        if not self._context.execute_async_v3(stream):
            raise AltogetherError(
                f"TensorRT could not run {self._file}: check the GPU with nvidia-smi."
            )

    def capturable(self, stream: int) -> bool:
        """Whether `run` may be captured as a CUDA graph; true if TensorRT cannot tell."""
        ask = getattr(self._context, "is_stream_capturable", None)
        return True if ask is None else bool(ask(stream))
