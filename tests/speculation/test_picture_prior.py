"""An image makes those tokens likelier whose captions had images like it."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from altogether_rt.speculation.picture_prior import PicturePrior

pytestmark = pytest.mark.lean

WIDTH = 16
BOAT, HOUSE, A = 5, 6, 7


def _embedding(rng: np.random.Generator, of: int) -> NDArray[np.float32]:
    """A noisy embedding, of unit length as CLIP's are, that leans towards what the image shows."""
    embedding = rng.normal(size=WIDTH)
    embedding[of] += 8
    return (embedding / np.linalg.norm(embedding)).astype(np.float32)


def _taught(num: int) -> tuple[PicturePrior, np.random.Generator]:
    rng = np.random.default_rng(0)
    prior = PicturePrior()
    for index in range(num):
        shown = (BOAT, HOUSE)[index % 2]
        prior.learn(_embedding(rng, shown), [A, shown, A])
    return prior, rng


def test_a_token_is_likelier_for_images_like_those_of_its_captions() -> None:
    prior, rng = _taught(200)
    likelier, unlikelier = [], []
    for shown, other in ((BOAT, HOUSE), (HOUSE, BOAT)) * 20:
        weights = prior.weights(_embedding(rng, shown))
        assert weights.get(shown, 1.0) > weights.get(other, 1.0)
        # No image makes a token likelier that every caption contains.
        assert 0.8 < weights.get(A, 1.0) < 1.25
        likelier.append(weights.get(shown, 1.0))
        unlikelier.append(weights.get(other, 1.0))
    assert np.mean(likelier) > 1.1
    assert np.mean(unlikelier) < 0.9


def test_without_an_image_or_experience_nothing_is_weighted() -> None:
    prior, rng = _taught(4)
    assert prior.weights(_embedding(rng, BOAT)) == {}
    prior, rng = _taught(40)
    assert prior.weights(None) == {}


def test_a_single_image_says_less_than_many() -> None:
    prior, rng = _taught(200)
    look = _embedding(rng, BOAT)
    prior.learn(_embedding(rng, BOAT), [50])
    assert prior.weights(look).get(50, 1.0) < prior.weights(look)[BOAT]


def test_tokens_beyond_the_limit_are_left_out() -> None:
    prior = PicturePrior(max_tokens=3)
    rng = np.random.default_rng(0)
    for index in range(20):
        prior.learn(_embedding(rng, index % 10), [index % 10])
    assert set(prior.weights(_embedding(rng, 1))) <= {0, 1, 2}


def test_images_that_do_not_differ_give_no_weights() -> None:
    prior = PicturePrior()
    same = np.full(WIDTH, 0.1, np.float32)
    for token in range(600):  # more than fit in the first arrays
        prior.learn(same, [token])
    assert prior.weights(same) == {}


def test_the_prior_comes_back_from_its_arrays() -> None:
    prior, rng = _taught(300)
    arrays = {name: array.astype(np.float32) for name, array in prior.to_arrays().items()}
    copy = PicturePrior()
    copy.load_arrays(
        arrays["tokens"].astype(np.int64),
        arrays["counts"],
        arrays["means"],
        arrays["moments"],
        int(arrays["num"]),
    )
    for shown in (BOAT, HOUSE):
        embedding = _embedding(rng, shown)
        assert copy.weights(embedding) == pytest.approx(dict(prior.weights(embedding)), rel=0.1)
    copy.learn(_embedding(rng, BOAT), [BOAT, 90])  # and goes on learning
    assert 90 not in prior.to_arrays()["tokens"]
