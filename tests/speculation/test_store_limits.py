"""Arrays of a file of learnt drafts that are just outside what they may be."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from altogether_rt.artifacts.bundle import Bundle
from altogether_rt.errors import BundleError
from altogether_rt.speculation.store import new_planner

pytestmark = pytest.mark.lean


def _set_first(array: Any, value: float) -> Any:
    changed = array.copy()
    changed.flat[0] = value
    return changed


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("version", lambda a: a + 1),
        ("acceptance.rates", lambda a: _set_first(a, -1.0)),
        ("acceptance.rates", lambda a: _set_first(a, 1e9)),  # more right than there were
        ("pictures.moments", lambda a: a[:, :-1]),
        ("pictures.moments", lambda a: a[:1]),
        ("phrases.num_followers", lambda a: np.append(a, 0).astype(a.dtype)),
        ("phrases.followers", lambda a: _set_first(a, -1)),
    ],
)
def test_a_file_that_is_just_wrong(tmp_path: Path, name: str, change: Callable[[Any], Any]) -> None:
    starter = Bundle.load("starter")
    assert starter.drafting_state_path is not None
    with np.load(starter.drafting_state_path) as file:
        arrays = {key: file[key] for key in file.files}
    path = tmp_path / "learnt.npz"
    np.savez(path, **arrays)
    new_planner(path, starter.config)
    np.savez(path, **{**arrays, name: change(arrays[name])})
    with pytest.raises(BundleError, match="learn"):
        new_planner(path, starter.config)
