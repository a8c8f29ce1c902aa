"""A runtime on the stand-in for CUDA."""

from __future__ import annotations

from altogether_rt.artifacts.bundle import Bundle
from altogether_rt.artifacts.manifest import DECODER_GRAPHS
from altogether_rt.errors import BundleError
from altogether_rt.runtime.cuda.onnx import OrtGraph, onnx_gpu_runtime
from altogether_rt.runtime.cuda.shared_weights import SharedWeights, shared_tensors
from tests.runtime.cuda.fake_cuda import FakeCuda, QueuedSession, as_cuda, graph_model


class OnFake:
    """A runtime on the stand-in; its sessions by name, and their runs."""

    def __init__(
        self,
        bundle: Bundle,
        slots: int,
        refused: tuple[str, ...] = (),
        *,
        share: bool = True,
    ) -> None:
        """refused: graphs that cannot be loaded. share: the decoder's graphs read the same weights
        on the device; without that, a runtime has no room for a graph of prompts."""
        self.cuda = FakeCuda()
        self.sessions: dict[str, QueuedSession] = {}
        weights = None
        if share:
            weights = SharedWeights(as_cuda(self.cuda), bundle.path, shared_tensors(bundle))

        def load(name: str, stream: int) -> OrtGraph:
            if name in refused:
                raise BundleError(f"onnxruntime cannot load {name}.onnx: export it again.")
            given = weights if name in DECODER_GRAPHS else None
            model = graph_model(bundle, name)
            self.sessions[name] = QueuedSession(self.cuda, model, stream, given)
            return OrtGraph(self.sessions[name], kind="cpu", keep=given)

        self.runtime = onnx_gpu_runtime(
            bundle, as_cuda(self.cuda), load, num_slots=slots, weights=weights
        )

    def runs(self) -> tuple[int, ...]:
        """Of the graph of all steps, of decode steps, of prompts."""
        opened = self.sessions
        return tuple(opened[n].runs if n in opened else 0 for n in DECODER_GRAPHS)

    def close(self) -> None:
        self.runtime.close()
        self.cuda.finish()
