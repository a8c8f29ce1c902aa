"""Top-p sampling against a plain sort, and the independence of its randomness."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from altogether_rt.captions import content_hash
from altogether_rt.errors import AltogetherError
from altogether_rt.generation.sampling import row_seed, row_uniforms, sample_top_p


def _plain(logits: np.ndarray, uniform: float, temperature: float, top_p: float) -> int:
    """Sort everything, keep the nucleus, walk it."""
    p = np.exp(logits.astype(np.float64) / temperature)
    p /= p.sum()
    order = sorted(range(len(p)), key=lambda i: (-p[i], i))
    kept, mass = [], 0.0
    for i in order:
        kept.append(i)
        mass += p[i]
        if mass >= top_p:
            break
    target, walked = uniform * mass, 0.0
    for i in kept:
        walked += p[i]
        if walked > target:
            return i
    return kept[-1]


@pytest.mark.parametrize("temperature", [0.2, 1.0, 3.0])
@pytest.mark.parametrize("top_p", [0.1, 0.7, 0.95])
def test_matches_a_plain_sort(temperature: float, top_p: float) -> None:
    rng = np.random.default_rng(1)
    for vocab in (5, 64, 700):
        for _ in range(30):
            logits, u = rng.normal(size=vocab).astype(np.float32) * 2, rng.random()
            assert sample_top_p(logits, u, temperature, top_p) == _plain(
                logits, u, temperature, top_p
            )


@pytest.mark.parametrize("temperature", [0.2, 1.0, 5.0])
@pytest.mark.parametrize("top_p", [0.3, 0.9, 0.999, 1.0])
def test_sorting_few_is_sorting_all(temperature: float, top_p: float) -> None:
    """Of a large vocabulary, from one sure token to a flat distribution, with ties."""
    rng = np.random.default_rng(2)
    for sure in (0.0, 8.0, 20.0):
        logits = rng.normal(size=20_000).astype(np.float32).round(2)
        logits[7] += sure
        uniform = rng.random()
        weights = np.exp(logits.astype(np.float64) / temperature - logits.max() / temperature)
        weights /= weights.sum()
        order = np.argsort(-weights, kind="stable")
        cumulative = np.cumsum(weights[order])
        kept = min(int(np.searchsorted(cumulative, top_p)) + 1, len(order))
        place = np.searchsorted(cumulative[:kept], uniform * cumulative[kept - 1], side="right")
        wanted = int(order[min(int(place), kept - 1)])
        assert sample_top_p(logits, uniform, temperature, top_p) == wanted


def test_frequencies_follow_the_distribution() -> None:
    logits = np.log(np.array([0.5, 0.3, 0.15, 0.05], np.float32))
    uniforms = row_uniforms(3, 20000)
    counts = Counter(sample_top_p(logits, u, 1.0, 0.9) for u in uniforms)
    assert set(counts) == {0, 1, 2}  # 0.5 + 0.3 < 0.9 <= 0.5 + 0.3 + 0.15
    assert counts[0] / 20000 == pytest.approx(0.5 / 0.95, abs=0.02)
    assert counts[2] / 20000 == pytest.approx(0.15 / 0.95, abs=0.02)


def test_ties_go_to_the_lower_id() -> None:
    logits = np.zeros(200, np.float32)
    assert sample_top_p(logits, 0.0, 1.0, 0.001) == 0


def test_row_seed_derives_from_content_alone() -> None:
    pixels = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    content = content_hash(pixels)
    seed = row_seed(content, ["a"], 0)
    assert content == content_hash(np.asfortranarray(pixels))
    assert seed == row_seed(content_hash(pixels.copy()), ("a",), 0)
    others = [
        row_seed(content, ["a"], 1),
        row_seed(content, ["b"], 0),
        row_seed(content, ["a", ""], 0),
        row_seed(content_hash(pixels + 1), ["a"], 0),
        row_seed(content_hash(pixels.reshape(2, 8, 3)), ["a"], 0),
    ]
    assert len({seed, *others}) == 6
    assert 0 <= seed < 2**63


def test_the_seed_of_a_row_stays_the_same_in_later_versions() -> None:
    """A rerun samples what the first run did; worked out with `b2sum -l 64`, the run's seed and
    alt-texts as Python prints them behind the 16 bytes: a1aec2eb df429e60, little-endian, halved.
    """
    assert row_seed(bytes(range(16)), ["a boat", "é"], 3) == 3481037801730955088


def test_weights_that_compute_no_number_are_named() -> None:
    logits = np.zeros(20, np.float32)
    logits[13] = np.nan
    with pytest.raises(AltogetherError, match="its weights are damaged"):
        sample_top_p(logits, 0.5, 1.0, 0.9)


def test_uniforms_do_not_depend_on_how_many_are_asked_for() -> None:
    assert np.array_equal(row_uniforms(9, 5), row_uniforms(9, 50)[:5])
