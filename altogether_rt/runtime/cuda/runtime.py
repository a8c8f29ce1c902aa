"""A bundle's graphs on one GPU: the backend for TensorRT and for ONNX Runtime on a GPU."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from altogether_rt.artifacts.bundle import Bundle
from altogether_rt.artifacts.manifest import DECODE_NAME, GRAPH_NAMES, PROMPTS_NAME, TensorSpec
from altogether_rt.runtime.base import PREFILL_TOKENS, Array, StepBatch, StepResult
from altogether_rt.runtime.cuda.api import Cuda
from altogether_rt.runtime.cuda.decoder import DeviceDecoder
from altogether_rt.runtime.cuda.graph import DeviceGraph
from altogether_rt.runtime.cuda.memory_plan import (
    CacheLayout,
    DecoderMemory,
    DevicePlan,
    decoder_sizes,
    plan_device,
)
from altogether_rt.runtime.cuda.sampling.candidates import LIKELIEST_NAME, Candidates
from altogether_rt.runtime.cuda.step_sizes import DecoderProfile
from altogether_rt.runtime.cuda.vision import BatchShape, VisionGraph, VisionStreams

__all__ = ["DeviceRuntime", "GraphSizes", "LoadGraph", "plan_memory"]

_VISION = ("encoder", "mapper")
#: load(name, stream): loads one of the bundle's graphs, to run on `stream`.
LoadGraph = Callable[[str, int], DeviceGraph]


@dataclass(frozen=True)
class GraphSizes:
    """Limits of the calls of each graph."""

    decoder: Sequence[DecoderProfile]  # in order of increasing size
    vision: Mapping[str, BatchShape]  # encoder and mapper


def plan_memory(
    bundle: Bundle, cache: CacheLayout, sizes: GraphSizes, scratch: Mapping[str, int]
) -> DevicePlan:
    """All device memory that a runtime uses: a function of configuration, slots and sizes.

    scratch: bytes of working memory of each graph. Encoder and mapper share theirs, since they run
    one after the other; the decoder may run in parallel with them.
    """
    specs = bundle.manifest.graphs["decoder"].inputs
    regions = {"cache": cache.nbytes}
    regions |= decoder_sizes(specs, sizes.decoder, bundle.config.decoder.vocab_size)
    for name, shape in sizes.vision.items():
        regions |= {f"{name}.{part}": nbytes for part, nbytes in shape.region_bytes().items()}
    regions["scratch.decoder"] = scratch["decoder"]
    regions["scratch.vision"] = max(scratch[name] for name in _VISION)
    return plan_device(regions)


class DeviceRuntime:
    """Implements `Runtime`. Vision and decoder have their own streams, contexts and memory."""

    def __init__(
        self,
        bundle: Bundle,
        cuda: Cuda,
        sizes: GraphSizes,
        load: LoadGraph,
        *,
        index: int = 0,
        num_slots: int = 16,
        prefill_tokens: int = PREFILL_TOKENS,
        load_optional: Callable[[str, int], DeviceGraph | None] = lambda name, stream: None,
        owned: ExitStack | None = None,
    ) -> None:
        """index: number of the GPU. prefill_tokens: of all prompts of a step; `sizes` has room for
        them. load_optional(name, stream): a graph of decode steps, of new prompts or of the
        likeliest tokens, if there is one that this GPU's software takes. owned: what the graphs
        use; closed after them, or if this raises.

        Raises what `load` raises, and AltogetherError if the GPU has too little free memory.
        """
        assert num_slots >= 1
        self._cuda = cuda
        self.device: Final = f"cuda:{index}"
        self.num_slots: Final = num_slots
        self.prefill_tokens: Final = prefill_tokens
        self.capacity: Final = bundle.config.capacity
        self.token_width: Final = bundle.config.decoder.token_width
        cache = CacheLayout(bundle.manifest.cache, num_slots, sizes.decoder[0].positions)
        with ExitStack() as opened:
            if owned is not None:
                opened.enter_context(owned)
            stream = cuda.create_stream()
            opened.callback(cuda.destroy_stream, stream)
            streams = VisionStreams(cuda)
            opened.callback(streams.close)
            graphs = {
                name: load(name, stream if name == "decoder" else streams.compute)
                for name in GRAPH_NAMES
            }
            scratch = {name: graph.scratch_bytes for name, graph in graphs.items()}
            prompts = load_optional(PROMPTS_NAME, stream)
            plan = plan_memory(bundle, cache, sizes, scratch)
            base = cuda.malloc(plan.nbytes)
            opened.callback(cuda.free, base)
            addresses = {name: base + region.offset for name, region in plan.regions.items()}
            self._decoder = DeviceDecoder(
                cuda,
                graphs["decoder"],
                sizes.decoder,
                _inputs(bundle, "decoder"),
                cache,
                _decoder_memory(addresses),
                bundle.config.decoder.vocab_size,
                stream,
                load_optional(DECODE_NAME, stream),
                None if prompts is None else (prompts, _inputs(bundle, PROMPTS_NAME)),
            )
            self.max_chunk: Final = self._decoder.max_chunk
            opened.callback(self._decoder.close)
            likeliest = load_optional(LIKELIEST_NAME, stream)
            if likeliest is not None:
                most = max(profile.max_sizes.wanted for profile in sizes.decoder)
                self._decoder.reader.candidates = Candidates(
                    cuda,
                    likeliest,
                    addresses["logits"],
                    most,
                    bundle.config.decoder.vocab_size,
                    stream,
                )
            self._vision: dict[str, VisionGraph] = {}
            for name, shape in sizes.vision.items():
                inner = {part: addresses[f"{name}.{part}"] for part in shape.region_bytes()}
                shared = addresses["scratch.vision"]
                self._vision[name] = VisionGraph(cuda, graphs[name], shape, streams, inner, shared)
                opened.callback(self._vision[name].close)
            opened.callback(streams.synchronize)  # runs first on closing
            self._opened = opened.pop_all()

    def use_here(self) -> None:
        """Called by a thread that is not the last one that used this, before it does."""
        self._cuda.use_here()

    def encode(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Pixels (N, H, W, 3) to embeddings (N, E)."""
        return self._vision["encoder"].run(pixels)

    def map(self, embeddings: Array) -> NDArray[np.float32]:
        """Embeddings (N, E) to visual tokens (N, P, W)."""
        return self._vision["mapper"].run(np.asarray(embeddings))

    def step(self, batch: StepBatch, want_logits: bool = False) -> StepResult:
        """One ragged decoder call; see `Runtime.step`. With `batch.sampling`, logits are wanted to
        draw from: tokens are drawn here if that is possible."""
        rows = len(batch.query_lengths)
        assert rows <= self.num_slots, f"{rows} rows, but {self.num_slots} slots"
        reach = int((batch.query_lengths + batch.past_lengths).max())
        assert reach <= self.capacity, f"{reach} tokens in a slot, but capacity {self.capacity}"
        return self._decoder.step(batch, want_logits)

    @property
    def decoder(self) -> DeviceDecoder:
        """What runs the steps."""
        return self._decoder

    def move_slot(self, src: int, dst: int, length: int) -> None:
        """Copy slot `src`, or at least its first `length` tokens, over slot `dst`."""
        self._decoder.move_slot(src, dst)

    def close(self) -> None:
        """Free the contexts, streams and memory."""
        self._opened.close()
        self.__dict__.pop("_decoder", None)
        self.__dict__.pop("_vision", None)

    def __enter__(self) -> DeviceRuntime:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _inputs(bundle: Bundle, name: str) -> Sequence[TensorSpec]:
    return bundle.manifest.graphs[name].inputs


def _decoder_memory(addresses: Mapping[str, int]) -> DecoderMemory:
    return DecoderMemory(
        cache=addresses["cache"],
        inputs=addresses["inputs"],
        greedy_ids=addresses["greedy_ids"],
        logits=addresses["logits"],
        scratch=addresses["scratch.decoder"],
    )
