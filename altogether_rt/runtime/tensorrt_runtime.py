"""The TensorRT backend."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack

import numpy as np
from numpy.typing import NDArray

from altogether_rt.bundle import Bundle
from altogether_rt.errors import BundleError
from altogether_rt.manifest import GRAPH_NAMES, EngineSpec
from altogether_rt.runtime.base import StepBatch, StepResult
from altogether_rt.runtime.cuda_api import Cuda
from altogether_rt.runtime.device_plan import CacheLayout, DevicePlan, plan_device
from altogether_rt.runtime.step_sizes import DecoderProfile, profile_of
from altogether_rt.runtime.tensorrt_decoder import DecoderMemory, TensorRTDecoder, decoder_sizes
from altogether_rt.runtime.tensorrt_engine import Engine, TensorRT
from altogether_rt.runtime.tensorrt_vision import BatchShape, Stage, VisionStreams, batch_shape

__all__ = ["TensorRTRuntime", "plan_memory"]

_VISION = ("encoder", "mapper")


def plan_memory(
    bundle: Bundle,
    cache: CacheLayout,
    profiles: Sequence[DecoderProfile],
    stages: Mapping[str, BatchShape],
    scratch: Mapping[str, int],
) -> DevicePlan:
    """All device memory that a runtime uses: a function of configuration, slots and profiles.

    scratch: bytes that each engine works in. Encoder and mapper share theirs, for they run one
    after the other; the decoder may run beside them.
    """
    decoder = bundle.manifest.graphs["decoder"]
    sizes = {"cache": cache.nbytes}
    sizes |= decoder_sizes(decoder.inputs, profiles, bundle.config.decoder.vocab_size)
    for name, shape in stages.items():
        sizes |= {f"{name}.{part}": nbytes for part, nbytes in shape.region_bytes().items()}
    sizes["scratch.decoder"] = scratch["decoder"]
    sizes["scratch.vision"] = max(scratch[name] for name in _VISION)
    return plan_device(sizes)


class TensorRTRuntime:
    """Runs a bundle's compiled engines on one GPU; fulfils `Runtime`.

    Vision and decoder have streams, contexts and memory of their own.
    """

    def __init__(
        self,
        bundle: Bundle,
        engines: Mapping[str, EngineSpec],
        tensorrt: TensorRT,
        cuda: Cuda,
        *,
        index: int = 0,
        num_slots: int = 16,
    ) -> None:
        """engines: those for this GPU and this TensorRT, by graph. index: of the GPU.

        Raises BundleError for engines that do not fit the bundle, AltogetherError if the GPU has
        not enough memory.
        """
        assert num_slots >= 1
        config = bundle.config
        self._cuda, self._index = cuda, index
        self._capacity = config.capacity
        self._token_width = config.decoder.token_width
        self._num_slots = num_slots
        profiles = _decoder_profiles(bundle, engines["decoder"])
        cache = CacheLayout(bundle.manifest.cache, num_slots, profiles[0].places)
        stages = {
            name: batch_shape(name, bundle.manifest.graphs[name], engines[name].profiles[0])
            for name in _VISION
        }
        with ExitStack() as opened:
            loaded = {name: tensorrt.load(bundle.path / engines[name].file) for name in GRAPH_NAMES}
            scratch = {name: engine.scratch_bytes for name, engine in loaded.items()}
            plan = plan_memory(bundle, cache, profiles, stages, scratch)
            base = cuda.malloc(plan.nbytes)
            opened.callback(cuda.free, base)
            addresses = {name: base + region.offset for name, region in plan.regions.items()}
            self._decoder = _open_decoder(
                bundle, cuda, loaded["decoder"], profiles, cache, addresses
            )
            opened.callback(self._decoder.close)
            streams = VisionStreams(cuda)
            opened.callback(streams.close)
            self._stages: dict[str, Stage] = {}
            for name, shape in stages.items():
                inner = {part: addresses[f"{name}.{part}"] for part in shape.region_bytes()}
                stage = Stage(
                    cuda, loaded[name], shape, streams, inner, addresses["scratch.vision"]
                )
                opened.callback(stage.close)
                self._stages[name] = stage
            opened.callback(streams.synchronize)  # the first thing that closing does
            self._opened = opened.pop_all()

    @property
    def num_slots(self) -> int:
        return self._num_slots

    @property
    def capacity(self) -> int:
        return self._capacity

    @property
    def token_width(self) -> int:
        return self._token_width

    @property
    def device(self) -> str:
        return f"cuda:{self._index}"

    def encode(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Pixels (N, H, W, 3) to embeddings (N, E)."""
        return self._stages["encoder"].run(pixels)

    def map(self, embeddings: NDArray[np.float32]) -> NDArray[np.float32]:
        """Embeddings (N, E) to visual tokens (N, P, W)."""
        return self._stages["mapper"].run(embeddings)

    def step(self, batch: StepBatch, want_logits: bool = False) -> StepResult:
        """One ragged decoder call; see `Runtime.step`."""
        rows = len(batch.query_lengths)
        assert rows <= self._num_slots, f"{rows} rows, but {self._num_slots} slots"
        reach = int((batch.query_lengths + batch.past_lengths).max())
        assert reach <= self._capacity, f"{reach} tokens in a slot, but capacity {self._capacity}"
        return self._decoder.step(batch, want_logits)

    def move_slot(self, src: int, dst: int) -> None:
        """Copy slot `src` over slot `dst`."""
        self._decoder.move_slot(src, dst)

    def close(self) -> None:
        """Free contexts, streams and memory."""
        self._opened.close()
        self.__dict__.pop("_decoder", None)
        self.__dict__.pop("_stages", None)

    def __enter__(self) -> TensorRTRuntime:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _decoder_profiles(bundle: Bundle, engine: EngineSpec) -> list[DecoderProfile]:
    """Those of the engine; the smallest calls first, as `EngineSpec` orders them."""
    profiles = [profile_of(profile, index) for index, profile in enumerate(engine.profiles)]
    config, last = bundle.config, profiles[-1]
    longest = max(profile.largest.chunk for profile in profiles)
    places = {profile.places for profile in profiles}
    if len(places) != 1 or longest < config.max_prompt_tokens or last.places < config.capacity:
        raise BundleError(
            f"{engine.file} was compiled for shorter prompts than {bundle.path} has: export the "
            "bundle again."
        )
    return profiles


def _open_decoder(
    bundle: Bundle,
    cuda: Cuda,
    engine: Engine,
    profiles: Sequence[DecoderProfile],
    cache: CacheLayout,
    addresses: Mapping[str, int],
) -> TensorRTDecoder:
    memory = DecoderMemory(
        cache=addresses["cache"],
        inputs=addresses["inputs"],
        greedy_ids=addresses["greedy_ids"],
        logits=addresses["logits"],
        scratch=addresses["scratch.decoder"],
    )
    specs = bundle.manifest.graphs["decoder"].inputs
    vocab_size = bundle.config.decoder.vocab_size
    return TensorRTDecoder(cuda, engine, profiles, specs, cache, memory, vocab_size)
