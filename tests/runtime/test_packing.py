from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from altogether_rt.runtime.packing import pack_indices


def ints(*values: int) -> NDArray[np.int32]:
    return np.array(values, np.int32)


def test_there_and_back() -> None:
    packing = pack_indices(ints(3, 1, 2), ints(0, 7, 4))
    assert packing.positions.tolist() == [0, 1, 2, 7, 4, 5]
    assert packing.pad_index.tolist() == [[0, 1, 2], [3, 3, 3], [4, 5, 5]]
    tokens = np.arange(6) * 10
    padded = tokens[packing.pad_index]
    assert padded.reshape(-1)[packing.unpad_index].tolist() == tokens.tolist()


def test_an_idle_row_brings_nothing_back() -> None:
    packing = pack_indices(ints(0, 2, 0), ints(5, 1, 0))
    assert packing.positions.tolist() == [1, 2]
    assert packing.unpad_index.tolist() == [2, 3]
    assert packing.pad_index.shape == (3, 2)
    assert packing.pad_index.max() < 2  # a valid token everywhere


@pytest.mark.parametrize(("min_chunk", "width"), [(1, 1), (2, 2), (4, 4)])
def test_the_padded_view_is_never_narrower_than_asked(min_chunk: int, width: int) -> None:
    packing = pack_indices(ints(1, 1), ints(0, 3), min_chunk)
    assert packing.pad_index.shape == (2, width)
    assert packing.unpad_index.tolist() == [0, width]


def test_random_batches_come_back() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        lengths = rng.integers(0, 6, 5).astype(np.int32)
        lengths[rng.integers(5)] += 1
        past = rng.integers(0, 9, 5).astype(np.int32)
        packing = pack_indices(lengths, past, 2)
        tokens = rng.integers(0, 1000, lengths.sum())
        assert (tokens[packing.pad_index].reshape(-1)[packing.unpad_index] == tokens).all()
        wanted = [p + i for p, n in zip(past, lengths, strict=True) for i in range(n)]
        assert packing.positions.tolist() == wanted
