"""Images that are submitted one at a time, and captioned together."""

from __future__ import annotations

import asyncio
import gc
import random
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from altogether_rt import Captioner, ImageError
from altogether_rt.captions import Caption, CaptionParams, CaptionRequest
from altogether_rt.errors import AltogetherError, ConfigError
from altogether_rt.runtime.base import StepBatch, StepResult
from tests.generation.fake_runtime import FakeRuntime
from tests.generation.pipelined_runtime import PipelinedFakeRuntime
from tests.made_captioner import made_captioner, made_images

pytestmark = pytest.mark.lean

#: Until a test gives up: nothing is expected to take as long.
LIMIT_S = 60
IMAGES = made_images(40)
RUNTIMES: list[Callable[[], FakeRuntime]] = [
    lambda: FakeRuntime(3, capacity=400),
    lambda: PipelinedFakeRuntime(3, capacity=400),
    lambda: PipelinedFakeRuntime(3, capacity=400, undecided=0.3),
]


class HeldRuntime(FakeRuntime):
    """Stands still in each step until it is `released`; notes how many rows steps have."""

    def __init__(self, num_slots: int = 4) -> None:
        super().__init__(num_slots, capacity=400)
        self.entered, self.released = threading.Event(), threading.Event()
        self.rows: list[int] = []
        self.error: BaseException | None = None

    def step(self, batch: StepBatch, want_logits: bool = False) -> StepResult:
        self.entered.set()
        assert self.released.wait(LIMIT_S)
        self.rows.append(len(batch.query_lengths))
        if self.error is not None:
            error, self.error = self.error, None
            raise error
        return super().step(batch, want_logits)


def results(futures: list[Future[Caption]]) -> list[Caption]:
    return [future.result(LIMIT_S) for future in futures]


def mixed_params(captioner: Captioner) -> list[CaptionParams | None]:
    rng = random.Random(4)
    return [
        rng.choice(
            [
                None,
                captioner.params(max_new_tokens=rng.randint(1, 30)),
                captioner.params(temperature=0.9, top_p=0.8, seed=rng.randint(0, 9)),
                captioner.params(style="alt"),
            ]
        )
        for _ in IMAGES
    ]


@pytest.mark.parametrize("make_runtime", RUNTIMES)
def test_each_caption_is_the_one_it_would_be_alone(make_runtime: Callable[[], FakeRuntime]) -> None:
    """Whatever the parameters of the others are, greedy or sampled, long or short."""
    captioner = made_captioner(runtime=make_runtime())
    params = mixed_params(captioner)
    alts = [str(index) if index % 3 else None for index in range(len(IMAGES))]
    with ThreadPoolExecutor(8) as clients:
        found = list(
            clients.map(
                lambda *asked: captioner.submit(*asked).result(LIMIT_S), IMAGES, alts, params
            )
        )
    alone = made_captioner(runtime=make_runtime())
    for index, caption in enumerate(found):
        assert [caption] == alone.caption([IMAGES[index]], [alts[index]], params[index])


def test_requests_of_a_stream_may_bring_their_own_parameters() -> None:
    captioner = made_captioner(3)
    own = mixed_params(captioner)
    default = captioner.params(max_new_tokens=7)
    requests = [
        CaptionRequest(image, (str(index),), params=params)
        for index, (image, params) in enumerate(zip(IMAGES, own, strict=True))
    ]
    alone = made_captioner(1)
    for index, caption in enumerate(captioner.stream(requests, default)):
        expected = alone.caption(IMAGES[index], str(index), own[index] or default)
        assert [caption] == expected


def test_parameters_of_a_request_that_do_not_fit_are_refused() -> None:
    captioner = made_captioner(3)
    too_long = CaptionParams(captioner.config.max_caption_tokens + 1, 0.0, 1.0)
    with pytest.raises(AltogetherError, match="this captioner has room for"):
        list(captioner.stream([CaptionRequest(IMAGES[0], params=too_long)]))
    asking = CaptionParams(3, 0.0, 1.0, prompt="Say it.")
    with pytest.raises(AltogetherError, match="follows no instructions"):
        list(captioner.stream([CaptionRequest(IMAGES[0], params=asking)]))
    assert captioner.caption(IMAGES[0]) == made_captioner(1).caption(IMAGES[0])


def test_what_is_submitted_meanwhile_is_captioned_together() -> None:
    runtime = HeldRuntime(4)
    captioner = made_captioner(runtime=runtime)
    first = captioner.submit(IMAGES[0])
    assert runtime.entered.wait(LIMIT_S)
    others = [captioner.submit(image) for image in IMAGES[1:4]]
    while captioner._submissions._num_unread:  # they are ready before the step ends
        threading.Event().wait(0.001)
    runtime.released.set()
    assert results([first, *others]) == made_captioner(1).caption(IMAGES[:4])
    assert runtime.rows[:2] == [1, 4]


