"""What captions teach about the next ones, kept in a file: phrases, pictures, rates of success.

It is learnt from captions that were written, and read when a bundle is opened, so that its first
captions are guessed as well as its thousandth. It steers guesses only: with a bad file captions are
slower, and the same.
"""

from __future__ import annotations

import itertools
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from altogether_rt.config import CaptionerConfig
from altogether_rt.errors import BundleError
from altogether_rt.speculation.drafter import NUM_KINDS
from altogether_rt.speculation.planner import DraftPlanner, Guesser

__all__ = ["load_guesses", "new_planner", "save_guesses", "teach"]

#: Of the file's arrays; another one is learnt again.
_VERSION = 1

#: The largest file that is read, unpacked: it may come from anywhere.
_MAX_BYTES = 256 << 20

#: What NumPy and zipfile raise for files that are not what they say; MemoryError among them, as a
#: header may claim any size.
_UNREADABLE = (
    EOFError,
    KeyError,
    MemoryError,
    NotImplementedError,
    OSError,
    OverflowError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
    zipfile.BadZipFile,
    zlib.error,
)


def teach(
    planner: DraftPlanner,
    alt_ids: Sequence[int],
    ids: Sequence[int],
    embedding: NDArray[np.float32] | None = None,
) -> None:
    """Let a caption that was written, its EOS included, teach `planner`.

    The same as if an engine had written it with guesses. embedding: (E,), of the picture.
    """
    guesser, place = Guesser(planner, alt_ids, embedding), 0
    while place < len(ids):
        draft = guesser.propose(ids[:place])
        pairs = zip(draft.tokens, ids[place:], strict=False)
        right = sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))
        written = ids[place : place + right + 1]
        guesser.observe(draft, written)
        place += len(written)
    guesser.finish(ids)


def save_guesses(planner: DraftPlanner, path: Path) -> None:
    """Write what `planner` has learnt to `path`, a .npz file; what a step costs is not in it."""
    arrays = {
        **{f"phrases.{name}": array for name, array in planner.phrases.to_arrays().items()},
        **{f"pictures.{name}": array for name, array in planner.pictures.to_arrays().items()},
        **{f"acceptance.{name}": array for name, array in planner.acceptance.to_arrays().items()},
    }
    with path.open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, version=np.array(_VERSION), **arrays)


def new_planner(path: Path | None, config: CaptionerConfig) -> DraftPlanner:
    """A planner that knows what `path` holds, if that is a file of guesses for captioners like
    `config`, or nothing if it is None. Raises BundleError.
    """
    if path is None:
        return DraftPlanner()
    return load_guesses(path, config.decoder.vocab_size, config.encoder.embed_dim)


def load_guesses(path: Path, vocab_size: int, embed_dim: int) -> DraftPlanner:
    """A planner that knows what `save_guesses` wrote.

    vocab_size, embed_dim: of the captioner; nothing else may be in the file. Raises BundleError.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            if sum(member.file_size for member in archive.infolist()) > _MAX_BYTES:
                raise ValueError("it is too large")
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        if int(_array(arrays, "version", "i", 0)) != _VERSION:
            raise ValueError("another version of altogether-rt wrote it")
        return _planner(arrays, vocab_size, embed_dim)
    except _UNREADABLE as error:
        raise BundleError(
            f"{path} holds no guesses for this bundle ({error}): learn them again with "
            "altogether-rt learn."
        ) from error


def _planner(arrays: dict[str, NDArray[Any]], vocab_size: int, embed_dim: int) -> DraftPlanner:
    planner = DraftPlanner()
    ngrams = _array(arrays, "phrases.ngrams", "i", 2)
    num_followers = _array(arrays, "phrases.num_followers", "i", 1)
    followers = _array(arrays, "phrases.followers", "i", 2)  # token, times
    _require(ngrams.shape[1] == 3 and followers.shape[1] == 2, "its phrases have another shape")
    _require(_within(ngrams, -2, vocab_size), "its phrases hold unknown tokens")
    _require(len(num_followers) == len(ngrams), "its phrases and followers disagree in number")
    _require(_within(num_followers, 0, len(followers) + 1), "its followers are counted wrongly")
    _require(int(num_followers.sum()) == len(followers), "its followers are counted wrongly")
    _require(_within(followers[:, 0], 0, vocab_size), "its phrases hold unknown tokens")
    _require(_within(followers[:, 1], 1, 1 << 15), "its phrases are counted wrongly")
    planner.phrases.from_arrays(ngrams, num_followers, followers)

    tokens = _array(arrays, "pictures.tokens", "i", 1)
    counts = _array(arrays, "pictures.counts", "f", 1)
    means = _array(arrays, "pictures.means", "f", 2)
    moments = _array(arrays, "pictures.moments", "f", 2)  # mean, and mean of the squares
    num_pictures = int(_array(arrays, "pictures.num", "i", 0))
    _require(len(tokens) == len(counts) == len(means), "its pictures disagree in number")
    _require(_within(tokens, 0, vocab_size), "its pictures are of unknown tokens")
    _require(len(np.unique(tokens)) == len(tokens), "a token has two pictures")
    _require(bool((counts > 0).all()) and num_pictures >= 0, "its pictures are counted wrongly")
    _require(
        not num_pictures or (means.shape[1] == embed_dim and moments.shape == (2, embed_dim)),
        "its pictures are embedded otherwise",
    )
    planner.pictures.from_arrays(tokens, counts, means, moments, num_pictures)

    rates = _array(arrays, "acceptance.rates", "f", 2)  # times right, times seen
    _require(rates.shape == (2, NUM_KINDS), "its rates are of other kinds")
    _require(bool((rates[0] <= rates[1]).all() and (rates >= 0).all()), "its rates are no rates")
    planner.acceptance.from_arrays(rates)
    return planner


def _array(arrays: dict[str, NDArray[Any]], name: str, kind: str, ndim: int) -> NDArray[Any]:
    """The array, wide enough to compute with. Raises ValueError, KeyError."""
    array = arrays[name]
    _require(array.dtype.kind == kind and array.ndim == ndim, f"{name} is of another type")
    wide: NDArray[Any] = array.astype(np.int64 if kind == "i" else np.float32)
    _require(kind == "i" or bool(np.isfinite(wide).all()), f"{name} is not finite")
    return wide


def _within(array: NDArray[Any], low: int, high: int) -> bool:
    return bool(((array >= low) & (array < high)).all())


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)
