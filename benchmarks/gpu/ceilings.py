"""The rates of this device, measured with torch in the same run as the contestants."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from harness.adapter import need_torch

__all__ = ["measure_rates"]

#: Larger than any cache; smaller on a CPU, where this only tests the code.
COPY_BYTES = {"cuda": 1 << 30, "cpu": 64 << 20}
MATRIX_SIDE = {"cuda": 8192, "cpu": 512}
CALLS, RUNS = 10, 5


def measure_rates(request: dict[str, Any], emit: Callable[..., None]) -> None:
    """request: device, dtypes. Emits bytes_per_s, and operations_per_s by dtype."""
    device = request["device"]
    need_torch(device)
    import torch

    emit(bytes_per_s=_bytes_per_s(torch, device))
    emit(operations_per_s={name: _rate(torch, device, name) for name in request["dtypes"]})


def _bytes_per_s(torch: Any, device: str) -> float:
    """Bytes per second that a copy reads and writes."""
    source = torch.zeros(COPY_BYTES[device], dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * COPY_BYTES[device] / _best_s(lambda: target.copy_(source), device)


def _rate(torch: Any, device: str, dtype: str) -> float:
    """Operations per second of a matrix product; a multiply-add counts as two."""
    side = MATRIX_SIDE[device]
    a, b = (torch.randn(side, side, device=device).to(getattr(torch, dtype)) for _ in range(2))
    out = torch.empty_like(a)
    return 2 * side**3 / _best_s(lambda: torch.matmul(a, b, out=out), device)


def _best_s(action: Callable[[], object], device: str) -> float:
    """Seconds per call in the fastest of RUNS, each of CALLS in a row, as this is a ceiling."""
    import torch

    def finish() -> None:
        if device == "cuda":
            torch.cuda.synchronize()

    times = []
    for _ in range(RUNS + 1):  # the first warms up
        finish()
        start = time.perf_counter()
        for _ in range(CALLS):
            action()
        finish()
        times.append((time.perf_counter() - start) / CALLS)
    return min(times[1:])
