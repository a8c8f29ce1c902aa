"""The catalogue is whole, says what was tested, and names targets that exist."""

from __future__ import annotations

from typing import Any

import pytest
from typer.testing import CliRunner

from altogether_rt.cli.main import app
from altogether_rt.errors import ConfigError
from altogether_rt.hub import catalogue
from altogether_rt.hub.catalogue import read_catalogue
from altogether_rt.hub.names import is_hub_id
from altogether_rt.hub.target import TARGETS


@pytest.mark.lean
def test_entries() -> None:
    entries = read_catalogue()
    assert {"starter", "smolvlm-256m", "smolvlm-500m", "smolvlm-2.2b", "distilvit2"} <= set(entries)
    for name, entry in entries.items():
        assert entry.name == name
        assert (entry.hub_id is None) == (name == "starter")
        if entry.hub_id is not None:
            assert is_hub_id(entry.hub_id)
            assert entry.bytes > 100_000_000
            assert entry.tested == "random weights of the published format"
            assert entry.reads_alt != "yes", "no weights that were trained to have been published"
    assert entries["starter"].reads_alt == "yes"
    assert entries["distilvit2"].reads_alt == "no"


@pytest.mark.lean
def test_models_says_what_was_tested(cache: Any) -> None:
    done = CliRunner().invoke(app, ["models"])
    assert done.exit_code == 0
    text = " ".join(done.stdout.split())
    for name in read_catalogue():
        assert name in text
    assert "random weights" in text
    assert "also on this machine" not in text
    assert not cache.exists(), "to list is not to write"


@pytest.mark.lean
@pytest.mark.parametrize(
    "entry", [{"unknown": 1}, {"licence": 3}, {}, "no table"], ids=["key", "type", "missing", "str"]
)
def test_a_damaged_catalogue_is_refused(entry: Any) -> None:
    with pytest.raises(ConfigError):
        catalogue._parse({"name": entry})


def test_targets_exist_and_the_first_is_the_default() -> None:
    recipes = pytest.importorskip("altogether_rt.export.recipes")
    assert TARGETS["cpu"] == recipes.DEFAULT_TARGET
    for target in TARGETS.values():
        assert recipes.find_recipe(target).target.name == target
