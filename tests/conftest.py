"""Fixtures that several folders of tests share."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
# Last, so that tests can import each other's stand-ins but an installed package wins.
sys.path.append(str(ROOT))


@pytest.fixture(scope="session", autouse=True)
def ctrl_c_is_heard() -> Iterator[None]:
    """A run in the background is started with SIGINT ignored, and commands that it starts inherit
    that: tests that end a command with Ctrl-C would wait for ever."""
    ignored = signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    if ignored:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    if ignored:
        signal.signal(signal.SIGINT, signal.SIG_IGN)


@pytest.fixture(scope="session", autouse=True)
def no_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A cache folder for this run alone: what somebody prepared must not be what is tested."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture
def uncovered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes that the test starts do not measure coverage.

    One that is killed, or that may write no more, leaves half a database of what it measured, which
    cannot be combined with the others.
    """
    monkeypatch.delenv("COVERAGE_PROCESS_CONFIG", raising=False)


@pytest.fixture(scope="session")
def root() -> Path:
    """The checkout."""
    return ROOT


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Photographs, captions and vocabularies that are not part of the repository."""
    named = os.environ.get("ALTOGETHER_DATA")
    folder = Path(named) if named else ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("needs the data folder: set ALTOGETHER_DATA to where it is")
    return folder
