"""What one call has to compute and to move: the unit of the roofline."""

from __future__ import annotations

from dataclasses import dataclass

from altogether_rt.bench.ceilings import Ceilings

__all__ = ["FORMULA", "Cost"]

#: The fraction of the ceiling that the benchmark prints.
FORMULA = (
    "fraction = floor / median time;  floor = max(linear / GEMM rate + attention / fp32 GEMM rate, "
    "bytes / memory bandwidth);  whole: the floor of writing a token a step"
)


@dataclass(frozen=True)
class Cost:
    """Operations (a multiply-add is two) and bytes of memory traffic, counted from a config.

    Bytes are weights read once a call and cache read and written; activations are taken to stay in
    the processor's caches, so the floor is one that no implementation gets below.
    """

    linear: int = 0  # operations of products with weights
    attention: int = 0  # operations of products between activations
    bytes: int = 0

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            self.linear + other.linear, self.attention + other.attention, self.bytes + other.bytes
        )

    @property
    def operations(self) -> int:
        return self.linear + self.attention

    def compute_s(self, ceilings: Ceilings, *, int8: bool) -> float:
        """Seconds that the operations take at the machine's best rates."""
        rate = ceilings.int8_per_s if int8 else ceilings.fp32_per_s
        return self.linear / rate + self.attention / ceilings.fp32_per_s

    def memory_s(self, ceilings: Ceilings) -> float:
        """Seconds that the bytes take at the machine's best bandwidth."""
        return self.bytes / ceilings.bytes_per_s

    def floor_s(self, ceilings: Ceilings, *, int8: bool) -> float:
        """The least time the call can take: compute and memory overlap perfectly."""
        return max(self.compute_s(ceilings, int8=int8), self.memory_s(ceilings))
