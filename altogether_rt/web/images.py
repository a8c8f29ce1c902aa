"""Serves images from a fixed table by key; a request never contains a path."""

from __future__ import annotations

import hashlib
import io
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from altogether_rt.data.images import ImageLimits, open_image
from altogether_rt.data.sniff import SNIFF_BYTES, sniff_format
from altogether_rt.errors import AltogetherError, ImageError
from altogether_rt.web.site import Response, WebError

__all__ = ["ImageFile", "ImageTable", "read_image_file"]

#: Formats that browsers can show; others are converted to PNG.
_CONTENT_TYPES: Final = {
    "AVIF": "image/avif",
    "BMP": "image/bmp",
    "GIF": "image/gif",
    "JPEG": "image/jpeg",
    "PNG": "image/png",
    "WEBP": "image/webp",
}


@dataclass(frozen=True)
class ImageFile:
    """An image file and the SHA-256 that it must have (None: any)."""

    name: str  # for messages
    path: Path
    sha256: str | None = None


class ImageTable:
    """Images by key, for `Site.get_item`."""

    def __init__(self, images: Mapping[str, ImageFile], limits: ImageLimits | None = None) -> None:
        self._images = dict(images)
        self._limits = limits or ImageLimits()

    def response(self, key: str) -> Response:
        """An image in a format that browsers show.

        Raises WebError if there is no such key, AltogetherError if the file is missing or has
        changed.
        """
        image = self._images.get(key)
        if image is None:
            raise WebError(404, "There is no such image.")
        data = read_image_file(image, self._limits)
        content_type = _CONTENT_TYPES.get(sniff_format(data[:SNIFF_BYTES]) or "")
        if content_type is None:
            data, content_type = _as_png(data, image.name, self._limits), "image/png"
        return Response(data, content_type)

    def check(self, key: str) -> None:
        """Raises AltogetherError if the file is missing or has changed."""
        read_image_file(self._images[key], self._limits)


def read_image_file(image: ImageFile, limits: ImageLimits | None = None) -> bytes:
    """The bytes of an image file. Raises AltogetherError if it is missing or has changed."""
    data = _read(image.path, (limits or ImageLimits()).max_bytes)
    if data is None:
        raise AltogetherError(f"{image.name} cannot be read any more: put the file back.")
    if image.sha256 is not None and hashlib.sha256(data).hexdigest() != image.sha256:
        raise AltogetherError(
            f"{image.name} has changed since the round began: "
            "put the old file back, or start again with the new one."
        )
    return data


def _read(path: Path, max_bytes: int) -> bytes | None:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode) or status.st_size > max_bytes:
                return None
            return file.read(max_bytes)
    except (OSError, ValueError):
        return None


def _as_png(data: bytes, name: str, limits: ImageLimits) -> bytes:
    buffer = io.BytesIO()
    try:
        with open_image(data, limits, name=name) as image:
            image.save(buffer, "PNG", compress_level=1)
    except ImageError as error:
        raise AltogetherError(str(error)) from error
    return buffer.getvalue()
