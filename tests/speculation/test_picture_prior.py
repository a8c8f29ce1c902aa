"""Pictures make tokens likelier whose captions had pictures like them."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from altogether_rt.speculation.picture_prior import TokenPictures

pytestmark = pytest.mark.lean

WIDTH = 16
BOAT, HOUSE, A = 5, 6, 7


def _picture(rng: np.random.Generator, of: int) -> NDArray[np.float32]:
    """A noisy embedding, of unit length as CLIP's are, that leans towards what it shows."""
    embedding = rng.normal(size=WIDTH)
    embedding[of] += 8
    return (embedding / np.linalg.norm(embedding)).astype(np.float32)


def _taught(num: int) -> tuple[TokenPictures, np.random.Generator]:
    rng = np.random.default_rng(0)
    pictures = TokenPictures()
    for index in range(num):
        shown = (BOAT, HOUSE)[index % 2]
        pictures.learn(_picture(rng, shown), [A, shown, A])
    return pictures, rng


def test_a_token_is_likelier_on_pictures_like_those_of_its_captions() -> None:
    pictures, rng = _taught(200)
    likelier, unlikelier = [], []
    for shown, other in ((BOAT, HOUSE), (HOUSE, BOAT)) * 20:
        weights = pictures.weights(_picture(rng, shown))
        assert weights.get(shown, 1.0) > weights.get(other, 1.0)
        # What every caption holds, no picture makes likelier.
        assert 0.8 < weights.get(A, 1.0) < 1.25
        likelier.append(weights.get(shown, 1.0))
        unlikelier.append(weights.get(other, 1.0))
    assert np.mean(likelier) > 1.1
    assert np.mean(unlikelier) < 0.9


def test_without_a_picture_or_experience_nothing_is_weighed() -> None:
    pictures, rng = _taught(4)
    assert pictures.weights(_picture(rng, BOAT)) == {}
    pictures, rng = _taught(40)
    assert pictures.weights(None) == {}


def test_a_single_picture_says_less_than_many() -> None:
    pictures, rng = _taught(200)
    look = _picture(rng, BOAT)
    pictures.learn(_picture(rng, BOAT), [50])
    assert pictures.weights(look).get(50, 1.0) < pictures.weights(look)[BOAT]


def test_tokens_beyond_the_room_are_left_out() -> None:
    pictures = TokenPictures(max_tokens=3)
    rng = np.random.default_rng(0)
    for index in range(20):
        pictures.learn(_picture(rng, index % 10), [index % 10])
    assert set(pictures.weights(_picture(rng, 1))) <= {0, 1, 2}


def test_pictures_that_do_not_differ_weigh_nothing() -> None:
    pictures = TokenPictures()
    same = np.full(WIDTH, 0.1, np.float32)
    for token in range(600):  # more than fit in the first arrays
        pictures.learn(same, [token])
    assert pictures.weights(same) == {}


def test_pictures_come_back_from_their_arrays() -> None:
    pictures, rng = _taught(300)
    arrays = {name: array.astype(np.float32) for name, array in pictures.to_arrays().items()}
    copy = TokenPictures()
    copy.from_arrays(
        arrays["tokens"].astype(np.int64),
        arrays["counts"],
        arrays["means"],
        arrays["moments"],
        int(arrays["num"]),
    )
    for shown in (BOAT, HOUSE):
        picture = _picture(rng, shown)
        assert copy.weights(picture) == pytest.approx(dict(pictures.weights(picture)), rel=0.1)
    copy.learn(_picture(rng, BOAT), [BOAT, 90])  # and goes on learning
    assert 90 not in pictures.to_arrays()["tokens"]
