"""One captioner, and several that use it: streams side by side, threads, forks, other processes."""

from __future__ import annotations

import copy
import gc
import json
import pickle
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from altogether_rt import Captioner
from altogether_rt.artifacts.bundle import find_bundle
from altogether_rt.captions import Caption
from altogether_rt.errors import AltogetherError
from altogether_rt.runtime.base import StepBatch, StepResult
from tests.generation import side_by_side
from tests.generation.fake_runtime import FakeRuntime
from tests.generation.pipelined_runtime import PipelinedFakeRuntime
from tests.made_captioner import made_captioner, made_images

pytestmark = pytest.mark.lean

RUNTIMES: list[Callable[[], FakeRuntime]] = [
    lambda: FakeRuntime(3, capacity=400),
    lambda: PipelinedFakeRuntime(3, capacity=400),
    lambda: PipelinedFakeRuntime(3, capacity=400, undecided=0.3),
]


class WatchedRuntime(FakeRuntime):
    """Fails if two threads are in it, and runs `in_step` in the middle of each step."""

    def __init__(self, num_slots: int) -> None:
        super().__init__(num_slots, capacity=400)
        self.in_step: Callable[[], object] = lambda: threading.Event().wait(0.001)
        self._inside = threading.Lock()

    def encode(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        with self._alone():
            return super().encode(pixels)

    def step(self, batch: StepBatch, want_logits: bool = False) -> StepResult:
        with self._alone():
            self.in_step()
            return super().step(batch, want_logits)

    def _alone(self) -> threading.Lock:
        assert not self._inside.locked(), "two threads compute at once"
        return self._inside


@pytest.mark.parametrize("temperature", [0.0, 0.9])
@pytest.mark.parametrize("make_runtime", RUNTIMES)
def test_streams_side_by_side_write_what_each_writes_alone(
    make_runtime: Callable[[], FakeRuntime], temperature: float
) -> None:
    """They share the slots of one runtime: whoever comes back finds them overwritten."""
    images = made_images(21)
    shared = made_captioner(runtime=make_runtime())
    params = shared.params(temperature=temperature, max_new_tokens=20)
    parts = [images[:9], images[9:18], images[18:]]
    alone = [made_captioner(runtime=make_runtime()).caption(part, None, params) for part in parts]
    streams = [shared.iter_captions(part, None, params) for part in parts]
    together: list[list[Caption]] = [[] for _ in parts]
    rng = np.random.default_rng(5)
    open_streams = [0, 1, 2]
    while open_streams:
        index = int(rng.choice(open_streams))
        caption = next(streams[index], None)
        if caption is None:
            open_streams.remove(index)
        else:
            together[index].append(caption)
    assert together == alone


@pytest.mark.parametrize("start", range(0, 60, 20))
def test_streams_of_all_kinds_side_by_side(start: int) -> None:
    for seed in range(start, start + 20):
        side_by_side.check(seed)


def test_a_caption_within_a_stream_changes_neither() -> None:
    images = made_images(12)
    expected = made_captioner(4).caption(images)
    captioner = made_captioner(4)
    for index, caption in enumerate(captioner.iter_captions(images)):
        assert caption == expected[index]
        assert captioner.caption(images[11 - index]) == [expected[11 - index]]


def test_a_caption_while_images_are_drawn_changes_neither() -> None:
    images = made_images(12)
    expected = made_captioner(4).caption(images)
    captioner = made_captioner(4)
    within: list[Caption] = []

    def drawn() -> Iterator[NDArray[np.uint8]]:
        for image in images:
            within.extend(captioner.caption(image))
            yield image

    assert captioner.caption(drawn()) == expected == within


def test_threads_may_share_a_captioner() -> None:
    images = made_images(40)
    expected = made_captioner(4).caption(images)
    captioner = made_captioner(runtime=WatchedRuntime(4))
    parts = [slice(start, start + 10) for start in range(0, 40, 10)]
    found: dict[int, list[Caption]] = {}
    asking: list[Callable[[Any], Any]] = [captioner.caption, captioner.iter_captions] * 2

    def run(index: int) -> None:
        found[index] = list(asking[index](images[parts[index]]))

    threads = [threading.Thread(target=run, args=(index,), daemon=True) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert found == {index: expected[parts[index]] for index in range(4)}


def test_a_runtime_is_told_of_each_thread_that_comes_to_use_it() -> None:
    """A GPU is current for a thread; in another one, calls would go to the first GPU."""
    told: list[int] = []

    class OfAThread(WatchedRuntime):
        def use_here(self) -> None:
            told.append(threading.get_ident())

    captioner = made_captioner(runtime=OfAThread(2))
    image, idents = made_images(1)[0], []

    def run(act: Callable[[], object]) -> None:
        idents.append(threading.get_ident())
        act()

    for act in (lambda: captioner.caption(image), captioner.close):
        captioner.caption(image)
        thread = threading.Thread(target=run, args=(act,))
        thread.start()
        thread.join(60)
    here = threading.get_ident()
    assert told == [idents[0], here, idents[1]]


def test_images_may_wait_for_another_thread_that_captions() -> None:
    """Images are drawn outside of a turn; within it both threads would wait for ever."""
    images = made_images(2)
    captioner = made_captioner(2)
    other: list[Caption] = []

    def drawn() -> Iterator[NDArray[np.uint8]]:
        helper = threading.Thread(target=lambda: other.extend(captioner.caption(images[1])))
        helper.daemon = True
        helper.start()
        helper.join(30)
        assert not helper.is_alive(), "the other thread waits for this one"
        yield images[0]

    assert captioner.caption(drawn()) + other == made_captioner(2).caption(images)


def test_a_stream_that_was_left_unfinished_is_in_nobodys_way() -> None:
    images = made_images(9)
    expected = made_captioner(2).caption(images)
    captioner = made_captioner(2)
    left = captioner.iter_captions(images)
    assert next(left) == expected[0]
    assert captioner.caption(images) == expected
    left.close()
    assert captioner.caption(images) == expected


def test_a_captioner_that_is_dropped_is_freed_at_once() -> None:
    """Not whenever the collector of cycles comes by: it may have gigabytes."""
    captioner = made_captioner(2)
    images = made_images(9)
    captioner.caption(images)
    left = captioner.iter_captions(images)
    next(left)
    runtime = weakref.ref(captioner.runtime)
    gc.disable()
    try:
        del captioner
        assert runtime() is not None, "the stream goes on"
        assert len(list(left)) == 8
        del left
        assert runtime() is None
    finally:
        gc.enable()


def test_closing_ends_the_streams_of_a_captioner() -> None:
    captioner = made_captioner(2)
    stream = captioner.iter_captions(made_images(9))
    next(stream)
    captioner.close()
    with pytest.raises(AltogetherError, match="this captioner is closed"):
        next(stream)

    captioner = made_captioner(2)

    def drawn() -> Iterator[NDArray[np.uint8]]:
        yield from made_images(5)
        captioner.close()
        yield from made_images(5)

    with pytest.raises(AltogetherError, match="this captioner is closed"):
        captioner.caption(drawn())


def test_a_signal_handler_may_close_a_captioner_in_the_middle_of_a_step() -> None:
    """It runs in the thread that computes: waiting for the end of the step would last for ever."""
    runtime = WatchedRuntime(2)
    captioner = made_captioner(runtime=runtime)
    runtime.in_step = captioner.close
    stream = captioner.iter_captions(made_images(9))
    next(stream)
    assert runtime.slots == [], "freed at the end of the turn"
    with pytest.raises(AltogetherError, match="this captioner is closed"):
        next(stream)


def test_a_signal_handler_that_captions_is_told_that_it_cannot() -> None:
    runtime = WatchedRuntime(2)
    captioner = made_captioner(runtime=runtime)
    runtime.in_step = lambda: captioner.caption(made_images(1))
    with pytest.raises(AltogetherError, match="outside of signal handlers"):
        captioner.caption(made_images(1))
    runtime.in_step = lambda: None
    assert captioner.caption(made_images(1)) == made_captioner(2).caption(made_images(1))


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
def test_a_captioner_is_usable_after_an_interrupted_step(error: type[BaseException]) -> None:
    runtime = WatchedRuntime(2)
    captioner = made_captioner(runtime=runtime)
    images = made_images(9)
    expected = captioner.caption(images)

    def interrupted() -> None:
        runtime.in_step = lambda: None
        raise error

    stream = captioner.iter_captions(images)
    next(stream)
    runtime.in_step = interrupted
    with pytest.raises(error):
        list(stream)
    assert list(stream) == [], "a generator that has raised is at its end"
    other = threading.Thread(target=lambda: captioner.caption(images), daemon=True)
    other.start()
    other.join(30)
    assert not other.is_alive(), "the turn was not given up"
    assert captioner.caption(images) == expected


FORKED = """
import json, os, sys
from altogether_rt import AltogetherError, Captioner
import numpy as np

image = np.zeros((9, 9, 3), np.uint8)
captioner = Captioner.load("starter", threads=2)
captioner.caption(image)
read, write = os.pipe()
if os.fork() == 0:
    said = []
    for ask in (captioner.caption, captioner.iter_captions):
        try:
            ask(image)
        except AltogetherError as error:
            said.append(str(error))
    os.write(write, json.dumps(said).encode())
    sys.exit()  # frees what was opened, if it may
os.close(write)
sys.stdout.write(open(read).read())
sys.stdout.flush()
captioner.caption(image)
captioner.close()
"""


def test_a_fork_is_told_to_open_its_own() -> None:
    """The threads of its kernels are not in the fork: a step there would wait for them, and so
    would the end of the fork."""
    done = subprocess.run(
        [sys.executable, "-c", FORKED], capture_output=True, text=True, check=True, timeout=120
    )
    said = json.loads(done.stdout)
    assert len(said) == 2
    assert all("opened before the process was forked" in each for each in said)


DAEMON = """
import atexit, threading
atexit.register(lambda: captioner.close())  # the last to be called
from altogether_rt import Captioner
import numpy as np

images = [np.full((9, 9, 3), shade, np.uint8) for shade in range(200)]
captioner = Captioner.load("starter", threads=2, num_slots=4)
computing = threading.Event()

def compute():
    while True:
        captioner.caption(images[:4])
        computing.set()
        captioner.caption(images)

threading.Thread(target=compute, daemon=True).start()
computing.wait()
"""


def test_a_process_ends_while_a_daemon_thread_captions() -> None:
    """Python ends such a thread within a kernel's return, and C++ calls that a crash (134)."""
    done = subprocess.run([sys.executable, "-c", DAEMON], capture_output=True, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


@pytest.fixture(scope="module")
def starter() -> Iterator[Captioner]:
    with Captioner.load("starter", num_slots=3, threads=1, speculation="off") as captioner:
        yield captioner


@pytest.mark.parametrize(
    "send", [lambda c: pickle.loads(pickle.dumps(c)), copy.copy, copy.deepcopy]
)
def test_a_captioner_that_was_sent_is_opened_again(
    starter: Captioner, send: Callable[[Captioner], Captioner]
) -> None:
    image = made_images(1)[0]
    with send(starter) as sent:
        assert sent.runtime is not starter.runtime
        assert sent.runtime.num_slots == 3
        assert sent.bundle_id == starter.bundle_id
        assert sent.caption(image) == starter.caption(image)
    assert starter.caption(image), "still open"


def test_a_pickled_captioner_is_the_same_bundle_or_refused() -> None:
    with Captioner.load(find_bundle("starter"), threads=1) as captioner:
        sent = pickle.dumps(captioner)
    assert len(sent) < 20_000, "no weights"
    pickle.loads(sent).close()
    changed = sent.replace(captioner.bundle_id.encode(), b"0123456789ab")
    assert changed != sent
    with pytest.raises(AltogetherError, match="give both the same bundle"):
        pickle.loads(changed)
    with pytest.raises(TypeError, match="cannot be pickled"):
        pickle.dumps(made_captioner())


def test_what_a_captioner_says_of_itself(starter: Captioner) -> None:
    assert repr(starter) == f"<Captioner starter, {starter.bundle_id}, on cpu>"
    captioner = made_captioner()
    captioner.close()
    assert repr(captioner) == "<Captioner fake, fake-id, closed>"
