"""What the host gets of a call besides its greedy ids: logits, or tokens drawn from them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from altogether_rt.runtime.base import UNDECIDED, Sampling, StepResult
from altogether_rt.runtime.cuda.api import Cuda, HostBuffer
from altogether_rt.runtime.cuda.sampling.candidates import Candidates
from altogether_rt.runtime.cuda.sampling.draw import draw

__all__ = ["LogitReader", "joined_results", "part_of"]


class LogitReader:
    """Reads the logits that a call left in device memory, before the next call overwrites them."""

    def __init__(self, cuda: Cuda, logits: int, vocab_size: int, stream: int) -> None:
        """logits: their address."""
        self._cuda, self._logits, self._stream = cuda, logits, stream
        self._vocab_size = vocab_size
        self._host: HostBuffer | None = None
        self.candidates: Candidates | None = None  # None: the caller draws

    @property
    def nbytes(self) -> int:
        """Pinned memory for logits: as many as were asked for, since all would be gigabytes."""
        return 0 if self._host is None else self._host.nbytes

    def result(
        self, greedy_ids: NDArray[np.int64], want_logits: bool, sampling: Sampling | None
    ) -> StepResult:
        """Of a call that chose `greedy_ids` (L,). With `sampling`, logits are wanted for drawing:
        then they come only of tokens that are undecided, and other rows are zero."""
        count = len(greedy_ids)
        if not want_logits:
            return StepResult(greedy_ids)
        if not count:  # rows that ask for nothing
            nothing = np.zeros((0, self._vocab_size), np.float32)
            return StepResult(greedy_ids, nothing, None if sampling is None else greedy_ids)
        if sampling is None or self.candidates is None:
            return StepResult(greedy_ids, self._read(count))
        temperatures = np.where(sampling.temperatures > 0, sampling.temperatures, 1.0)
        found = self.candidates.find(temperatures)
        sampled = draw(found, sampling, greedy_ids, self._vocab_size)
        undecided = np.flatnonzero(sampled == UNDECIDED)
        if not len(undecided):
            return StepResult(greedy_ids, None, sampled)
        logits = np.zeros((count, self._vocab_size), np.float32)
        logits[undecided] = self._read(count)[undecided]
        return StepResult(greedy_ids, logits, sampled)

    def release_candidates(self) -> None:
        """From now on the caller draws."""
        if self.candidates is not None:
            self._cuda.synchronize(self._stream)
            self.candidates.close()
            self.candidates = None

    def close(self) -> None:
        """Free memory; the stream must be idle."""
        self.release_candidates()
        if self._host is not None:
            self._cuda.host_free(self._host)

    def _read(self, count: int) -> NDArray[np.float32]:
        nbytes = 4 * count * self._vocab_size
        if self._host is not None and self._host.nbytes < nbytes:
            self._cuda.host_free(self._host)  # idle: its last copy was waited for
            self._host = None
        if self._host is None:
            self._host = self._cuda.host_alloc(nbytes)
        self._cuda.download(self._host, 0, self._logits, nbytes, self._stream)
        self._cuda.synchronize(self._stream)
        logits = self._host.array[:nbytes].view(np.float32)
        return logits.reshape(count, self._vocab_size).copy()


def part_of(sampling: Sampling | None, index: NDArray[np.intp] | slice) -> Sampling | None:
    """What some of a step's choices are drawn with."""
    if sampling is None:
        return None
    return Sampling(sampling.uniforms[index], sampling.temperatures[index], sampling.top_ps[index])


def joined_results(results: Sequence[StepResult], choices: NDArray[np.intp]) -> StepResult:
    """Results of a step's calls one after another. choices: which of the step's choices they are,
    in any order and without gaps."""
    if len(results) == 1:
        return results[0]
    order = np.argsort(choices)
    ids = np.concatenate([result.greedy_ids for result in results])[order]
    drawn = [result.sampled_ids for result in results if result.sampled_ids is not None]
    sampled = np.concatenate(drawn)[order] if len(drawn) == len(results) else None
    found = [result.logits for result in results if result.logits is not None]
    if not found:
        return StepResult(ids, None, sampled)
    logits = np.concatenate(
        [
            np.zeros((len(result.greedy_ids), found[0].shape[1]), np.float32)
            if result.logits is None
            else result.logits
            for result in results
        ]
    )
    return StepResult(ids, logits[order], sampled)
