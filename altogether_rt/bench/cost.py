"""Operations and memory traffic of one call, as the roofline model needs them."""

from __future__ import annotations

from dataclasses import dataclass

from altogether_rt.bench.ceilings import Ceilings

__all__ = ["FORMULA", "Cost"]

#: The fraction of the ceiling that the benchmark prints.
FORMULA = (
    "fraction = floor / median time;  floor = max(linear / GEMM rate + attention / fp32 GEMM rate, "
    "bytes / memory bandwidth);  whole: the floor of writing one token per step"
)


@dataclass(frozen=True)
class Cost:
    """Operations (a multiply-add is two) and bytes of memory traffic, counted from a config.

    Bytes are the weights, read once per call, and the cache, read and written. Activations are
    assumed to stay in the processor's caches, so no implementation can be faster than the floor.
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
        """Seconds for the operations at the machine's best rates."""
        rate = ceilings.int8_per_s if int8 else ceilings.fp32_per_s
        return self.linear / rate + self.attention / ceilings.fp32_per_s

    def memory_s(self, ceilings: Ceilings) -> float:
        """Seconds for the bytes at the machine's best bandwidth."""
        return self.bytes / ceilings.bytes_per_s

    def floor_s(self, ceilings: Ceilings, *, int8: bool) -> float:
        """Minimum time of the call in seconds, if compute and memory overlap perfectly."""
        return max(self.compute_s(ceilings, int8=int8), self.memory_s(ceilings))
