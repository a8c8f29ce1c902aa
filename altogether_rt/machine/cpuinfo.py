"""What Linux reports about the processor."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

__all__ = ["CPUINFO", "cpu_features", "read_cpuinfo"]

CPUINFO = Path("/proc/cpuinfo")

#: Flags that determine how fast int8 is, and their common names.
_FEATURES = {
    "avx2": "AVX2",
    "avx512f": "AVX512",
    "avx_vnni": "AVX-VNNI",
    "avx512_vnni": "AVX512-VNNI",
    "avx512_bf16": "AVX512-BF16",
    "amx_int8": "AMX-INT8",
    "asimddp": "ARM dot product",
    "i8mm": "ARM I8MM",
}


def read_cpuinfo(path: Path = CPUINFO) -> dict[str, str]:
    """Values of the first core by lower-case name; empty if the system does not provide them."""
    try:
        lines = path.read_text("utf-8", "replace").splitlines()
    except OSError:
        return {}
    values: dict[str, str] = {}
    for line in lines:
        key, _, value = line.partition(":")
        values.setdefault(key.strip().lower(), value.strip())
    return values


def cpu_features(values: Mapping[str, str]) -> tuple[str, ...]:
    """The features, among those that `read_cpuinfo` found, that determine how fast int8 is."""
    flags = set((values.get("flags") or values.get("features") or "").split())
    return tuple(label for flag, label in _FEATURES.items() if flag in flags)
