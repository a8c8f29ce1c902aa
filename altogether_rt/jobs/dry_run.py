"""Everything but captioning: each image is read and decoded as it would be, and no row written."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from altogether_rt.captions import CaptionRequest
from altogether_rt.data.sources.base import Sample
from altogether_rt.errors import ImageError
from altogether_rt.jobs.plan import CaptionPlan, Task

__all__ = ["read_samples"]

_READ_AHEAD = 32

#: Called with a sample and the reason why it has no image, None if it has one; in their order.
OnSample = Callable[[Sample, ImageError | None], None]


class _NoPixels:
    """Stands in for a captioner's preprocessing: decoding is what may fail."""

    size = 224  # how far `fast_jpeg` may reduce

    def pixels(self, image: Image.Image) -> NDArray[np.uint8]:
        return np.zeros((1, 1, 3), np.uint8)

    @property
    def preprocessor(self) -> _NoPixels:
        return self


def read_samples(samples: Iterable[Sample], plan: CaptionPlan, on_sample: OnSample) -> None:
    """Read and decode each sample as captioning it by `plan` would; tell `on_sample` of it."""
    read = plan.reader(_NoPixels())
    ahead: deque[tuple[Sample, Future[CaptionRequest]]] = deque()

    def settle() -> None:
        sample, reading = ahead.popleft()
        try:
            reading.result()
        except ImageError as error:
            on_sample(sample, error)
        else:
            on_sample(sample, None)

    with ThreadPoolExecutor(plan.num_read_threads) as pool:
        try:
            for index, sample in enumerate(samples):
                ahead.append((sample, pool.submit(read, Task(index, sample))))
                if len(ahead) > _READ_AHEAD:
                    settle()
            while ahead:
                settle()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
