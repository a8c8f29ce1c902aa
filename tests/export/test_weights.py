"""The weights of an export."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from altogether_rt.errors import AltogetherError
from altogether_rt.export.weights import SafetensorsWeights


def test_a_file_that_safetensors_does_not_open_is_named(tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode(b"\xff")
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(b"x" * 8)
    with pytest.raises(AltogetherError, match=r"model\.safetensors cannot be read: "):
        SafetensorsWeights(folder / "model.safetensors")
