"""Streams of one captioner side by side, at random: python -m tests.generation.side_by_side 10000

Streams of lists and of live sources, closed early or not, with captions asked for in between, over
runtimes that wait for steps and that begin them ahead: each caption is the one it would be alone.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Generator, Sequence
from typing import get_args

from altogether_rt.captions import Caption, CaptionParams, CaptionRequest
from altogether_rt.generation.requests import RequestSource
from altogether_rt.speculation.planner import Speculation
from tests.generation.fake_runtime import FakeRuntime
from tests.generation.pipelined_runtime import PipelinedFakeRuntime, WanderingRuntime
from tests.made_captioner import made_captioner, made_images

__all__ = ["check"]

IMAGES = made_images(30)
RUNTIMES: list[Callable[[int], FakeRuntime]] = [
    lambda slots: WanderingRuntime(slots, 400),
    lambda slots: PipelinedFakeRuntime(slots, 400),
    lambda slots: PipelinedFakeRuntime(slots, 400, undecided=0.4),
]
_alone: dict[tuple[CaptionParams, int], Caption] = {}


class Arriving(RequestSource):
    """None to two requests at a time."""

    def __init__(self, requests: Sequence[CaptionRequest], rng: random.Random) -> None:
        self._left, self._rng = list(requests), rng

    def take(self, max_requests: int, wait: bool) -> list[CaptionRequest] | None:
        if not self._left:
            return None
        count = self._rng.randint(0, min(max_requests, 2))
        taken, self._left = self._left[:count], self._left[count:]
        return taken


def alone(index: int, params: CaptionParams) -> Caption:
    """The caption of one image by a captioner that nobody else uses."""
    if (params, index) not in _alone:
        captioner = made_captioner(runtime=WanderingRuntime(1, 400))
        (caption,) = captioner.caption(IMAGES[index], str(index), params)
        _alone[params, index] = caption
    return _alone[params, index]


def check(seed: int) -> None:
    """One captioner and up to four streams; raises AssertionError for a wrong caption."""
    rng = random.Random(seed)
    captioner = made_captioner(runtime=rng.choice(RUNTIMES)(rng.choice([1, 2, 3, 5])))
    params = captioner.params(
        temperature=rng.choice([0.0, 0.8]),
        max_new_tokens=rng.choice([1, 3, 12]),
        loop_repeats=rng.choice([0, 2]),
    )

    def stream() -> tuple[list[int], Generator[Caption, None, None]]:
        indices = [rng.randrange(len(IMAGES)) for _ in range(rng.randint(0, 9))]
        requests = [CaptionRequest(IMAGES[index], (str(index),)) for index in indices]
        source = Arriving(requests, rng) if rng.random() < 0.4 else requests
        mode: Speculation = rng.choice(get_args(Speculation))
        return indices, captioner.stream(source, params, speculation=mode)

    streams = [stream() for _ in range(rng.randint(1, 4))]
    while streams:
        position = rng.randrange(len(streams))
        indices, captions = streams[position]
        if rng.random() < 0.03:
            captions.close()
            del streams[position]
            continue
        if rng.random() < 0.05:
            between = rng.randrange(len(IMAGES))
            (caption,) = captioner.caption(IMAGES[between], str(between), params)
            assert caption == alone(between, params), f"seed {seed}"
        found = next(captions, None)
        if found is None:
            assert not indices, f"seed {seed}: captions are missing"
            del streams[position]
        else:
            assert found == alone(indices.pop(0), params), f"seed {seed}"


if __name__ == "__main__":
    for each in range(int(sys.argv[1])):
        check(each)
    print(f"{sys.argv[1]} cases")
