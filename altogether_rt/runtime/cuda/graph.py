"""One graph on a GPU, whatever runs it: it is bound to sizes and addresses, then given a stream."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

__all__ = ["DeviceContext", "DeviceGraph", "Tensor"]


@dataclass(frozen=True)
class Tensor:
    """A contiguous tensor in device memory."""

    address: int
    shape: tuple[int, ...]


class DeviceContext(Protocol):
    """A graph made ready to run."""

    def bind(self, inputs: Mapping[str, Tensor], outputs: Mapping[str, Tensor]) -> None:
        """What it works on until bound anew; an input and an output may be one tensor."""

    def run(self, stream: int) -> None:
        """Give the work to `stream`; it is not waited for."""

    def capturable(self, stream: int) -> bool:
        """Whether `run` may be noted down as a CUDA graph by the caller."""


class DeviceGraph(Protocol):
    """A loaded graph."""

    @property
    def tensor_names(self) -> tuple[str, ...]:
        """Of its inputs and outputs."""

    @property
    def scratch_bytes(self) -> int:
        """Device memory that a context needs while it runs, besides its tensors."""

    def context(
        self, profile: int, scratch: int, stream: int, *, dedicated: bool = False
    ) -> DeviceContext:
        """A context in an optimisation profile, working at `scratch`, run on `stream`.

        Contexts that never run at the same time may share their scratch. dedicated: it will be
        bound once and run often.
        """
