"""Drafting state on disk: n-gram cache, picture prior and acceptance rates.

It is learnt from finished captions and read when a bundle is opened, so that drafts for the first
captions are as good as for the thousandth. It only affects speed: with an unsuitable file captions
are slower, and the same.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from altogether_rt.artifacts.arrays import read_npz
from altogether_rt.config import CaptionerConfig
from altogether_rt.errors import BundleError, reason
from altogether_rt.speculation.evidence import NUM_KINDS
from altogether_rt.speculation.planner import DraftPlanner, LearningDrafter

__all__ = ["load_drafting_state", "new_planner", "save_drafting_state", "teach"]

#: Version of the file's arrays. Files of another version are refused, and have to be learnt again.
_VERSION = 1

#: Largest file that is read, in bytes after decompression: it may come from a stranger.
_MAX_BYTES = 256 << 20

#: Largest number of whole numbers in one array: 50,000 n-grams with all their followers have fewer.
_MAX_INTEGERS = 4 << 20


def teach(
    planner: DraftPlanner,
    alt_ids: Sequence[int],
    ids: Sequence[int],
    embedding: NDArray[np.float32] | None = None,
) -> None:
    """Update `planner` with a finished caption.

    The effect is the same as if an engine had written the caption with speculation.

    ids: tokens of the caption, EOS included. embedding: (E,), of the image.
    """
    drafter, num_written = LearningDrafter(planner, alt_ids, embedding), 0
    while num_written < len(ids):
        draft = drafter.propose(ids[:num_written])
        pairs = zip(draft.tokens, ids[num_written:], strict=False)
        num_accepted = sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))
        written = ids[num_written : num_written + num_accepted + 1]
        drafter.observe(draft, written)
        num_written += len(written)
    drafter.finish(ids)


def save_drafting_state(planner: DraftPlanner, path: Path) -> None:
    """Write what `planner` has learnt, except the cost of a step, to the .npz file `path`."""
    parts = {  # prefixes of the file format's array names
        "phrases": planner.ngram_cache.to_arrays(),
        "pictures": planner.picture_prior.to_arrays(),
        "acceptance": planner.acceptance.to_arrays(),
    }
    arrays = {
        f"{prefix}.{name}": array for prefix, part in parts.items() for name, array in part.items()
    }
    with path.open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, version=np.array(_VERSION), **arrays)


def new_planner(path: Path | None, config: CaptionerConfig) -> DraftPlanner:
    """A planner with the drafting state in `path`, or with none where `path` is None.

    config: of the captioner. Raises BundleError if the file is not drafting state for it.
    """
    if path is None:
        return DraftPlanner()
    return load_drafting_state(path, config.decoder.vocab_size, config.encoder.embed_dim)


def load_drafting_state(path: Path, vocab_size: int, embed_dim: int) -> DraftPlanner:
    """A planner with what `save_drafting_state` wrote.

    vocab_size, embed_dim: of the captioner. Raises BundleError if the file is not valid for them.
    """
    try:
        arrays = read_npz(path, _MAX_BYTES)
        if int(_array(arrays, "version", "i", 0)) != _VERSION:
            raise ValueError("it was written by another version of altogether-rt")
        return _planner(arrays, vocab_size, embed_dim)
    except (OSError, ValueError, KeyError, OverflowError, MemoryError) as error:
        raise BundleError(
            f"{path} is not valid drafting state for this bundle ({reason(error)}): create it "
            "again with altogether-rt learn."
        ) from error


def _planner(arrays: dict[str, NDArray[Any]], vocab_size: int, embed_dim: int) -> DraftPlanner:
    planner = DraftPlanner()
    ngrams = _array(arrays, "phrases.ngrams", "i", 2)
    num_followers = _array(arrays, "phrases.num_followers", "i", 1)
    followers = _array(arrays, "phrases.followers", "i", 2)  # token, count
    _require(ngrams.shape[1] == 3 and followers.shape[1] == 2, "its n-grams have the wrong shape")
    _require(_within(ngrams, -2, vocab_size), "its n-grams contain unknown tokens")
    _require(
        len(num_followers) == len(ngrams), "the numbers of n-grams and of their followers differ"
    )
    _require(_within(num_followers, 0, len(followers) + 1), "its numbers of followers are wrong")
    _require(int(num_followers.sum()) == len(followers), "its numbers of followers are wrong")
    _require(_within(followers[:, 0], 0, vocab_size), "its n-grams contain unknown tokens")
    _require(_within(followers[:, 1], 1, 1 << 15), "its counts of followers are out of range")
    planner.ngram_cache.load_arrays(ngrams, num_followers, followers)

    tokens = _array(arrays, "pictures.tokens", "i", 1)
    counts = _array(arrays, "pictures.counts", "f", 1)
    means = _array(arrays, "pictures.means", "f", 2)
    moments = _array(arrays, "pictures.moments", "f", 2)  # mean and mean square of all embeddings
    num_images = int(_array(arrays, "pictures.num", "i", 0))
    _require(
        len(tokens) == len(counts) == len(means), "the lengths of its picture prior's arrays differ"
    )
    _require(_within(tokens, 0, vocab_size), "its picture prior contains unknown tokens")
    _require(len(np.unique(tokens)) == len(tokens), "its picture prior contains a token twice")
    _require(bool((counts > 0).all()) and num_images >= 0, "its counts of images are out of range")
    _require(
        not num_images or (means.shape[1] == embed_dim and moments.shape == (2, embed_dim)),
        "its embeddings have another length",
    )
    planner.picture_prior.load_arrays(tokens, counts, means, moments, num_images)

    rates = _array(arrays, "acceptance.rates", "f", 2)  # accepted, observed
    _require(rates.shape == (2, NUM_KINDS), "its acceptance rates have the wrong shape")
    _require(
        bool((rates[0] <= rates[1]).all() and (rates >= 0).all()),
        "its acceptance rates are out of range",
    )
    planner.acceptance.load_arrays(rates)
    return planner


def _array(arrays: dict[str, NDArray[Any]], name: str, kind: str, ndim: int) -> NDArray[Any]:
    """An array of the file as int64 or float32. Raises ValueError or KeyError if invalid."""
    array = arrays[name]
    _require(array.dtype.kind == kind and array.ndim == ndim, f"{name} has the wrong type")
    _require(kind == "f" or array.size <= _MAX_INTEGERS, f"{name} has too many numbers")
    wide: NDArray[Any] = array.astype(np.int64 if kind == "i" else np.float32)
    _require(kind == "i" or bool(np.isfinite(wide).all()), f"{name} is not finite")
    return wide


def _within(array: NDArray[Any], low: int, high: int) -> bool:
    return bool(((array >= low) & (array < high)).all())


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)
