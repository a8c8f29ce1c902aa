"""What a run tells of itself: counts go in, observers (progress, log, metrics) are shown them.

A thread shows the state at each observer's interval, so a run that is slow, or hangs, is seen to be
alive or not. Whatever an observer fails at, the run goes on.
"""

from __future__ import annotations

import copy
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

from altogether_rt.errors import ImageError
from altogether_rt.monitoring.base import Level, Observer, Observers
from altogether_rt.monitoring.state import MAX_EXAMPLES, RunState

if TYPE_CHECKING:
    from altogether_rt.captions import Answer

__all__ = ["RunMonitor"]

_T = TypeVar("_T")


class RunMonitor:
    """Counts answers and shows them; a context manager. Any thread may call any method.

    A run calls `start`, then `answered` for each sample; or `add` with counts that another process
    has made. Entering it starts showing; leaving it shows the last state.
    """

    def __init__(
        self,
        unit: str,
        observers: Observers | None = None,
        *,
        total: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._state = RunState(unit, total)
        self._observers = observers or Observers()
        self._clock = clock
        self._begun_s = clock()
        self._lock = threading.Lock()  # of the state
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._due_s: dict[int, float] = {}  # by id of observer

    # What a run says

    def start(self, total: int | None) -> None:
        """The work begins now; total: how many samples there are to do, if it is known."""
        with self._lock:
            self._state.total = total
            self._begun_s = self._clock()

    def drawn(self, samples: Iterable[_T]) -> Iterator[_T]:
        """The same samples, counted as they are drawn: those without an answer are the queue."""
        for sample in samples:
            with self._lock:
                self._state.queue_depth += 1
            yield sample

    def answered(self, key: str, answer: Answer | None) -> None:
        """A sample has its answer: a caption, or the reason why there is none.

        None: it was read, and is not to be captioned.
        """
        is_first = False
        with self._lock:
            state = self._state
            state.done += 1
            state.queue_depth = max(0, state.queue_depth - 1)
            if isinstance(answer, ImageError):
                is_first = self._count_error(answer.kind, key, str(answer))
            elif answer is not None:
                state.captioned += 1
                state.tokens += answer.tokens
        if is_first and isinstance(answer, ImageError):
            self._tell_error(answer.kind, key, str(answer))

    def add(
        self,
        *,
        captioned: int = 0,
        tokens: int = 0,
        errors: Sequence[tuple[str, str, str]] = (),
    ) -> None:
        """Counts of another process, since its last ones. errors: class, key and sentence each."""
        first = []
        with self._lock:
            self._state.done += captioned + len(errors)
            self._state.captioned += captioned
            self._state.tokens += tokens
            first = [error for error in errors if self._count_error(*error)]
        for error in first:
            self._tell_error(*error)

    def advance(self, count: int = 1, note: str | None = None) -> None:
        """So many more are done, of work that gives no answers. note: shown until the next one."""
        with self._lock:
            self._state.done += count
            self._state.note = self._state.note if note is None else note

    def queue(self, depth: int) -> None:
        """How many samples wait, where the run itself knows it."""
        with self._lock:
            self._state.queue_depth = depth

    def restarted(self, sentence: str) -> None:
        """A worker died and was started again."""
        with self._lock:
            self._state.restarts += 1
        self.event("warning", "restart", sentence)

    def event(self, level: Level, name: str, message: str, **fields: Any) -> None:
        """Something that people or the log should be told."""
        self._observers.event(level, name, message, **fields)

    # What is shown

    @property
    def done(self) -> int:
        return self._state.done

    def state(self) -> RunState:
        """The state now, as a copy."""
        with self._lock:
            self._state.elapsed_s = self._clock() - self._begun_s
            return copy.deepcopy(self._state)

    def show(self) -> None:
        """Show the state to each observer whose time has come."""
        now = self._clock()
        for observer in self._observers:
            if observer.interval_s is not None and now >= self._due_s[id(observer)]:
                self._due_s[id(observer)] = now + observer.interval_s
                self._update(observer, self.state())

    def __enter__(self) -> Self:
        state = self.state()
        for observer in self._observers:
            self._due_s[id(observer)] = self._clock() + (observer.interval_s or 0.0)
            self._observers.call(observer, lambda seen: seen.start(state))
        intervals = [each.interval_s for each in self._observers if each.interval_s is not None]
        if intervals:
            self._thread = threading.Thread(
                target=self._run, args=(min(intervals),), name="monitor", daemon=True
            )
            self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        state = self.state()
        for observer in self._observers:
            self._observers.call(observer, lambda seen: seen.finish(state))

    def _run(self, interval_s: float) -> None:
        while not self._stop.wait(min(interval_s, 1.0)):
            self.show()

    def _update(self, observer: Observer, state: RunState) -> None:
        self._observers.call(observer, lambda seen: seen.update(state))

    def _count_error(self, kind: str, key: str, message: str) -> bool:
        """Whether it is one of the first of its class."""
        self._state.errors[kind] += 1
        examples = self._state.error_examples.setdefault(kind, [])
        if len(examples) == MAX_EXAMPLES:
            return False
        examples.append(message if key in message else f"{key}: {message}")
        return True

    def _tell_error(self, kind: str, key: str, message: str) -> None:
        self.event("warning", "image_error", message, key=key, **{"class": kind})
