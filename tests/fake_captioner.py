"""A captioner without a model, for tests of everything around it; also a program to be killed.

python tests/fake_captioner.py DIR OUT [ALTS [SIDECAR [workers]]]
"""

from __future__ import annotations

import itertools
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from altogether_rt.captions import (
    Caption,
    CaptionParams,
    CaptionRequest,
    EmbeddedImage,
)
from altogether_rt.generation.engine import EngineStats


class FakePreprocessor:
    size = 8

    def pixels(self, image: Image.Image) -> NDArray[np.uint8]:
        assert image.mode == "RGB"
        return np.asarray(image.resize((8, 8)))


class FakeCaptioner:
    """Captions say what came in. Draws requests in batches, as a real one does."""

    def __init__(self, bundle_id: str = "fake", batch_size: int = 3, delay_s: float = 0.0) -> None:
        self.bundle_id = bundle_id
        self.preprocessor = FakePreprocessor()
        self.batch_size = batch_size
        self.delay_s = delay_s
        self.requests: list[CaptionRequest] = []
        self.interrupt_after: int | None = None
        self.stats = EngineStats()
        self.num_encoded = 0

    def params(self, **overrides: Any) -> CaptionParams:
        given = {key: value for key, value in overrides.items() if value is not None}
        return CaptionParams(**{"max_new_tokens": 8, "temperature": 0.0, "top_p": 1.0, **given})

    def stream(
        self,
        requests: Iterable[CaptionRequest],
        params: CaptionParams | None = None,
        *,
        keep_embeddings: bool = False,
    ) -> Iterator[Caption]:
        pending = iter(requests)
        while batch := list(itertools.islice(pending, self.batch_size)):
            for request in batch:
                if self.interrupt_after is not None and len(self.requests) >= self.interrupt_after:
                    raise KeyboardInterrupt
                self.requests.append(request)
                time.sleep(self.delay_s)
                content = request.content_hash()
                if request.embedded is None:
                    self.num_encoded += 1
                embedding = np.frombuffer(content, np.uint8).astype(np.float32)
                if request.embedded is not None:
                    assert np.array_equal(request.embedded.embedding, embedding)
                alt = "; ".join(request.alts)[:100]
                embedded = EmbeddedImage(content, embedding) if keep_embeddings else None
                text = f"{content.hex()[:8]} é [{alt}]"
                yield Caption(text, "eos", 3, False, 7, embedded=embedded)

    def close(self) -> None:
        pass

    def __enter__(self) -> FakeCaptioner:
        return self

    def __exit__(self, *exc_info: object) -> None:
        pass


def open_slowly(*_: object, **options: object) -> FakeCaptioner:
    """In the place of `open_captioner`, in any process."""
    return FakeCaptioner(delay_s=0.05)


def main() -> None:
    from functools import partial

    from altogether_rt.jobs.executor import LocalExecutor
    from altogether_rt.jobs.folder import CaptionJob, caption_folder, open_folder
    from altogether_rt.jobs.processes import ProcessExecutor

    folder, out, *rest = sys.argv[1:]
    alts = Path(rest[0]) if rest else None
    job = CaptionJob(
        folder=Path(folder), out=Path(out), alts=alts, sidecar=rest[1] if len(rest) > 1 else None
    )
    captioner = FakeCaptioner(delay_s=0.04)  # time enough to be killed within
    pool = ProcessExecutor(2, partial(FakeCaptioner, delay_s=0.04), "fake", slots=3)
    executor = pool if "workers" in rest else LocalExecutor(captioner)
    caption_folder(job, open_folder(job), executor, captioner.params())


if __name__ == "__main__":
    main()
