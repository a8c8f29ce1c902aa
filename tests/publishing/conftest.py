"""What the tests of exports share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from altogether_rt.data.shards.spool import Spool


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    """Empty again when the test is over."""
    with Spool(tmp_path / "spool") as spool:
        yield spool
    assert list((tmp_path / "spool").glob("*")) == []
