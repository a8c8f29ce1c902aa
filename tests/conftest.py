"""Fixtures that several folders of tests share."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
# Last, so that tests can import each other's stand-ins but an installed package wins.
sys.path.append(str(ROOT))


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
