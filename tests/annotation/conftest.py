"""A folder of scenes, drawn once."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from altogether_rt.scenes.dataset import write_scenes

NUM_SCENES = 8


@pytest.fixture(scope="session")
def _drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("drawn") / "scenes"
    list(write_scenes(folder, NUM_SCENES, 5, "test"))
    return folder


@pytest.fixture
def scenes(_drawn: Path, tmp_path: Path) -> Path:
    """Eight scenes with alts.jsonl and references.jsonl, a copy of one's own."""
    return Path(shutil.copytree(_drawn, tmp_path / "scenes"))
