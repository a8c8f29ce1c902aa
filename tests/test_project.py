"""The project as a whole: versions, imports and documents agree with each other."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

import altogether_rt
from altogether_rt.cli.registry import COMMANDS, EXTRA_OF_PACKAGE

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "altogether_rt"

#: Packages of the extras; nothing that `caption` and `bench` import may reach them.
HEAVY = ("torch", "transformers", "open_clip", "onnx", "onnxscript", "safetensors", "tensorboard")
#: All that the lean part may import besides the standard library and itself.
LEAN_PACKAGES = {
    *("numpy", "onnxruntime", "PIL", "pillow_heif", "platformdirs", "pyarrow", "rich"),
    *("tokenizers", "typer", "zstandard"),
    *("fsspec", "py3langid"),  # where a URL is opened, where languages are told apart
    *("cuda",),  # where the runtime for it is opened
    *("aiohttp", "fsspec"),  # where a URL is opened
    *("huggingface_hub",),  # where something is fetched or published
    *("pycocoevalcap", "spacy"),  # where `eval` takes the measures that need them
}
#: The modules that may import heavy packages; everything else in the package is lean.
HEAVY_PARTS = (
    *("model", "train", "export", "importing", "artifacts.checkpoint", "runtime.torch"),
    "evaluation.clip",
)
#: Lean modules that import heavy ones when somebody asks for what those do.
LAZY = (
    "altogether_rt.opening",
    "altogether_rt.evaluation.options",
    "altogether_rt.hub.obtain",
)
HEAVY_COMMANDS = ("export", "train", "import_", "init")


def module_names() -> list[str]:
    names = []
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = ("altogether_rt", *path.relative_to(PACKAGE).with_suffix("").parts)
        names.append(".".join(parts[:-1] if parts[-1] == "__init__" else parts))
    return names


def is_heavy(module: str) -> bool:
    inner = module.removeprefix("altogether_rt").removeprefix(".")
    commands = tuple(f"cli.commands.{name}" for name in HEAVY_COMMANDS)
    return any(inner == part or inner.startswith(part + ".") for part in (*HEAVY_PARTS, *commands))


def path_of(module: str) -> Path:
    path = ROOT.joinpath(*module.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def imports_of(module: str) -> Iterator[str]:
    """Every module that this one imports, at any depth, but for what only a type checker sees."""
    tree = ast.parse(path_of(module).read_text("utf-8"))
    unseen = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in unseen:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: relative import; the package uses absolute ones"
            yield node.module or ""


def has_module(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


def test_version_heads_the_changelog() -> None:
    versions = re.findall(r"^## (\d+\.\d+\.\d+)", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.M)
    assert versions[0] == altogether_rt.__version__
    assert len(set(versions)) == len(versions)


@pytest.mark.parametrize("module", module_names())
def test_module_imports_and_states_its_public_names(module: str) -> None:
    if is_heavy(module):
        pytest.importorskip("torch", reason="needs the extra train")
        pytest.importorskip("onnx", reason="needs the extra export")
    try:
        loaded = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name != "triton":
            raise
        pytest.skip("needs Triton, which comes with PyTorch's builds for GPUs")
    body = ast.parse(path_of(module).read_text("utf-8")).body
    if all(isinstance(part, ast.Expr) for part in body):
        return  # a folder's __init__.py that has nothing, or a docstring
    public = getattr(loaded, "__all__", None)
    assert public is not None, f"{module} has no __all__"
    assert len(set(public)) == len(public), f"{module}.__all__ names something twice"
    missing = [name for name in public if not hasattr(loaded, name)]
    assert not missing, f"{module}.__all__ names {missing}, which it does not define"
    assert loaded.__doc__, f"{module} has no docstring"


@pytest.mark.parametrize("module", [name for name in module_names() if not is_heavy(name)])
def test_lean_module_imports_nothing_heavy(module: str) -> None:
    for imported in imports_of(module):
        top = imported.partition(".")[0]
        if top == "altogether_rt":
            assert module in LAZY or not is_heavy(imported), f"{module} imports {imported}"
        elif top not in sys.stdlib_module_names:
            assert top in LEAN_PACKAGES, f"{module} imports {top}"


def test_imports_point_one_way() -> None:
    """What each layer must not import, because it is built on by it."""
    above = {
        "altogether_rt.config": ("altogether_rt.",),
        "altogether_rt.model": ("train", "export", "runtime", "generation", "cli", "captioner"),
        "altogether_rt.runtime": ("generation", "captioner", "cli", "train", "export"),
        "altogether_rt.generation": ("runtime.ort", "runtime.torch", "captioner", "cli", "model"),
        "altogether_rt.metrics": ("runtime", "generation", "captioner", "cli", "model"),
    }
    allowed = {"altogether_rt.errors", "altogether_rt.plain_data"}
    for module in module_names():
        layer = ".".join(module.split(".")[:2])
        for imported in set(imports_of(module)) - allowed:
            if imported.startswith(f"{layer}."):
                continue
            for upper in above.get(layer, ()):
                prefix = upper if upper.startswith("altogether_rt") else f"altogether_rt.{upper}"
                assert not imported.startswith(prefix), f"{module} imports {imported}"


#: What an assert may call: functions and methods that change nothing.
PURE_FUNCTIONS = {"all", "any", "int", "isinstance", "len", "max", "min", "set", "sorted", "sum"}
PURE_METHODS = {"all", "any", "max", "min", "sum"}


def impure_calls(source: str) -> Iterator[str]:
    """Calls within an assert of anything but these; `python -O` would not make them."""
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Assert):
            continue
        for call in ast.walk(node.test):
            if isinstance(call, ast.NamedExpr):
                yield f"line {call.lineno}: {ast.unparse(call)}"
            if not isinstance(call, ast.Call):
                continue
            match call.func:
                case ast.Name(id=name) if name in PURE_FUNCTIONS:
                    pass
                case ast.Attribute(attr=name) if name in PURE_METHODS:
                    pass
                case _:
                    yield f"line {call.lineno}: {ast.unparse(call)}"


def test_no_assert_has_an_effect() -> None:
    for path in sorted(PACKAGE.rglob("*.py")):
        found = list(impure_calls(path.read_text("utf-8")))
        assert not found, f"{path.relative_to(ROOT)} calls within an assert: {found}"


@pytest.mark.parametrize(
    ("statement", "effect"),
    [
        ("assert config.set_compute_capability(capability, index)", True),
        ("assert len(rows) == pop()", True),
        ("assert all(take(row) for row in rows)", True),
        ("assert (line := read)", True),
        ("assert len(rows) == int(lengths.sum()) >= 1, f'{rows()}'", False),
        ("done = take()\nassert done", False),
    ],
)
def test_asserts_with_effects_are_seen(statement: str, effect: bool) -> None:
    assert bool(list(impure_calls(statement))) == effect


LEAN_PROBE = """
import importlib, importlib.abc, sys

