"""The errors a user can cause. Each message is one sentence: what is wrong, where, what to do."""

from __future__ import annotations

__all__ = [
    "AltogetherError",
    "BundleError",
    "ConfigError",
    "ImageError",
    "MissingDependencyError",
    "Terminated",
    "reason",
    "without_frames",
]


class AltogetherError(Exception):
    """Something the user can fix. The CLI prints only the message and exits with 1."""


class ConfigError(AltogetherError):
    """A configuration has an unknown key, a missing key or a value out of range."""


class BundleError(AltogetherError):
    """A bundle is absent, incomplete, altered, or made by an incompatible version."""


class ImageError(AltogetherError):
    """One image cannot be read. `kind` is the error class written to the output row.

    image_hash: the `file_hash` of its file, where it could be read at all.
    """

    def __init__(self, kind: str, message: str, image_hash: str = "") -> None:
        super().__init__(message)
        self.kind = kind
        self.image_hash = image_hash

    def __reduce__(self) -> tuple[type[ImageError], tuple[str, str, str]]:
        """From a worker to the process that writes rows."""
        return ImageError, (self.kind, str(self), self.image_hash)


class MissingDependencyError(AltogetherError):
    """An optional package is not installed; the message says which extra brings it."""

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(
            f"{purpose} needs {package}, which is not installed: "
            f"run pip install 'altogether-rt[{extra}]'."
        )
        self.package, self.extra, self.purpose = package, extra, purpose

    def __reduce__(self) -> tuple[type[MissingDependencyError], tuple[str, str, str]]:
        """From another process."""
        return MissingDependencyError, (self.package, self.extra, self.purpose)


class Terminated(KeyboardInterrupt):
    """SIGTERM came: a container was stopped, a service ended, a job preempted."""


def reason(error: BaseException, max_chars: int = 200) -> str:
    """What a library's error says, as part of a sentence: one line, cut, without its full stop."""
    text = " ".join(str(getattr(error, "strerror", None) or error).split())
    text = "".join(char if char.isprintable() else "?" for char in text[:max_chars])
    return text.rstrip(".: ") or type(error).__name__


def without_frames(error: ImageError) -> ImageError:
    """`error`, to be kept: its traceback, and those of its causes, would keep the image's bytes."""
    each: BaseException | None = error
    while each is not None:
        each.__traceback__ = None
        each = each.__cause__ or each.__context__
    return error
