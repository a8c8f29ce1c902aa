"""Bounds the memory of images that several threads decode at once."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from PIL import Image

__all__ = ["PixelGate", "free_large_images"]


class PixelGate:
    """Lets several images be decoded at once while their total pixels stay within `max_pixels`.

    Many small images are decoded in parallel; a huge one is decoded alone.
    """

    def __init__(self, max_pixels: int) -> None:
        self._max_pixels = max_pixels
        self._held = 0
        self._changed = threading.Condition()

    @contextmanager
    def hold(self, pixels: int) -> Iterator[None]:
        """Wait until `pixels` more fit, and count them until the block is left."""
        pixels = min(pixels, self._max_pixels)  # an image beyond the limit is decoded alone
        with self._changed:
            self._changed.wait_for(lambda: self._held + pixels <= self._max_pixels)
            self._held += pixels
        try:
            yield
        finally:
            with self._changed:
                self._held -= pixels
                self._changed.notify_all()


def free_large_images() -> None:
    """Make Pillow return the memory of large images to the system, in this process.

    The C library keeps freed blocks of up to 32 MB for the thread that freed them, and Pillow
    allocates blocks of 16 MB: each thread that decodes large images would keep hundreds of
    megabytes. Larger blocks are returned to the system at once.
    """
    pillow: Any = vars(Image)["core"]  # set by PILLOW_BLOCK_SIZE; no stub has types for it
    pillow.set_block_size(max(pillow.get_block_size(), 64 * 1024 * 1024))
