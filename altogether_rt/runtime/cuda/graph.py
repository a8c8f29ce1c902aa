"""A graph on a GPU, independent of what runs it: bound to sizes and addresses, run on a stream."""

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
    on_host: bool = False  # in host memory instead, where the graph reads it


class DeviceContext(Protocol):
    """A graph that is ready to run."""

    def bind(self, inputs: Mapping[str, Tensor], outputs: Mapping[str, Tensor]) -> None:
        """Set the tensors of the following runs; an input and an output may be the same tensor."""

    def run(self, stream: int) -> None:
        """Enqueue the graph on `stream`, without waiting for it."""

    def capturable(self, stream: int) -> bool:
        """Whether the caller may capture `run` as a CUDA graph."""


class DeviceGraph(Protocol):
    """A loaded graph."""

    @property
    def tensor_names(self) -> tuple[str, ...]:
        """Names of its inputs and outputs."""

    @property
    def scratch_bytes(self) -> int:
        """Device memory that a context needs while it runs, besides its tensors."""

    def context(
        self, profile: int, scratch: int, stream: int, *, dedicated: bool = False
    ) -> DeviceContext:
        """A context of an optimisation profile, using memory at `scratch` and running on `stream`.

        Contexts that never run at the same time may share their scratch memory. dedicated: it will
        be bound once and run often.
        """