class Blocker(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {heavy!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}} (blocked)", name=name)

sys.meta_path.insert(0, Blocker())
for module in {modules!r}:
    importlib.import_module(module)
"""


@pytest.mark.lean
def test_lean_modules_import_where_heavy_packages_are_absent() -> None:
    modules = [name for name in module_names() if not is_heavy(name)]
    code = LEAN_PROBE.format(heavy=HEAVY, modules=modules)
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.lean
def test_importing_the_package_loads_nothing_large() -> None:
    code = "import sys, altogether_rt.cli.main; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert not {"numpy", "onnxruntime", "PIL", "tokenizers", *HEAVY} & set(done.stdout.split())


@pytest.mark.lean
def test_public_names_load_on_first_use() -> None:
    from altogether_rt.config import CaptionerConfig

    assert altogether_rt.CaptionerConfig is CaptionerConfig
    assert "Captioner" in dir(altogether_rt)
    with pytest.raises(AttributeError, match="no attribute 'Captoiner'"):
        _ = altogether_rt.Captoiner


@pytest.mark.lean
def test_recipes_are_found_in_a_checkout_and_in_an_installed_wheel() -> None:
    """`tasks.py test` runs this on the checkout, `tasks.py lean` on the wheel."""
    from altogether_rt.export.recipes import find_recipe, target_names

    files = {path.stem for path in (ROOT / "export" / "recipes").glob("*.toml")}
    assert "cpu-int8" in files
    assert set(target_names()) == files
    for name in files:
        assert find_recipe(name).target.name == name


#: What people read, but for the changelog, whose commands are those of their time.
GUIDES = (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md")))


def test_commands_of_the_guides_exist() -> None:
    text = "\n".join(path.read_text("utf-8") for path in GUIDES)
    tasks = subprocess.run(
        [sys.executable, "tasks.py", "--help"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    used_tasks = set(re.findall(r"python3 tasks\.py (\w+)", text))
    assert {"demo", "test"} <= used_tasks
    for task in used_tasks:
        assert f"python3 tasks.py {task}" in tasks, f"tasks.py has no task {task}"
    used_commands = set(re.findall(r"\$ altogether-rt ([\w-]+)", text))
    known = {name.partition(" ")[0] for name in COMMANDS}
    assert known > used_commands > {"caption", "train", "export", "annotate", "export-captions"}


def heading_anchors(text: str) -> set[str]:
    """The anchors that GitHub gives the headings of a document."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", [*GUIDES, ROOT / "CHANGELOG.md"], ids=lambda path: path.name)
