"""A captioner without a model: what is measured is everything around it."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from altogether_rt.captions import Caption, CaptionParams, CaptionRequest
from altogether_rt.generation.engine import EngineStats
from altogether_rt.generation.requests import ListedRequests, RequestSource

__all__ = ["PARAMS", "DummyCaptioner", "dummy_caption", "thumbnail"]

PARAMS = CaptionParams(8, 0.0, 1.0)

#: As a real captioner on a CPU takes them.
_BATCH_SIZE = 16


def thumbnail(image: Image.Image) -> NDArray[np.uint8]:
    """What all contestants make of a decoded image: (8, 8, 3)."""
    return np.asarray(image.resize((8, 8)))


def dummy_caption(alt: str, pixels: NDArray[np.uint8]) -> str:
    """The caption that all contestants write; it depends on the alt-text and the image."""
    return f"{alt} ({int(pixels[0, 0, 0])})"


class _Preprocessor:
    size = 8

    def pixels(self, image: Image.Image) -> NDArray[np.uint8]:
        return thumbnail(image)


class DummyCaptioner:
    """Stands in for a `Captioner`, in any process."""

    bundle_id = "dummy"

    def __init__(self, delay_s: float = 0.0, log: Path | None = None) -> None:
        """delay_s: of each caption. log: gets the alt-text of each caption that is made."""
        self.preprocessor = _Preprocessor()
        self.stats = EngineStats()
        self._delay_s = delay_s
        self._log = None if log is None else os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def stream(
        self,
        requests: Iterable[CaptionRequest],
        params: CaptionParams | None = None,
        **_: Any,
    ) -> Iterator[Caption]:
        """A caption for each request, drawn in batches."""
        source = requests if isinstance(requests, RequestSource) else ListedRequests(requests)
        while (batch := source.take(_BATCH_SIZE, wait=True)) is not None:
            for request in batch:
                alt = request.alts[0] if request.alts else ""
                assert request.pixels is not None
                text = dummy_caption(alt, request.pixels)
                if self._delay_s:
                    time.sleep(self._delay_s)
                if self._log is not None:
                    os.write(self._log, f"{alt}\n".encode())
                yield Caption(text, "eos", 3, False, 7)

    def close(self) -> None:
        """Nothing is held."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass
