"""The sentences for errors of the system say what to do."""

from __future__ import annotations

import errno
import os
import re

import pytest

from altogether_rt.cli.failures import failure

pytestmark = pytest.mark.lean


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("can't start new thread")])
def test_memory_that_is_used_up_is_no_bug(error: Exception) -> None:
    code, sentence = failure(error) or (0, "")
    assert code == 1 and sentence.startswith("This process may use no more memory")
    assert failure(RuntimeError("can't be")) is None


@pytest.mark.parametrize(
    ("number", "name", "says"),
    [
        (errno.ENOSPC, None, "No space left on device: the command could not continue; make room"),
        (errno.EACCES, "a/b", r"Permission denied \(a/b\): .*; choose another folder, or change"),
        (errno.EROFS, "a/b", r"Read-only file system \(a/b\): .*; choose another folder"),
        (errno.EIO, "a/b", r"Input/output error \(a/b\): the command could not continue\.$"),
    ],
)
def test_errors_of_the_system(number: int, name: str | None, says: str) -> None:
    code, sentence = failure(OSError(number, os.strerror(number), name)) or (0, "")
    assert code == 1 and re.match(says, sentence)


def test_a_name_that_the_locale_cannot_hold_is_no_bug() -> None:
    with pytest.raises(UnicodeEncodeError) as found:
        "p/ü.png".encode("ascii")
    code, sentence = failure(found.value) or (0, "")
    assert code == 1 and re.match(
        r"'ü' is in the name of a file, .* in ascii .*: set PYTHON", sentence
    )
    with pytest.raises(UnicodeEncodeError) as found:
        "\ud800".encode("utf-8")
    assert failure(found.value) is None
