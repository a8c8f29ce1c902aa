"""The contract that every backend implements: encode, map, and one ragged decoder step.

The decoder's state is a fixed set of cache *slots*, each with room for `capacity` tokens. A slot
holds no length and never moves by itself: with every step the caller passes the number of tokens
already in each slot. So a rejected draft is dropped by passing a smaller length, and a slot is
freed by no longer using it.

A backend may also begin steps without waiting for them: see `runtime.pipelined`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "DEFAULT_SLOTS",
    "PREFILL_TOKENS",
    "UNDECIDED",
    "Array",
    "DeviceArray",
    "Runtime",
    "Sampling",
    "StepBatch",
    "StepResult",
    "StepRow",
    "fitting_slots",
    "join_arrays",
    "mean_array",
    "stack_arrays",
    "wait_for",
]

#: Captions decoded at once, unless more is known about a device.
DEFAULT_SLOTS = 32
#: Slots that a large GPU is given: a step of 256 rows takes little longer than one of 128.
_MAX_DEFAULT_SLOTS = 256
#: Prompt tokens per step, unless more is known about a device.
PREFILL_TOKENS = 2048

#: In `StepResult.sampled_ids` instead of an id: the caller must draw the token from the logits.
UNDECIDED = -1


class DeviceArray(Protocol):
    """An array that a backend keeps on its device, and need not have computed yet.

    `np.asarray` waits for it and copies it to the host. Everything else only passes it on.
    """

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def ndim(self) -> int: ...

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[DeviceArray]: ...

    def __getitem__(self, index: int) -> DeviceArray:
        """One row, without its first dimension."""

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[np.float32]: ...

    def join(self, parts: Sequence[Array]) -> DeviceArray:
        """`parts` one after another along the first dimension, on this array's device."""

    def stack(self, rows: Sequence[Array]) -> DeviceArray:
        """`rows`, which have one shape, as one array, on this array's device."""

    def mean(self) -> DeviceArray:
        """Over all dimensions but the last, in float32, on this array's device."""


#: What encoder and mapper give: an array, or a handle of one.
Array: TypeAlias = NDArray[np.float32] | DeviceArray


