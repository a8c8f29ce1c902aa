"""Opens a bundle on TensorRT, with engines of the bundle or the user's cache, or compiled now."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from altogether_rt.artifacts.bundle import Bundle
from altogether_rt.artifacts.engines import EngineSpec
from altogether_rt.errors import BundleError
from altogether_rt.machine.device import Device, find_gpu
from altogether_rt.machine.gpu import Gpu
from altogether_rt.runtime.cuda.api import Cuda
from altogether_rt.runtime.cuda.bindings import CudaPython
from altogether_rt.runtime.cuda.runtime import DeviceRuntime, GraphSizes
from altogether_rt.runtime.cuda.step_sizes import DecoderProfile, profile_of
from altogether_rt.runtime.cuda.vision import batch_shape
from altogether_rt.runtime.tensorrt.build import ensure_engines
from altogether_rt.runtime.tensorrt.compiler import BUILDERS, Builder, BuilderName, open_builder
from altogether_rt.runtime.tensorrt.engine import TensorRTEngine, load_engine
from altogether_rt.runtime.tensorrt.engine_files import EngineFile

__all__ = ["open_tensorrt", "preferred_builders", "tensorrt_runtime"]

_LOGGER = logging.getLogger(__name__)


def open_tensorrt(bundle: Bundle, device: Device, num_slots: int) -> DeviceRuntime:
    """Open a bundle on a GPU, compiling the engines that are missing.

    Raises AltogetherError, BundleError or MissingDependencyError if it cannot run there.
    """
    gpu = find_gpu(device)
    builder = open_builder(preferred_builders(bundle, gpu))
    cuda = CudaPython(gpu.index)  # before compiling, which targets the current GPU
    engines = ensure_engines(
        bundle,
        gpu.sm,
        builder,
        gpu="" if builder.targets else gpu.name,  # `tensorrt` compiles for one GPU model
        report=lambda message: _LOGGER.warning("%s, once for this GPU …", message),
    )
    return tensorrt_runtime(bundle, engines, builder, cuda, index=gpu.index, num_slots=num_slots)


def tensorrt_runtime(
    bundle: Bundle,
    engines: Mapping[str, EngineFile],
    builder: Builder,
    cuda: Cuda,
    *,
    index: int = 0,
    num_slots: int = 16,
) -> DeviceRuntime:
    """A runtime of these engines, one for each graph.

    Raises BundleError for engines that do not fit the bundle, AltogetherError if the GPU has too
    little free memory.
    """
    vision = {}
    for name in ("encoder", "mapper"):
        graph, profile = bundle.manifest.graphs[name], engines[name].spec.profiles[0]
        minimum, _, maximum = profile.shapes[graph.inputs[0].name]
        vision[name] = batch_shape(name, graph, minimum[0], maximum[0])
    sizes = GraphSizes(_decoder_profiles(bundle, engines["decoder"].spec), vision)

    def load(name: str, stream: int) -> TensorRTEngine:
        return load_engine(builder, engines[name].path)

    return DeviceRuntime(bundle, cuda, sizes, load, index=index, num_slots=num_slots)


def _decoder_profiles(bundle: Bundle, engine: EngineSpec) -> list[DecoderProfile]:
    profiles = [profile_of(profile, index) for index, profile in enumerate(engine.profiles)]
    longest = max(profile.max_sizes.chunk for profile in profiles)
    positions = {profile.positions for profile in profiles}
    config = bundle.config
    if (
        len(positions) != 1
        or longest < config.max_prompt_tokens
        or min(positions) < config.capacity
    ):
        raise BundleError(
            f"{engine.file} was compiled for shorter prompts than {bundle.path} allows: export the "
            "bundle again."
        )
    return profiles


def preferred_builders(bundle: Bundle, gpu: Gpu) -> tuple[BuilderName, ...]:
    """TensorRT's packages, first those that built the bundle's engines for this GPU."""
    built = {engine.builder for engine in bundle.manifest.engines if engine.sm == gpu.sm}
    return tuple(sorted(BUILDERS, key=lambda name: name not in built))
