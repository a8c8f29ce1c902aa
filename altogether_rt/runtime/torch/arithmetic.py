"""What a checkpoint is computed in: the types of its products, and of its KV cache."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from altogether_rt.errors import AltogetherError
from altogether_rt.machine.device import KVCacheType
from altogether_rt.runtime.torch.float8 import Float8Products
from altogether_rt.runtime.torch.kernels.slots import CacheType

__all__ = ["Arithmetic"]

_TYPES = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "float8": torch.float16,  # of everything but products in fp8
    "float8-all": torch.float16,
}
_FLOAT8: dict[str, Float8Products] = {"float8": "prompts", "float8-all": "all"}
_KEPT: dict[str, CacheType] = {"auto": "same", "int8": "int8", "float8": "float8"}
_SCALE_BYTES = 4  # of each vector of a cache in 8 bits


@dataclass(frozen=True)
class Arithmetic:
    """As `--dtype` and `--kv-cache` name it; `dtype` is not `auto`."""

    dtype: str
    kv_cache: KVCacheType = "auto"

    def __post_init__(self) -> None:
        """Raises AltogetherError for names that there are not."""
        if self.dtype not in _TYPES:
            raise AltogetherError(
                f"there is no dtype {self.dtype!r}: give auto, {', '.join(_TYPES)}."
            )
        if self.kv_cache not in _KEPT:
            raise AltogetherError(
                f"there is no KV cache {self.kv_cache!r}: give {', '.join(_KEPT)}."
            )

    @property
    def type(self) -> torch.dtype:
        """Of mapper and decoder, but for products in fp8."""
        return _TYPES[self.dtype]

    @property
    def float8(self) -> Float8Products:
        return _FLOAT8.get(self.dtype, "none")

    @property
    def kept(self) -> CacheType:
        return _KEPT[self.kv_cache]

    @property
    def cache(self) -> str:
        """The type that the cache keeps keys and values in."""
        return self.kv_cache if self.kept != "same" else str(self.type).removeprefix("torch.")

    @property
    def is_reduced(self) -> bool:
        """Whether it is below half precision, and therefore compared with float32 before use."""
        return self.float8 != "none" or self.kept != "same"

    @property
    def needs_e4m3(self) -> bool:
        """Whether the GPU must have fp8."""
        return self.float8 != "none" or self.kept == "float8"

    def vector_bytes(self, head_dim: int) -> int:
        """Bytes of a head's key, or value, in the cache."""
        return head_dim * self.type.itemsize if self.kept == "same" else head_dim + _SCALE_BYTES

    def __str__(self) -> str:
        return (
            self.dtype if self.kept == "same" else f"{self.dtype} with a KV cache in {self.cache}"
        )

    def instead(self, on_gpu: bool = True) -> str:
        """What to do where it cannot be used."""
        if self.float8 == "none":
            return "use --kv-cache auto"
        return "use float16" if on_gpu else "use float32"
