"""A hub may lie: hostile names, hashes that cannot be checked, commits that are none, pickles."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.hub.fetching import WEIGHTS, complaint, fetch
from tests.hub.server import COMMIT, LocalHub, Repository


@pytest.mark.parametrize(
    "hostile",
    [
        *("../../../escaped.json", "/tmp/escaped.json", "sub/config.json", ".bashrc", "..", "."),
        *("model.safetensors\n", "-rf.json", "config.json\0", "C:\\config.json", "con fig.json"),
    ],
)
def test_hostile_names_are_left_out(hostile: str, smolvlm: Repository, hub: LocalHub) -> None:
    smolvlm.listed_as[hostile] = {"rfilename": hostile, "size": 3, "blobId": "0" * 40}
    model = fetch()
    fetched = {path.rpartition("/resolve/")[2] for _, path in hub.requests if "/resolve/" in path}
    wanted = {f"{COMMIT}/{name}" for name in smolvlm.files if name.endswith(("json", "tensors"))}
    assert fetched == wanted
    assert {path.name for path in model.files.iterdir()} == {w.rpartition("/")[2] for w in wanted}


@pytest.mark.parametrize(
    ("facts", "sentence"),
    [
        ({"size": None}, "gives no size or no hash of config.json"),
        ({"size": -1}, "gives no size or no hash of config.json"),
        ({"blobId": None}, "gives no size or no hash of config.json"),
    ],
)
def test_what_cannot_be_checked_is_not_fetched(
    facts: dict[str, Any], sentence: str, smolvlm: Repository, hub: LocalHub
) -> None:
    smolvlm.listed_as["config.json"] = facts
    assert sentence in complaint()
    assert hub.downloads("config.json") == 0


def test_a_commit_that_is_none(smolvlm: Repository, cache: Path) -> None:
    smolvlm.commit = "../../../../escaped"
    assert "as a commit" in complaint()
    assert not list(cache.glob("*/*/*"))


def test_a_pickle_is_never_fetched(smolvlm: Repository, hub: LocalHub) -> None:
    del smolvlm.files[WEIGHTS]
    assert "has no safetensors weights" in complaint()
    assert not [path for _, path in hub.requests if "/resolve/" in path]
