"""Opens a bundle on TensorRT: the engines for this GPU, by this TensorRT, or why there are none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from altogether_rt.bundle import Bundle
from altogether_rt.errors import BundleError
from altogether_rt.manifest import GRAPH_NAMES, EngineSpec
from altogether_rt.runtime.cuda_api import Cuda
from altogether_rt.runtime.cuda_python import CudaPython
from altogether_rt.runtime.device import TENSORRT_MODULES, Device, find_gpu
from altogether_rt.runtime.device_runtime import DeviceRuntime, GraphSizes
from altogether_rt.runtime.device_vision import batch_shape
from altogether_rt.runtime.gpu import Gpu
from altogether_rt.runtime.step_sizes import DecoderProfile, profile_of
from altogether_rt.runtime.tensorrt_engine import Engine, TensorRT, import_tensorrt

__all__ = ["choose_engines", "open_tensorrt", "preferred_modules", "tensorrt_runtime"]


def open_tensorrt(bundle: Bundle, device: Device, num_slots: int) -> DeviceRuntime:
    """Raises AltogetherError, BundleError or MissingDependencyError for what is in the way."""
    gpu = find_gpu(device)
    tensorrt = import_tensorrt(preferred_modules(bundle, gpu))
    engines = choose_engines(bundle, gpu, tensorrt.name, tensorrt.version)
    cuda = CudaPython(gpu.index)
    return tensorrt_runtime(bundle, engines, tensorrt, cuda, index=gpu.index, num_slots=num_slots)


def tensorrt_runtime(
    bundle: Bundle,
    engines: Mapping[str, EngineSpec],
    tensorrt: TensorRT,
    cuda: Cuda,
    *,
    index: int = 0,
    num_slots: int = 16,
) -> DeviceRuntime:
    """A runtime of these engines, one for each graph.

    Raises BundleError for engines that do not fit the bundle, AltogetherError if the GPU has not
    enough memory.
    """
    vision = {}
    for name in ("encoder", "mapper"):
        graph, profile = bundle.manifest.graphs[name], engines[name].profiles[0]
        least, _, largest = profile.shapes[graph.inputs[0].name]
        vision[name] = batch_shape(name, graph, least[0], largest[0])
    sizes = GraphSizes(_decoder_profiles(bundle, engines["decoder"]), vision)

    def load(name: str, stream: int) -> Engine:
        return tensorrt.load(bundle.path / engines[name].file)

    return DeviceRuntime(bundle, cuda, sizes, load, index=index, num_slots=num_slots)


def _decoder_profiles(bundle: Bundle, engine: EngineSpec) -> list[DecoderProfile]:
    profiles = [profile_of(profile, index) for index, profile in enumerate(engine.profiles)]
    longest = max(profile.largest.chunk for profile in profiles)
    places = {profile.places for profile in profiles}
    config = bundle.config
    if len(places) != 1 or longest < config.max_prompt_tokens or min(places) < config.capacity:
        raise BundleError(
            f"{engine.file} was compiled for shorter prompts than {bundle.path} has: export the "
            "bundle again."
        )
    return profiles


def preferred_modules(bundle: Bundle, gpu: Gpu) -> tuple[str, ...]:
    """TensorRT's modules, those first that engines for this GPU were built by."""
    built = {engine.builder for engine in bundle.manifest.engines if engine.sm == gpu.sm}
    return tuple(sorted(TENSORRT_MODULES, key=lambda name: name not in built))


def choose_engines(bundle: Bundle, gpu: Gpu, builder: str, version: str) -> dict[str, EngineSpec]:
    """An engine for each graph. Raises BundleError if the bundle has none that runs here."""
    engines = bundle.manifest.engines
    advice = "export the checkpoint again with this environment"
    if not engines:
        raise BundleError(f"bundle {bundle.path} holds no engines: {advice}.")
    for_gpu = [engine for engine in engines if engine.sm == gpu.sm]
    if not for_gpu:
        there = " and ".join(_dotted(sm) for sm in sorted({engine.sm for engine in engines}))
        raise BundleError(
            f"bundle {bundle.path} has engines for compute capability {there}, and {gpu.name} has "
            f"{_dotted(gpu.sm)}: {advice}."
        )
    fitting = [
        engine
        for engine in for_gpu
        if (engine.builder, engine.builder_version) == (builder, version)
    ]
    if not fitting:
        there = _builders(for_gpu)
        raise BundleError(
            f"the engines of bundle {bundle.path} were built by {there}, and {builder} {version} "
            f"is installed: install that version, or {advice}."
        )
    chosen = {engine.graph: engine for engine in reversed(fitting)}
    missing = [name for name in GRAPH_NAMES if name not in chosen]
    if missing:
        raise BundleError(
            f"bundle {bundle.path} has no engine of its {missing[0]} for {gpu.name}: {advice}."
        )
    return {str(name): engine for name, engine in chosen.items()}


def _dotted(sm: int) -> str:
    return f"{sm // 10}.{sm % 10}"


def _builders(engines: Sequence[EngineSpec]) -> str:
    return " and ".join(sorted({f"{e.builder} {e.builder_version}" for e in engines}))