def test_a_caption_does_not_wait_for_one_that_is_longer() -> None:
    runtime = HeldRuntime(4)
    captioner = made_captioner(runtime=runtime)
    long = captioner.submit(IMAGES[0], None, captioner.params(max_new_tokens=100, loop_repeats=0))
    assert runtime.entered.wait(LIMIT_S)
    done: list[bool] = []
    short = captioner.submit(IMAGES[1], None, captioner.params(max_new_tokens=1))
    short.add_done_callback(lambda _: done.append(long.done()))
    while captioner._submissions._num_unread:
        threading.Event().wait(0.001)
    runtime.released.set()
    assert long.result(LIMIT_S).tokens > 3, "else nothing is tested"
    assert short.result(LIMIT_S).tokens == 1
    assert done == [False]


def test_images_are_read_two_batches_ahead_at_most() -> None:
    """However many are submitted, the pixels of few are in memory."""
    runtime = HeldRuntime(2)
    captioner = made_captioner(runtime=runtime)
    futures = [captioner.submit(image) for image in IMAGES]
    assert runtime.entered.wait(LIMIT_S)
    submissions = captioner._submissions
    most = 4 + len(submissions._reading._threads)  # each may have begun when there was room
    for _ in range(100):
        assert len(submissions._ready) <= most
        threading.Event().wait(0.001)
    runtime.released.set()
    assert results(futures) == made_captioner(2).caption(IMAGES)


def test_an_unreadable_image_is_its_callers_error_alone(tmp_path: Path) -> None:
    captioner = made_captioner(2)
    good, bad = captioner.submit(IMAGES[0]), captioner.submit(tmp_path / "missing.jpg", "a boat")
    also_good = captioner.submit(IMAGES[1])
    with pytest.raises(ImageError, match=r"missing\.jpg"):
        bad.result(LIMIT_S)
    assert results([good, also_good]) == made_captioner(2).caption(IMAGES[:2])


def test_what_cannot_be_captioned_is_refused_at_once() -> None:
    captioner = made_captioner(2)
    with pytest.raises(AltogetherError, match="a value of type int is not an image"):
        captioner.submit(3)  # type: ignore[arg-type]
    with pytest.raises(AltogetherError, match="one of the images is a list"):
        captioner.submit([IMAGES[0]])  # type: ignore[arg-type]
    with pytest.raises(AltogetherError, match="follows no instructions"):
        captioner.submit(IMAGES[0], None, CaptionParams(3, 0.0, 1.0, prompt="Say it."))
    with pytest.raises(ConfigError, match="seed"):
        captioner.submit(IMAGES[0], None, captioner.params(seed=-1))
    captioner.close()
    with pytest.raises(AltogetherError, match="this captioner is closed"):
        captioner.submit(IMAGES[0])


def test_a_failed_step_fails_what_was_in_it_and_nothing_else() -> None:
    runtime = HeldRuntime(2)
    runtime.error = MemoryError("no room")
    captioner = made_captioner(runtime=runtime)
    first = captioner.submit(IMAGES[0])
    assert runtime.entered.wait(LIMIT_S)
    others = [captioner.submit(image) for image in IMAGES[1:9]]
    runtime.released.set()
    with pytest.raises(MemoryError, match="no room"):
        first.result(LIMIT_S)
    assert results(others) == made_captioner(2).caption(IMAGES[1:9])
    assert captioner.submit(IMAGES[9]).result(LIMIT_S) == made_captioner(1).caption(IMAGES[9])[0]


def test_a_caption_that_was_cancelled_is_not_written() -> None:
    runtime = HeldRuntime(1)
    captioner = made_captioner(runtime=runtime)
    first = captioner.submit(IMAGES[0])
    assert runtime.entered.wait(LIMIT_S)
    second, third = captioner.submit(IMAGES[1]), captioner.submit(IMAGES[2])
    assert second.cancel()
    assert not first.cancel(), "it is being written"
    runtime.released.set()
    assert results([first, third]) == made_captioner(1).caption([IMAGES[0], IMAGES[2]])
    assert captioner.stats.num_first_tokens == 2


def test_closing_waits_for_what_was_submitted() -> None:
    with made_captioner(2) as captioner:
        futures = [captioner.submit(image) for image in IMAGES]
    assert all(future.done() for future in futures)
    assert results(futures) == made_captioner(2).caption(IMAGES)


def test_an_error_drops_what_waits() -> None:
    runtime = HeldRuntime(2)
    captioner = made_captioner(runtime=runtime)
    futures: list[Future[Caption]] = []

    def release() -> None:
        while not captioner._submissions._dropping:
            threading.Event().wait(0.001)
        runtime.released.set()

    def fail() -> None:
        with captioner:
            futures.extend(captioner.submit(image) for image in IMAGES)
            assert runtime.entered.wait(LIMIT_S)
            threading.Thread(target=release, daemon=True).start()
            raise KeyError("another")

    with pytest.raises(KeyError, match="another"):
        fail()
    assert all(future.done() for future in futures)
    written = [future for future in futures if not future.cancelled()]
    assert 1 <= len(written) <= 4, "those in a slot, and those that were encoded with them"
    with pytest.raises(CancelledError):
        futures[-1].result()


