"""The likeliest tokens of logits that are in device memory."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from altogether_rt.runtime.cuda.api import Cuda, HostBuffer
from altogether_rt.runtime.cuda.graph import DeviceContext, DeviceGraph, Tensor
from altogether_rt.runtime.cuda.memory_plan import plan_device
from altogether_rt.runtime.cuda.sampling.draw import Likeliest
from altogether_rt.runtime.tiny_onnx import likeliest_model

__all__ = ["LIKELIEST_NAME", "Candidates", "candidates_model"]

#: The graph that finds them, among those that a runtime loads.
LIKELIEST_NAME = "likeliest"

#: Likeliest tokens that are looked for. Where they do not reach top_p, the host draws from logits.
_MAX_CANDIDATES = 256
#: Logits of a run in float64, in which they are summed: the graph has two such arrays at a time.
_WIDE_BYTES = 64 << 20


def candidates_model(vocab_size: int) -> bytes:
    """The graph that `Candidates` runs, serialised as ONNX."""
    return likeliest_model(vocab_size, _count(vocab_size))


class Candidates:
    """Runs the graph of `candidates_model`, on the stream that computes the logits."""

    def __init__(
        self,
        cuda: Cuda,
        graph: DeviceGraph,
        logits: int,
        max_rows: int,
        vocab_size: int,
        stream: int,
    ) -> None:
        """logits: address of float32 (max_rows, vocab).

        Raises AltogetherError if the GPU has too little free memory.
        """
        self._cuda, self._stream = cuda, stream
        self._context: DeviceContext = graph.context(0, 0, stream)
        self._logits, self._max_rows, self._vocab_size = logits, max_rows, vocab_size
        self.count = _count(vocab_size)
        fitting = max(1, _WIDE_BYTES // (8 * vocab_size))
        self._rows = min(max_rows, 1 << (fitting.bit_length() - 1))  # of a run
        rows, count = self._rows, self.count
        sizes = {"values": 4 * rows * count, "ids": 8 * rows * count, "totals": 8 * rows}
        self._plan = plan_device({"temperatures": 8 * rows, **sizes})
        self._base = cuda.malloc(self._plan.nbytes)
        self._host: HostBuffer = cuda.host_alloc(self._plan.nbytes)

    def find(self, temperatures: NDArray[np.float64]) -> Likeliest:
        """Of the first rows of the logits, as many as there are temperatures (positive); waits."""
        parts = [
            self._find(start, temperatures[start : start + self._rows])
            for start in range(0, len(temperatures), self._rows)
        ]
        return Likeliest(
            np.concatenate([part.values for part in parts]),
            np.concatenate([part.ids for part in parts]),
            np.concatenate([part.totals for part in parts]),
        )

    def close(self) -> None:
        """Free memory; the stream must be idle."""
        self.__dict__.pop("_context", None)
        self._cuda.free(self._base)
        self._cuda.host_free(self._host)

    def _find(self, first: int, temperatures: NDArray[np.float64]) -> Likeliest:
        cuda, stream, count = self._cuda, self._stream, self.count
        rows = len(temperatures)
        # A GPU prepares kernels by sizes: few of them. Rows behind the wanted ones hold anything.
        padded = min(1 << (rows - 1).bit_length(), self._rows, self._max_rows - first)
        at = {name: region.offset for name, region in self._plan.regions.items()}
        given = np.ones(padded, np.float64)
        given[:rows] = temperatures
        self._host.array[: given.nbytes] = given.view(np.uint8)
        cuda.upload(self._base, self._host, 0, given.nbytes, stream)
        address = self._logits + 4 * first * self._vocab_size
        self._context.bind(
            {
                "logits": Tensor(address, (padded, self._vocab_size)),
                "temperatures": Tensor(self._base + at["temperatures"], (padded, 1)),
            },
            {
                "values": Tensor(self._base + at["values"], (padded, count)),
                "ids": Tensor(self._base + at["ids"], (padded, count)),
                "totals": Tensor(self._base + at["totals"], (padded,)),
            },
        )
        self._context.run(stream)
        sizes = {"values": 4 * rows * count, "ids": 8 * rows * count, "totals": 8 * rows}
        for name, nbytes in sizes.items():
            cuda.download(self._host, at[name], self._base + at[name], nbytes, stream)
        cuda.synchronize(stream)
        block = self._host.array
        data = {name: block[at[name] : at[name] + nbytes] for name, nbytes in sizes.items()}
        return Likeliest(
            data["values"].view(np.float32).reshape(rows, count).copy(),
            data["ids"].view(np.int64).reshape(rows, count).copy(),
            data["totals"].view(np.float64).copy(),
        )


def _count(vocab_size: int) -> int:
    return min(_MAX_CANDIDATES, vocab_size)
