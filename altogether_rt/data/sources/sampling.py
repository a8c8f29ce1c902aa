"""A share of samples that depends on their keys alone, to try before the big run."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from altogether_rt.errors import AltogetherError

__all__ = ["KeyShare"]


@dataclass(frozen=True)
class KeyShare:
    """Contains a key or does not, whatever the other keys are and however they are sharded.

    With the same seed a smaller share lies within a larger one.
    """

    share: float  # of all keys, more than 0 and at most 1
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise AltogetherError(f"--sample is {self.share}: it must be more than 0, at most 1.")

    def __contains__(self, key: str) -> bool:
        text = f"{self.seed}\n{key}".encode("utf-8", "surrogatepass")
        number = int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big")
        return number < self.share * 2**64
