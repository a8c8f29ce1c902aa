"""The house: which folder may import which, how many modules a folder holds, no circles."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent.parent / "altogether_rt"

MAX_LOOSE_MODULES = 8
MAX_MODULES = 15

#: Modules that everything may import.
FOUNDATIONS = {"config", "errors", "plain_data", "toml"}

#: What each folder, or module at the root, imports besides. A new arrow is a decision: it is made
#: here, and never towards something that imports the folder itself.
MAY_IMPORT: dict[str, set[str]] = {
    **{name: set() for name in FOUNDATIONS},
    "captions": {"wording"},
    "wording": set(),
    "preprocess": {"artifacts"},
    "model": set(),
    "metrics": set(),
    "speculation": {"artifacts"},
    "statistics": set(),
    "artifacts": {"model"},
    "machine": {"artifacts"},
    "monitoring": {"artifacts"},
    "scenes": {"artifacts"},
    "data": {"artifacts", "captions", "wording"},
    "runtime": {"artifacts", "machine", "model"},
    "generation": {"captions", "preprocess", "runtime", "speculation", "wording"},
    "train": {"artifacts", "data", "machine", "metrics", "model", "preprocess", "scenes"},
    "export": {"artifacts", "data", "model", "preprocess", "runtime", "scenes"},
    "importing": {"artifacts", "export", "model", "preprocess", "runtime"},
    "evaluation": {
        *("artifacts", "data", "importing", "metrics", "model", "preprocess", "statistics"),
    },
    "hub": {"artifacts", "export", "importing", "machine", "runtime"},
    "opening": {"artifacts", "data", "export", "hub", "machine", "preprocess", "runtime"},
    "captioner": {
        *("artifacts", "captions", "data", "generation", "opening", "preprocess", "speculation"),
    },
    "web": {"artifacts", "data", "monitoring"},
    "mixing": {"artifacts", "data"},
    "publishing": {"artifacts", "data", "mixing"},
    "comparison": {"artifacts", "data", "evaluation", "statistics", "web"},
    "annotation": {"artifacts", "data", "evaluation", "scenes", "statistics", "web"},
    "jobs": {
        *("captioner", "captions", "data", "generation", "machine", "monitoring", "opening"),
        *("runtime", "speculation", "wording"),
    },
    "bench": {
        *("captioner", "captions", "data", "generation", "machine", "opening", "runtime"),
        *("scenes", "speculation"),
    },
}
#: On top of everything; nothing imports them.
TOP = ("__main__", "cli")

#: The only modules of `runtime` that pure logic may import: the contract.
CONTRACT = {"altogether_rt.runtime.base", "altogether_rt.runtime.pipelined"}


def modules() -> dict[str, Path]:
    found = {}
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports_of(path: Path, names: set[str]) -> Iterator[str]:
    """Modules of the package that a file imports, but for what only a type checker sees."""
    tree = ast.parse(path.read_text("utf-8"))
    unseen = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in unseen or not isinstance(node, ast.ImportFrom) or not node.module:
            continue
        for alias in node.names:
            full = f"{node.module}.{alias.name}"
            target = full if full in names else node.module
            if target.partition(".")[0] == "altogether_rt":
                yield target


def folder_of(module: str) -> str:
    """The folder of a module, or the module itself if it stands at the root."""
    return module.split(".")[1] if "." in module else ""


def arrows() -> dict[str, set[str]]:
    """Folder → folders that it imports; the package's own `__init__` is left out."""
    found: dict[str, set[str]] = defaultdict(set)
    names = set(modules())
    for module, path in modules().items():
        for target in imports_of(path, names):
            if folder_of(module) and folder_of(target):
                found[folder_of(module)].add(folder_of(target))
    return {folder: targets - {folder} for folder, targets in found.items()}


def test_every_folder_imports_what_it_may() -> None:
    for folder, targets in arrows().items():
        if folder in TOP:
            continue
        assert folder in MAY_IMPORT, f"{folder} is new: say in MAY_IMPORT what it may import"
        surplus = targets - MAY_IMPORT[folder] - FOUNDATIONS
        assert not surplus, f"{folder} imports {sorted(surplus)}"
    folders = {folder_of(module) for module in modules()} - {""}
    assert set(MAY_IMPORT) <= folders, "MAY_IMPORT names a folder that is not there"


def test_there_is_no_circle() -> None:
    """A folder may import only folders that stand before it in some order."""
    allowed = {folder: set(targets) for folder, targets in MAY_IMPORT.items()}
    placed: set[str] = set()
    while allowed:
        ready = {folder for folder, targets in allowed.items() if targets <= placed}
        assert ready, f"these import each other in a circle: {sorted(allowed)}"
        placed |= ready
        allowed = {folder: targets for folder, targets in allowed.items() if folder not in ready}


def test_pure_logic_imports_no_backend() -> None:
    names = set(modules())
    for module, path in modules().items():
        if folder_of(module) not in ("data", "generation", "speculation"):
            continue
        for target in imports_of(path, names):
            is_backend = target.startswith("altogether_rt.runtime") and target not in CONTRACT
            assert not is_backend, f"{module} imports {target}"


def test_no_folder_is_crowded() -> None:
    loose = sorted(path.stem for path in PACKAGE.glob("*.py") if path.stem != "__init__")
    assert len(loose) <= MAX_LOOSE_MODULES, loose
    for folder in {path.parent for path in modules().values()} - {PACKAGE}:
        crowd = [path.stem for path in folder.glob("*.py") if path.stem != "__init__"]
        assert len(crowd) <= MAX_MODULES, f"{folder.name} holds {len(crowd)} modules"