def test_links_of_the_documents_lead_to_something(document: Path) -> None:
    for link in re.findall(r"\]\((?!https?://)([^)]+)\)", document.read_text("utf-8")):
        name, _, anchor = link.partition("#")
        target = (document.parent / name) if name else document
        assert target.exists(), f"{link} is not there"
        if anchor:
            assert anchor in heading_anchors(target.read_text("utf-8")), f"{link} has no heading"


@pytest.mark.parametrize("document", GUIDES, ids=lambda path: path.name)
def test_scripts_and_tests_named_in_the_guides_exist(document: Path) -> None:
    text = document.read_text("utf-8")
    for path in re.findall(r"\b((?:tests|benchmarks)/[\w/.-]*\w)", text):
        assert list(ROOT.glob(path)), f"{path} is not there"
    for module in re.findall(r"python -m ((?:tests|benchmarks)[\w.]*)", text):
        path = ROOT / module.replace(".", "/")
        assert path.with_suffix(".py").is_file() or (path / "__main__.py").is_file(), module


def test_extras_named_by_the_command_line_exist() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    named = {*EXTRA_OF_PACKAGE.values(), *(spec.extra for spec in COMMANDS.values())}
    assert named <= set(project["optional-dependencies"])
    base = " ".join(project["dependencies"])
    assert not re.search(r"torch|transformers|open_clip|onnx", base)


def test_ci_runs_the_python_versions_that_are_promised() -> None:
    """Classifiers name the tested versions; requires-python admits the experimental ones too."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    bounds = re.fullmatch(r">=3\.(\d+),<3\.(\d+)", project["requires-python"])
    assert bounds is not None
    admitted = {f"3.{minor}" for minor in range(int(bounds[1]), int(bounds[2]))}
    pattern = re.compile(r"Programming Language :: Python :: (3\.\d+)")
    promised = {m[1] for text in project["classifiers"] if (m := pattern.fullmatch(text))}
    workflow = (ROOT / ".github" / "workflows" / "ci.yml").read_text("utf-8")
    runs = dict(re.findall(r'python: "(3\.\d+)", experimental: (true|false)', workflow))
    assert "run: python3 tasks.py ci\n" in workflow
    assert "continue-on-error: ${{ matrix.experimental }}" in workflow
    assert set(runs) == admitted
    assert {
        version for version, experimental in runs.items() if experimental == "false"
    } == promised


def test_project_urls_lead_to_one_repository() -> None:
    urls = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["urls"]
    assert set(urls) == {"Homepage", "Repository", "Issues", "Changelog"}
    assert all(url.startswith(urls["Repository"]) for url in urls.values())
    assert (ROOT / urls["Changelog"].rpartition("/")[2]).is_file()


def test_tool_versions_agree() -> None:
    """pre-commit and CI run the same ruff."""
    constraints = (ROOT / "constraints.txt").read_text("utf-8")
    ruff = re.search(r"^ruff==(\S+)$", constraints, re.M)
    hooks = (ROOT / ".pre-commit-config.yaml").read_text("utf-8")
    assert ruff is not None
    assert f"rev: v{ruff[1]}" in hooks
