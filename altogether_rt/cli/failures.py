"""Which exceptions are the user's to mend, and the sentence for each."""

from __future__ import annotations

import errno
from typing import Final

from altogether_rt.errors import AltogetherError, Terminated

__all__ = ["FAILURES", "failure"]

#: What `failure` may have a sentence for.
FAILURES: Final = (
    *(AltogetherError, OSError, KeyboardInterrupt, MemoryError, RuntimeError),
    UnicodeEncodeError,
)

_NO_ROOM: Final = "make room on the disk, then give it again"
_NO_RIGHT: Final = "choose another folder, or change who may read and write there"

#: What Python says where the system starts no thread, mostly since there is no memory for it.
_NO_THREAD: Final = "can't start new thread"
_NO_MEMORY: Final = (
    "This process may use no more memory, or start no more threads: the command could not "
    "continue; close other programs, or use fewer --workers, then give it again."
)

#: What to do about an error of the system.
_ADVICE: Final = {
    errno.ENOSPC: _NO_ROOM,
    errno.EDQUOT: _NO_ROOM,
    errno.EACCES: _NO_RIGHT,
    errno.EPERM: _NO_RIGHT,
    errno.EROFS: _NO_RIGHT,
}


def failure(error: BaseException) -> tuple[int, str] | None:
    """(exit code, sentence) for an exception that ends a command; None for a bug."""
    if isinstance(error, AltogetherError):
        return 1, str(error)
    if isinstance(error, BrokenPipeError):
        return None  # the reader has stopped: there is nobody to tell
    if isinstance(error, OSError):
        named = f" ({error.filename})" if error.filename else ""
        advice = _ADVICE.get(error.errno or 0)
        what = "the command could not continue" + (f"; {advice}" if advice else "")
        return 1, f"{error.strerror or error}{named}: {what}."
    if isinstance(error, KeyboardInterrupt):
        code = 143 if isinstance(error, Terminated) else 130
        return code, str(error) or "Interrupted: finished work is kept."
    if isinstance(error, UnicodeEncodeError) and error.encoding != "utf-8":  # texts are in UTF-8
        character = error.object[error.start]
        return 1, (
            f"{character!r} is in the name of a file, and file names are in {error.encoding} here, "
            "which has no such character: set PYTHONUTF8=1, then give the command again."
        )
    if isinstance(error, MemoryError) or str(error) == _NO_THREAD:
        return 1, _NO_MEMORY
    return None
