"""What reading images takes: whether a GPU waits for it, or which share of a processor it is."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from altogether_rt.bench.timing import measure
from altogether_rt.captions import content_hash
from altogether_rt.data.images import open_image
from altogether_rt.scenes.draw import render
from altogether_rt.scenes.text import make_scene

__all__ = ["JPEG_SIZE", "Reading", "reading_s"]

#: Width and height in pixels of the JPEG that is read: the median of ordinary ones on the web.
JPEG_SIZE: Final = (800, 600)
_GRAIN: Final = 8.0  # standard deviation, of 255: a drawn scene alone is quicker than a photograph


class MakesPixels(Protocol):
    """What makes the encoder's pixels of an image."""

    def pixels(self, image: Image.Image) -> NDArray[np.uint8]: ...


@dataclass(frozen=True)
class Reading:
    """Reading beside captioning, on one machine."""

    read_s: float  # seconds of one core for an image
    caption_s: float  # seconds of the machine for an image, reading left out
    cores: int
    on_cpu: bool  # whether the cores that read are those that caption

    @property
    def images_per_s(self) -> float:
        """What all cores read if they do nothing else."""
        return self.cores / self.read_s

    @property
    def limits(self) -> bool:
        """Whether a GPU waits for images. A processor never does: it reads less at a time."""
        return not self.on_cpu and self.images_per_s < 1 / self.caption_s

    def sentence(self) -> str:
        """For people."""
        width, height = JPEG_SIZE
        cores = "1 core" if self.cores == 1 else f"{self.cores} cores"
        read = (
            f"reading: {1000 * self.read_s:.1f} ms of a core for a JPEG of {width} × {height} "
            f"pixels, {self.images_per_s:,.0f} images/s on {cores}"
        )
        if self.on_cpu:
            share = self.read_s / (self.read_s + self.cores * self.caption_s)
            return f"{read}; {100 * share:.1f} % of the time, beside captioning"
        if self.limits:
            return (
                f"{read}; that is what limits, as {1 / self.caption_s:,.0f} images/s are "
                "captioned: give it more cores, smaller files, or --fast-jpeg for large ones"
            )
        return f"{read}; the GPU does not wait for it"

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "core_s": round(self.read_s, 6),
            "images_per_s": round(self.images_per_s, 2),
            "cores": self.cores,
            "jpeg": list(JPEG_SIZE),
            "limits": self.limits,
        }


def reading_s(preprocessor: MakesPixels, *, quick: bool = False) -> float:
    """Seconds of one core from the bytes of a JPEG to the encoder's pixels, checks included."""
    jpeg = _jpeg()

    def read() -> bytes:
        with open_image(jpeg, name="the image") as image:
            return content_hash(preprocessor.pixels(image))

    return measure(read, budget_s=0.05 if quick else 0.5).p50_s


def _jpeg() -> bytes:
    scene = render(make_scene(0, 0)).convert("RGB").resize(JPEG_SIZE)
    pixels = np.asarray(scene, np.float32)
    grain = np.random.default_rng(0).normal(0, _GRAIN, pixels.shape)
    data = io.BytesIO()
    Image.fromarray(np.clip(pixels + grain, 0, 255).astype(np.uint8)).save(data, "JPEG", quality=85)
    return data.getvalue()