@pytest.mark.parametrize("in_callback", ["close", "submit", "caption"])
def test_a_callback_may_use_the_captioner(in_callback: str) -> None:
    captioner = made_captioner(2)
    within: list[object] = []

    def called(_: Future[Caption]) -> None:
        if in_callback == "close":
            captioner.close()
        elif in_callback == "submit":
            within.append(captioner.submit(IMAGES[1]))
        else:
            within.extend(captioner.caption(IMAGES[1]))

    future = captioner.submit(IMAGES[0])
    future.add_done_callback(called)
    (expected,) = made_captioner(2).caption(IMAGES[0])
    assert future.result(LIMIT_S) == expected
    captioner.close()
    (also,) = made_captioner(2).caption(IMAGES[1])
    if in_callback != "close":
        (found,) = within
        assert (found.result(LIMIT_S) if isinstance(found, Future) else found) == also


def test_a_signal_handler_may_close_a_captioner_whose_thread_computes() -> None:
    """What is submitted waits for the turn of the very thread that the handler interrupts."""

    class Closing(FakeRuntime):
        def step(self, batch: StepBatch, want_logits: bool = False) -> StepResult:
            if threading.current_thread() is threading.main_thread() and not futures:
                futures.append(captioner.submit(IMAGES[1]))
                captioner.close()
            return super().step(batch, want_logits)

    futures: list[Future[Caption]] = []
    captioner = made_captioner(runtime=Closing(2, capacity=400))
    stream = captioner.iter_captions(IMAGES[:1])
    next(stream)
    with pytest.raises(AltogetherError, match="closed"):
        futures[0].result(LIMIT_S)


def test_callers_of_all_kinds_share_a_captioner() -> None:
    captioner = made_captioner(3)
    expected = made_captioner(3).caption(IMAGES)
    found: dict[str, list[Caption]] = {}
    asking: dict[str, Callable[[], list[Caption]]] = {
        "submit": lambda: results([captioner.submit(image) for image in IMAGES]),
        "caption": lambda: [captioner.caption(image)[0] for image in IMAGES],
        "iter_captions": lambda: list(captioner.iter_captions(IMAGES)),
    }
    threads = [
        threading.Thread(target=lambda n=name, a=ask: found.update({n: a()}), daemon=True)
        for name, ask in asking.items()
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LIMIT_S)
    assert found == dict.fromkeys(asking, expected)


def test_in_asyncio() -> None:
    captioner = made_captioner(4)

    async def ask() -> list[Caption]:
        futures = (captioner.submit(image) for image in IMAGES)
        return await asyncio.gather(*(asyncio.wrap_future(future) for future in futures))

    assert asyncio.run(ask()) == made_captioner(4).caption(IMAGES)


def test_a_captioner_that_is_dropped_when_all_is_written_is_freed() -> None:
    captioner = made_captioner(2)
    runtime = weakref.ref(captioner.runtime)
    captioner.submit(IMAGES[0]).result(LIMIT_S)
    while captioner._submissions._is_writing:
        threading.Event().wait(0.001)
    gc.disable()
    try:
        del captioner
        for _ in range(1000):  # the writer's thread lets go of its last work
            if runtime() is None:
                break
            threading.Event().wait(0.01)
        assert runtime() is None
    finally:
        gc.enable()


ENDING = """
from altogether_rt import Captioner
import numpy as np

captioner = Captioner.load("starter", threads=1, num_slots=2)
for shade in range(6):
    future = captioner.submit(np.full((9, 9, 3), shade, np.uint8))
    future.add_done_callback(lambda f: print(f.result().tokens > 0, flush=True))
"""

FORKED = """
import os
from altogether_rt import AltogetherError, Captioner
import numpy as np

image = np.zeros((9, 9, 3), np.uint8)
captioner = Captioner.load("starter", threads=1, num_slots=2)
captioner.submit(image).result()
if os.fork() == 0:
    try:
        captioner.submit(image)
    except AltogetherError as error:
        print(error, flush=True)
    captioner.close()
else:
    os.wait()
    captioner.submit(image).result()
    captioner.close()
"""


@pytest.mark.parametrize(("program", "lines", "said"), [(ENDING, 6, "True"), (FORKED, 1, "forked")])
def test_a_process_ends_when_all_is_written(program: str, lines: int, said: str) -> None:
    quiet = ("-W", "ignore::DeprecationWarning")  # Python 3.12 warns of forks beside threads
    command = [sys.executable, *quiet, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(done.stdout.splitlines()) == lines
    assert all(said in line for line in done.stdout.splitlines())


def test_its_pixels_are_those_of_caption() -> None:
    """Images of every kind that `caption` takes go the same way."""
    image = np.arange(300).astype(np.uint8).reshape(10, 10, 3)
    captioner = made_captioner(2)
    assert [captioner.submit(image, ["0", "1"]).result(LIMIT_S)] == captioner.caption(
        [image], [["0", "1"]]
    )
