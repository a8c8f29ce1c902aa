"""The three kinds of TOML files are found, read and refused in the same way."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from altogether_rt.config import load_config, named_config, named_configs
from altogether_rt.errors import ConfigError
from altogether_rt.export import recipes as export_recipes
from altogether_rt.train import recipe as train_recipes

pytestmark = pytest.mark.lean


@dataclass(frozen=True)
class Kind:
    """One kind of TOML file: its names, its loaders, and what messages call it."""

    name: str
    by_name: Callable[[str], object]
    by_path: Callable[[Path], object]
    names: Callable[[], list[str]]
    called: str  # in the message about an unknown name


KINDS = [
    Kind(
        "configuration",
        named_config,
        lambda path: load_config(str(path)),
        named_configs,
        "configuration",
    ),
    Kind(
        "training recipe",
        train_recipes.load_recipe,
        lambda path: train_recipes.load_recipe(str(path)),
        train_recipes.recipe_names,
        "training recipe",
    ),
    Kind(
        "export recipe",
        export_recipes.find_recipe,
        export_recipes.load_recipe,
        export_recipes.target_names,
        "target",
    ),
]


@pytest.fixture(params=KINDS, ids=lambda kind: kind.name)
def kind(request: pytest.FixtureRequest) -> Kind:
    found: Kind = request.param
    return found


def complaint(load: Callable[[], object]) -> str:
    with pytest.raises(ConfigError) as caught:
        load()
    message = str(caught.value)
    assert "\n" not in message
    assert message.endswith(".")
    return message


def test_every_named_file_loads(kind: Kind) -> None:
    assert kind.names()
    for name in kind.names():
        kind.by_name(name)


def test_an_unknown_name_is_answered_with_the_known_ones(kind: Kind) -> None:
    for name in ("nonesuch", "../starter", ""):
        message = complaint(lambda name=name: kind.by_name(name))  # type: ignore[misc]
        assert message.startswith(f"there is no {kind.called} {name!r}: choose one of ")
        assert ", ".join(kind.names()) in message


def test_a_missing_file_is_named(kind: Kind, tmp_path: Path) -> None:
    path = tmp_path / "absent.toml"
    message = complaint(lambda: kind.by_path(path))
    assert message == f"there is no {kind.name} {path}: check the path."


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"[encoder", "is not valid TOML: "),
        (b"a = " + b"[" * 100_000, "is not valid TOML: "),
        (b"a = " + b"9" * 5000, "is not valid TOML: "),
        (b'name = "caf\xe9"', "is not UTF-8: save it in that encoding."),
        (b"speed = 3", "has a mistake: unknown key speed; known keys: "),
        (b"", "has a mistake: missing key "),
    ],
    ids=[
        "not TOML",
        "nested without end",
        "endless number",
        "not UTF-8",
        "unknown key",
        "missing key",
    ],
)
def test_a_bad_file_is_named_with_its_mistake(
    kind: Kind, tmp_path: Path, content: bytes, says: str
) -> None:
    path = tmp_path / "mine.toml"
    path.write_bytes(content)
    message = complaint(lambda: kind.by_path(path))
    assert message.startswith(f"the {kind.name} {path} {says}")


def test_a_folder_is_not_a_file(kind: Kind, tmp_path: Path) -> None:
    path = tmp_path / "folder.toml"
    path.mkdir()
    message = complaint(lambda: kind.by_path(path))
    assert message == f"the {kind.name} {path} cannot be read: Is a directory."


def test_a_byte_order_mark_is_skipped(kind: Kind, tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_bytes(b"\xef\xbb\xbfspeed = 3")
    assert "unknown key speed" in complaint(lambda: kind.by_path(path))