def fitting_slots(cache_bytes: float, slot_bytes: int) -> int:
    """As many slots as fill the products of a GPU, and fit into `cache_bytes` of its memory.

    A multiple of eight, but for fewer than those; at least one.
    """
    fitting = int(cache_bytes / slot_bytes)
    return max(1, min(fitting // 8 * 8 or fitting, _MAX_DEFAULT_SLOTS))


def join_arrays(parts: Sequence[Array]) -> Array:
    """Arrays along their first dimension; on a device, if one of them is there."""
    if (held := _held_on_device(parts)) is not None:
        return held.join(parts)
    return np.concatenate([np.asarray(part) for part in parts])


def stack_arrays(rows: Sequence[Array]) -> Array:
    """Arrays of one shape as one array; on a device, if one of them is there."""
    if (held := _held_on_device(rows)) is not None:
        return held.stack(rows)
    return np.stack([np.asarray(row) for row in rows])


def mean_array(array: Array) -> Array:
    """The mean over all dimensions but the last, (…, E) -> (E,); on a device, if it is there."""
    if not isinstance(array, np.ndarray):
        return array.mean()
    mean: NDArray[np.float32] = array.mean(axis=tuple(range(array.ndim - 1)))
    return mean


def wait_for(array: Array) -> None:
    """Wait until `array` is computed; of one on a device, its last row is copied to the host."""
    if not isinstance(array, np.ndarray):
        np.asarray(array[len(array) - 1])


def _held_on_device(arrays: Sequence[Array]) -> DeviceArray | None:
    return next((array for array in arrays if not isinstance(array, np.ndarray)), None)


class StepRow(NamedTuple):
    """What one row brings to a decoder step."""

    token_ids: Sequence[int]  # after the visual tokens, if it brings some
    past_length: int = 0  # tokens already in its slot
    visual_tokens: Array | None = None  # (P, W)
    num_choices: int = 1  # next tokens to choose: after each of the row's last `num_choices` tokens
    before_ids: Sequence[int] = ()  # before the visual tokens
    between_ids: Sequence[Sequence[int]] = ()  # between equal parts of the visual tokens


@dataclass(frozen=True)
class Sampling:
    """What the next tokens of a step are drawn with, each (L,); see `generation.sampling`."""

    uniforms: NDArray[np.float64]  # in [0, 1)
    temperatures: NDArray[np.float64]  # 0: greedy
    top_ps: NDArray[np.float64]


@dataclass(frozen=True)
class StepBatch:
    """One ragged decoder call over the slots 0..B-1, in slot order.

    Prefill, decode and draft verification are the same call: they differ only in how many tokens a
    row brings. Rows are packed one after another without padding. A row may bring no token (its
    slot is idle), but attention still visits it, so active slots should be the first ones
    (`Runtime.move_slot`).
    """

    token_ids: NDArray[np.int64]  # (T,) packed; the id at a visual token's index is ignored
    query_lengths: NDArray[np.int32]  # (B,) tokens of each row in this call; sum is T >= 1
    past_lengths: NDArray[np.int32]  # (B,) tokens already in each row's slot
    visual_tokens: Array  # (V, W) inserted visual tokens; V may be 0
    visual_index: NDArray[np.int64]  # (V,) their indices among the packed tokens
    logit_index: NDArray[np.int64]  # (L,) packed tokens whose next token is asked for; L >= 1
    sampling: Sampling | None = None  # None: greedy, or drawn from the logits by the caller

    def __post_init__(self) -> None:
        tokens, rows = len(self.token_ids), len(self.query_lengths)
        assert tokens == int(self.query_lengths.sum()) >= 1
        assert int(self.query_lengths.min()) >= 0
        assert self.past_lengths.shape == (rows,)
        assert self.visual_tokens.ndim == 2
        assert len(self.visual_tokens) == len(self.visual_index)
        assert len(self.logit_index) >= 1

    @classmethod
    def from_rows(
        cls, rows: Iterable[StepRow], token_width: int, sampling: Sampling | None = None
    ) -> StepBatch:
        """Pack `rows`, the first for slot 0. token_width: W, width of a visual token."""
        ids: list[int] = []
        query_lengths: list[int] = []
        past_lengths: list[int] = []
        visual: list[Array] = []
        visual_index: list[int] = []
        logit_index: list[int] = []
        for token_ids, past_length, visual_tokens, num_choices, before_ids, between_ids in rows:
            start = len(ids)
            ids += before_ids
            if visual_tokens is not None:
                visual.append(visual_tokens)
                part = len(visual_tokens) // (len(between_ids) + 1)
                for piece in ((), *between_ids):
                    ids += piece
                    visual_index += range(len(ids), len(ids) + part)
                    ids += [0] * part
            ids += token_ids
            query_lengths.append(len(ids) - start)
            past_lengths.append(past_length)
            logit_index += range(len(ids) - num_choices, len(ids))
        return cls(
            token_ids=np.array(ids, np.int64),
            query_lengths=np.array(query_lengths, np.int32),
            past_lengths=np.array(past_lengths, np.int32),
            visual_tokens=join_arrays(visual) if visual else _no_visual_tokens(token_width),
            visual_index=np.array(visual_index, np.int64),
            logit_index=np.array(logit_index, np.int64),
            sampling=sampling,
        )

    @classmethod
    def of_tokens(
        cls,
        token_ids: Sequence[int] | NDArray[np.integer],
        past_lengths: Sequence[int] | NDArray[np.integer],
        token_width: int,
        sampling: Sampling | None = None,
    ) -> StepBatch:
        """One token for each row, and one choice after it: the most frequent step, made quickly.

        token_ids, past_lengths: (B,). token_width: W, width of a visual token.
        """
        rows = len(token_ids)
        return cls(
            token_ids=np.array(token_ids, np.int64),
            query_lengths=np.ones(rows, np.int32),
            past_lengths=np.array(past_lengths, np.int32),
            visual_tokens=_no_visual_tokens(token_width),
            visual_index=np.zeros(0, np.int64),
            logit_index=np.arange(rows, dtype=np.int64),
            sampling=sampling,
        )


def _no_visual_tokens(token_width: int) -> NDArray[np.float32]:
    return np.zeros((0, token_width), np.float32)


@dataclass(frozen=True)
class StepResult:
    """The next token after each packed token of `StepBatch.logit_index`."""

    greedy_ids: NDArray[np.int64]  # (L,) most likely next token; in a tie the lowest id
    #: (L, vocab) if asked for, unless all tokens were drawn by the backend.
    logits: NDArray[np.float32] | None = field(default=None)
    #: (L,) drawn as `StepBatch.sampling` says, or `UNDECIDED`; None: not drawn.
    sampled_ids: NDArray[np.int64] | None = field(default=None)


class Runtime(Protocol):
    """A bundle or checkpoint opened on one device. For one thread at a time.

    Where it matters which thread that is, there is a method `use_here`: another thread calls it
    first.
    """

    @property
    def num_slots(self) -> int:
        """Number of cache slots, which is the maximum number of rows of a step."""

    @property
    def capacity(self) -> int:
        """Maximum number of tokens in a slot."""

    @property
    def max_chunk(self) -> int:
        """Maximum tokens of one row in one step; at least the longest prompt."""

    @property
    def prefill_tokens(self) -> int:
        """Prompt tokens per step beyond which a larger step is not faster per token."""

    @property
    def token_width(self) -> int:
        """Width W of a visual token."""

    @property
    def device(self) -> str:
        """The device it actually runs on, as `--device` names it: `cpu`, `cuda:0`."""

    def encode(self, pixels: NDArray[np.uint8]) -> Array:
        """Pixels (N, H, W, 3) to embeddings (N, E), or (N, patches, E); N >= 1."""

    def map(self, embeddings: Array) -> Array:
        """Embeddings, as `encode` gives them, to visual tokens (N, P, W); N >= 1."""

    def step(self, batch: StepBatch, want_logits: bool = False) -> StepResult:
        """Run the decoder over `batch`, writing keys and values of its tokens into the slots.

        A backend that draws tokens itself gives `sampled_ids` where `batch.sampling` says how, and
        then logits only if it left some to the caller; the others give the logits.

        Row b's tokens are stored from position `past_lengths[b]` of slot b on and attend to the
        tokens before them in that slot. The result owns its arrays.
        """

    def move_slot(self, src: int, dst: int, length: int) -> None:
        """Copy the first `length` tokens of slot `src` over slot `dst`.

        Keeps the active slots the first ones after a sequence has finished.
        """

    def close(self) -> None:
        """Free the sessions and the cache; calling it again does nothing."""

    def __enter__(self) -> Runtime: ...

    def __exit__(self, *_: object) -> None: ...
