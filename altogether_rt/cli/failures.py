"""Which exceptions are the user's to mend, and the sentence for each."""

from __future__ import annotations

from altogether_rt.errors import AltogetherError

__all__ = ["failure"]


def failure(error: BaseException) -> tuple[int, str] | None:
    """(exit code, sentence) for an exception that ends a command; None for a bug."""
    if isinstance(error, AltogetherError):
        return 1, str(error)
    if isinstance(error, BrokenPipeError):
        return None  # the reader has stopped: there is nobody to tell
    if isinstance(error, OSError):
        named = f" ({error.filename})" if error.filename else ""
        return 1, f"{error.strerror or error}{named}: the command could not continue."
    if isinstance(error, KeyboardInterrupt):
        return 130, str(error) or "Interrupted: finished work is kept."
    return None
