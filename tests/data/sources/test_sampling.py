"""A share of keys: by each key alone, of about the size asked for, smaller ones within larger."""

from __future__ import annotations

import pytest

from altogether_rt.data.sources.sampling import KeyShare
from altogether_rt.errors import AltogetherError

KEYS = [f"{number:05}.jpg" for number in range(20_000)] + ["\udcff.jpg", "a\nb"]


@pytest.mark.parametrize("share", [0.001, 0.1, 0.5])
def test_size(share: float) -> None:
    """Within five standard deviations of a binomial distribution."""
    count = sum(key in KeyShare(share) for key in KEYS)
    assert abs(count - share * len(KEYS)) < 5 * (len(KEYS) * share * (1 - share)) ** 0.5


def test_all() -> None:
    assert all(key in KeyShare(1.0) for key in KEYS)


def test_nested_and_seeded() -> None:
    small, large = ({key for key in KEYS if key in KeyShare(s)} for s in (0.01, 0.1))
    other = {key for key in KEYS if key in KeyShare(0.1, seed=1)}
    assert small < large
    assert abs(len(large & other) - 0.01 * len(KEYS)) < 100


def test_what_it_chooses_stays_the_same_in_later_versions() -> None:
    """By hashlib.blake2b(b"7\\n00000.jpg", digest_size=8) and so on, below half of 2**64."""
    import hashlib

    for key in KEYS[:50]:
        digest = hashlib.blake2b(f"7\n{key}".encode(), digest_size=8).hexdigest()
        assert (key in KeyShare(0.5, 7)) == (digest[0] in "01234567")


@pytest.mark.parametrize("share", [0.0, -0.1, 1.01, float("nan")])
def test_out_of_range(share: float) -> None:
    with pytest.raises(AltogetherError, match="more than 0, at most 1"):
        KeyShare(share)
