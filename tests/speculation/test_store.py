"""What was learnt goes into a file and comes back; a file from a stranger can do no harm."""

from __future__ import annotations

import io
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from altogether_rt.errors import BundleError
from altogether_rt.speculation.drafter import Drafter
from altogether_rt.speculation.evidence import NUM_KINDS
from altogether_rt.speculation.planner import DraftPlanner
from altogether_rt.speculation.store import load_drafting_state, save_drafting_state, teach

pytestmark = pytest.mark.lean

VOCAB, WIDTH, EOS = 60, 8, 2


def _caption(rng: np.random.Generator) -> tuple[list[int], list[int], NDArray[np.float32]]:
    """(alt-text, caption, embedding): 'a <colour> <thing> at the sea', as the image shows it."""
    colour, thing = int(rng.integers(4)), int(rng.integers(4))
    embedding = rng.normal(size=WIDTH) * 0.2
    embedding[colour] += 1
    embedding[4 + thing] += 1
    return [20 + thing], [10, 30 + colour, 20 + thing, 11, 12, EOS], embedding.astype(np.float32)


def _taught(num: int = 300, embeddings: bool = True) -> DraftPlanner:
    rng, planner = np.random.default_rng(0), DraftPlanner()
    for _ in range(num):
        alt, ids, embedding = _caption(rng)
        teach(planner, alt, ids, embedding if embeddings else None)
    return planner


def _num_right(planner: DraftPlanner, embeddings: bool = True) -> int:
    """How many of 50 captions are drafted correctly from the first token to the last."""
    rng, right = np.random.default_rng(9), 0
    for _ in range(50):
        alt, ids, embedding = _caption(rng)
        weights = planner.picture_prior.weights(embedding if embeddings else None)
        drafter = Drafter(alt, planner.ngram_cache, weights)
        right += drafter.propose([], planner.acceptance.rate, len(ids)).tokens == tuple(ids)
    return right


def test_captions_teach_and_embeddings_teach_more() -> None:
    assert _num_right(DraftPlanner()) == 0
    without = _num_right(_taught(embeddings=False), embeddings=False)
    assert 5 <= without <= 25, "the colour is one of four"
    assert _num_right(_taught()) >= 2 * without


def test_what_was_learnt_comes_back(tmp_path: Path) -> None:
    planner = _taught()
    save_drafting_state(planner, tmp_path / "guesses.npz")
    copy = load_drafting_state(tmp_path / "guesses.npz", VOCAB, WIDTH)
    assert _num_right(copy) == _num_right(planner)
    rates = [planner.acceptance.rate(kind) for kind in range(NUM_KINDS)]
    assert [copy.acceptance.rate(kind) for kind in range(NUM_KINDS)] == pytest.approx(rates)
    teach(copy, *_caption(np.random.default_rng(5)))  # and it goes on learning


def test_without_embeddings_the_prior_is_empty(tmp_path: Path) -> None:
    save_drafting_state(_taught(embeddings=False), tmp_path / "guesses.npz")
    copy = load_drafting_state(tmp_path / "guesses.npz", VOCAB, 77)
    assert copy.picture_prior.weights(np.ones(77, np.float32)) == {}
    assert len(copy.ngram_cache) > 10


def test_nothing_learnt_is_no_error(tmp_path: Path) -> None:
    save_drafting_state(DraftPlanner(), tmp_path / "guesses.npz")
    assert len(load_drafting_state(tmp_path / "guesses.npz", VOCAB, WIDTH).ngram_cache) == 0


def _change(name: str, change: Callable[[NDArray[Any]], Any]) -> Callable[[dict[str, Any]], None]:
    def apply(arrays: dict[str, Any]) -> None:
        arrays[name] = change(arrays[name])

    return apply


def _set(index: Any, value: Any) -> Callable[[NDArray[Any]], NDArray[Any]]:
    def change(array: NDArray[Any]) -> NDArray[Any]:
        array = array.copy()
        array[index] = value
        return array

    return change


@pytest.mark.parametrize(
    "damage",
    [
        _change("version", lambda _: np.array(99)),
        _change("phrases.ngrams", _set((0, 2), VOCAB)),
        _change("phrases.ngrams", _set((0, 0), -3)),
        _change("phrases.ngrams", lambda a: a[:, :2]),
        _change("phrases.ngrams", lambda a: a.astype(np.float32)),
        _change("phrases.num_followers", _set(0, 10**6)),
        _change("phrases.num_followers", _set(0, -1)),
        _change("phrases.num_followers", lambda a: a[1:]),
        _change("phrases.followers", lambda a: a[1:]),
        _change("phrases.followers", _set((0, 0), -1)),
        _change("phrases.followers", _set((0, 1), 0)),
        _change("pictures.tokens", _set(0, VOCAB)),
        _change("pictures.tokens", _set(0, 11)),
        _change("pictures.tokens", lambda a: a[1:]),
        _change("pictures.counts", _set(0, 0)),
        _change("pictures.counts", _set(0, np.nan)),
        _change("pictures.means", _set((0, 0), np.inf)),
        _change("pictures.means", lambda a: a[:, 1:]),
        _change("pictures.moments", lambda a: a[:1]),
        _change("pictures.num", lambda _: np.array(-1)),
        _change("acceptance.rates", lambda a: a[:, 1:]),
        _change("acceptance.rates", lambda a: a[::-1] + 1),
        lambda arrays: arrays.pop("acceptance.rates"),
        _change("version", lambda _: np.array([{"a": 1}], object)),
    ],
)
def test_a_damaged_file_is_refused(
    damage: Callable[[dict[str, Any]], None], tmp_path: Path
) -> None:
    path = tmp_path / "guesses.npz"
    save_drafting_state(_taught(200), path)
    with np.load(path) as file:
        arrays = dict(file)
    damage(arrays)
    np.savez(path, **arrays)
    with pytest.raises(BundleError, match=r"is not valid drafting state for this bundle .*learn"):
        load_drafting_state(path, VOCAB, WIDTH)


def test_what_is_no_such_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "guesses.npz"
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("version.npy", bytes(300 << 20))  # a bomb
    claims = io.BytesIO()
    header = {"descr": "<i8", "fortran_order": False, "shape": (10**14,)}
    np.lib.format.write_array_header_1_0(claims, header)
    large = io.BytesIO()
    with zipfile.ZipFile(large, "w") as archive:
        archive.writestr("version.npy", claims.getvalue())
    save_drafting_state(_taught(40), path)
    whole = bytearray(path.read_bytes())
    whole[len(whole) // 2] ^= 0xFF
    contents = [b"", b"hello", pickle.dumps({"version": 1}), packed.getvalue(), large.getvalue()]
    contents += [bytes(whole), path.read_bytes()[:-200]]
    for content in contents:
        path.write_bytes(content)
        with pytest.raises(BundleError, match="is not valid drafting state"):
            load_drafting_state(path, VOCAB, WIDTH)
    with pytest.raises(BundleError):
        load_drafting_state(tmp_path / "absent.npz", VOCAB, WIDTH)
