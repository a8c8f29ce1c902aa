"""How many rows a call of products with 4-bit weights must have for a row to get the same bits.

onnxruntime's kernels take some rows at a time, and what is left over by another loop, whose sums
may differ in the last bit: two at a time for groups of 64 channels and more (1.32, AVX512-VNNI). A
caption must not depend on its neighbours, so calls are filled up with rows that nobody reads.
"""

from __future__ import annotations

import functools
from typing import Any, Final

import numpy as np

from altogether_rt.runtime.ort_session import import_onnxruntime
from altogether_rt.runtime.tiny_onnx import group_matmul_model

__all__ = ["row_multiple"]

_TRIED: Final = (1, 2, 4, 8, 16)
#: Of the product that is tried: channels in and out, neither of them whole tiles of a kernel.
_INNER, _OUTER = 1536, 83
_ROWS: Final = 48


@functools.cache
def row_multiple(group: int) -> int:
    """The smallest number of which calls must have multiples, for groups of this many channels.

    It is measured, because it differs by processor: in 2 ms. 1 for no group at all.
    """
    if group == 0:
        return 1
    product = _product(group)
    x = np.random.default_rng(1).normal(size=(_ROWS, _INNER)).astype(np.float32)
    x[5] *= 1000
    whole = product(x)

    def same(rows: int) -> bool:
        return all(
            np.array_equal(product(x[start : start + count]), whole[start : start + count])
            for count in range(rows, 2 * max(_TRIED) + 1, rows)
            for start in (0, 1, 4, 7)
        )

    return next((rows for rows in _TRIED if same(rows)), max(_TRIED))


def _product(group: int) -> Any:
    """The product of random weights, as a function of (M, _INNER) in float32."""
    ort, rng = import_onnxruntime(), np.random.default_rng(0)
    groups = _INNER // group
    model = group_matmul_model(
        rng.integers(0, 256, (_OUTER, groups, group // 2), np.uint8),
        rng.uniform(0.01, 0.02, (_OUTER, groups)).astype(np.float32),
        rng.integers(0, 256, (_OUTER, -(-groups // 2)), np.uint8),
    )
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return lambda x: session.run(None, {"x": x})[0]
