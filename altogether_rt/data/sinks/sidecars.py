"""Captions as text files beside their images, as tools that train image models read them."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from altogether_rt.artifacts.files import write_whole
from altogether_rt.data.problems import Problems
from altogether_rt.data.sniff import IMAGE_SUFFIXES, has_image_suffix
from altogether_rt.errors import AltogetherError

__all__ = ["Sidecars"]


@dataclass
class Sidecars:
    """Writes `photo.txt` beside `photo.jpg`, whole or not at all, and never over another text."""

    root: Path
    suffix: str  # ".txt"
    overwrite: bool = False
    kept: Problems = field(default_factory=Problems)  # files with other text, left unchanged

    def __post_init__(self) -> None:
        plain = self.suffix.startswith(".") and len(self.suffix) > 1 and "/" not in self.suffix
        if not plain or self.suffix.lower() in IMAGE_SUFFIXES:
            raise AltogetherError(
                f"--sidecar is {self.suffix!r}: it must be an ending such as .txt or .caption."
            )

    def path(self, name: str) -> Path:
        """The sidecar of an image, by the image's name relative to the root."""
        stem = name[: name.rfind(".")] if has_image_suffix(name) else name
        return self.root / (stem + self.suffix)

    def write(self, name: str, caption: str, former: str | None = None) -> None:
        """Write the sidecar of an image, unless it exists with another text.

        former: the caption that an earlier run gave; a file with that text may be replaced.
        """
        path = self.path(name)
        text = (caption + "\n").encode("utf-8")
        if path.exists() and not self.overwrite:
            held = path.read_bytes() if path.is_file() else None
            if held is None or former is None or held != (former + "\n").encode("utf-8"):
                if held != text:
                    self.kept.add(str(path))
                return
        write_whole(path, text, sync=False)  # there may be millions; they can be written again
