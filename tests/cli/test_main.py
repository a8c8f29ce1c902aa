"""The command line's frame: finding commands, explaining errors, exit codes."""

from __future__ import annotations

import os
import subprocess
import sys
import types
from collections.abc import Callable
from typing import Annotated

import pytest
import typer
from typer.testing import CliRunner

from altogether_rt import __version__
from altogether_rt.cli import registry as commands
from altogether_rt.cli.examples import EXAMPLES
from altogether_rt.cli.main import app
from altogether_rt.cli.registry import COMMANDS, GROUPS, PANELS, CommandSpec
from altogether_rt.errors import AltogetherError

pytestmark = pytest.mark.lean

runner = CliRunner()
AddCommand = Callable[..., None]


@pytest.fixture
def add_command(monkeypatch: pytest.MonkeyPatch) -> AddCommand:
    """Put a function in the place of the command `bench`, or under another name of the table."""

    def add(function: object, name: str = "bench", extra: str = "cpu") -> None:
        module = types.ModuleType("altogether_rt.cli.commands.stand_in")
        module.command = function  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, module.__name__, module)
        spec = CommandSpec(f"{module.__name__}:command", "Stands in.", extra)
        monkeypatch.setitem(commands.COMMANDS, name, spec)

    return add


def test_help_lists_every_command() -> None:
    result = runner.invoke(app, ["--help"], terminal_width=200)
    assert result.exit_code == 0
    listed = {line.split()[1] for line in result.stdout.splitlines() if line.startswith("│ ")}
    assert {name for name in COMMANDS if " " not in name} | set(GROUPS) <= listed


def test_every_command_has_one_heading() -> None:
    under = [name for names in PANELS.values() for name in names]
    assert sorted(under) == sorted({name.partition(" ")[0] for name in COMMANDS})


@pytest.mark.parametrize("group", sorted(GROUPS))
def test_help_of_a_group_lists_its_commands_with_an_example_each(group: str) -> None:
    result = runner.invoke(app, [group, "--help"], terminal_width=200)
    assert result.exit_code == 0
    for name in COMMANDS:
        if name.startswith(f"{group} "):
            assert f"│ {name.removeprefix(group).strip()} " in result.stdout
            assert " ".join(EXAMPLES[name][0].split()) in " ".join(result.stdout.split())
    assert runner.invoke(app, [group]).exit_code == 2


def test_every_command_has_examples_which_are_imported_with_it_alone() -> None:
    assert list(EXAMPLES) == list(COMMANDS)
    for name, lines in EXAMPLES.items():
        assert lines
        first, _, second = name.partition(" ")
        assert all(line.split()[:2] == ["altogether-rt", first] for line in lines)
        assert not second or lines[0].split()[2] == second
    code = (
        "import sys; from altogether_rt.cli import main; print('altogether_rt.cli.examples' in {})"
    )
    done = subprocess.run(
        [sys.executable, "-c", code.format("sys.modules")], capture_output=True, text=True
    )
    assert done.stdout == "False\n"


def test_every_command_of_a_group_has_its_group() -> None:
    assert {name.partition(" ")[0] for name in COMMANDS if " " in name} == set(GROUPS)
    assert not set(GROUPS) & set(COMMANDS)
    for group, spec in GROUPS.items():
        assert not spec.default or f"{group} {spec.default}" in COMMANDS


def test_version() -> None:
    result = runner.invoke(app, ["--version"])
    assert (result.exit_code, result.stdout) == (0, f"altogether-rt {__version__}\n")


def test_command_gets_its_arguments_and_shows_its_examples(add_command: AddCommand) -> None:
    def command(
        folder: str,
        count: Annotated[int, typer.Option(help="How many.")] = 3,
    ) -> None:
        """What it does."""
        print(folder, count)

    add_command(command)
    assert runner.invoke(app, ["bench", "here", "--count", "5"]).stdout == "here 5\n"
    help_text = runner.invoke(app, ["bench", "-h"], terminal_width=120).stdout
    assert "What it does." in help_text
    assert "How many." in help_text
    assert EXAMPLES["bench"][0] in help_text
    assert (
        "altogether-rt bench"
        in runner.invoke(app, ["bench", "-h"], prog_name="altogether-rt").stdout
    )


def test_command_within_a_command(add_command: AddCommand) -> None:
    def score(captions: str) -> None:
        print("score", captions)

    add_command(score, "scenes score")
    assert runner.invoke(app, ["scenes", "score", "c.jsonl"]).stdout == "score c.jsonl\n"
    usage = runner.invoke(app, ["scenes", "score", "-h"], prog_name="altogether-rt").stdout
    assert "altogether-rt scenes score [OPTIONS]" in usage


@pytest.mark.parametrize(
    "arguments", [["draw", "out"], ["out"], ["--num", "3", "out"], ["draw", "score"]]
)
def test_a_group_may_have_a_command_that_goes_without_saying(
    add_command: AddCommand, arguments: list[str]
) -> None:
    def draw(out: str, num: int = 3) -> None:
        print("draw", out, num)

    add_command(draw, "scenes draw")
    found = runner.invoke(app, ["scenes", *arguments])
    assert found.stdout == f"draw {arguments[-1]} 3\n"


@pytest.mark.parametrize(
    "arguments", [["captoin"], ["bench", "--no-such-option"], ["bench"], ["--no-such-option"], []]
)
def test_usage_errors_exit_with_2(add_command: AddCommand, arguments: list[str]) -> None:
    def command(folder: str) -> None:
        raise AssertionError("must not run")

    add_command(command)
    assert runner.invoke(app, arguments).exit_code == 2


def test_a_mistyped_command_gets_a_suggestion() -> None:
    assert "'caption'" in runner.invoke(app, ["captoin"]).stderr


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (AltogetherError("the bundle b is not there: give a folder."), 1, "give a folder"),
        (KeyboardInterrupt(), 130, "Interrupted"),
        (PermissionError(13, "Permission denied", "out.jsonl"), 1, "Permission denied (out.jsonl)"),
    ],
)
def test_errors_become_one_line(
    add_command: AddCommand, error: BaseException, code: int, words: str
) -> None:
    def command() -> None:
        raise error

    add_command(command)
    result = runner.invoke(app, ["bench"])
    assert result.exit_code == code
    assert result.stdout == ""
    assert words in result.stderr
    assert result.stderr.count("\n") == 1
    assert "Traceback" not in result.stderr


def test_a_bug_keeps_its_traceback(add_command: AddCommand) -> None:
    def command() -> None:
        raise ZeroDivisionError("a bug")

    add_command(command)
    assert isinstance(runner.invoke(app, ["bench"]).exception, ZeroDivisionError)


@pytest.mark.parametrize(
    ("package", "extra"), [("onnxruntime", "cpu"), ("torch.nn", "export"), ("anything", "export")]
)
def test_a_missing_package_names_its_extra(
    add_command: AddCommand, package: str, extra: str
) -> None:
    def command() -> None:
        raise ModuleNotFoundError(f"No module named {package!r}", name=package)

    add_command(command, extra="export")
    result = runner.invoke(app, ["bench"])
    assert result.exit_code == 1
    assert f"pip install 'altogether-rt[{extra}]'" in result.stderr
    assert result.stderr.count("\n") == 1


def test_a_module_of_ours_that_is_missing_is_a_bug(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = CommandSpec("altogether_rt.cli.commands.absent:command", "", "cpu")
    monkeypatch.setitem(commands.COMMANDS, "bench", spec)
    assert isinstance(runner.invoke(app, ["bench"]).exception, ModuleNotFoundError)


def test_a_reader_that_stops_reading_is_no_error() -> None:
    code = (
        "import sys, types; from altogether_rt.cli import main, registry as commands\n"
        "def command(): [print('x' * 1000) for _ in range(10_000)]\n"
        "m = types.ModuleType('stand_in'); m.command = command; sys.modules['stand_in'] = m\n"
        "commands.COMMANDS['bench'] = commands.CommandSpec('stand_in:command', '', 'cpu')\n"
        "sys.argv = ['altogether-rt', 'bench']; main.run()\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stderr is not None
    assert process.stdout.readline() == "x" * 1000 + "\n"
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait(30) == 1
    process.stderr.close()


@pytest.mark.parametrize(
    ("redirect", "encoding"), [(">&-", "utf-8"), ("2>&-", "utf-8"), ("", "ascii")]
)
def test_closed_streams_and_narrow_encodings_end_no_run(redirect: str, encoding: str) -> None:
    code = (
        "import sys, types; from altogether_rt.cli import main, registry as commands\n"
        "def command(): print('caf\\u00e9'); print('caf\\u00e9', file=sys.stderr)\n"
        "m = types.ModuleType('stand_in'); m.command = command; sys.modules['stand_in'] = m\n"
        "commands.COMMANDS['bench'] = commands.CommandSpec('stand_in:command', '', 'cpu')\n"
        "sys.argv = ['altogether-rt', 'bench']; main.run()\n"
    )
    done = subprocess.run(
        ["bash", "-c", f'exec "$0" -c "$1" {redirect}', sys.executable, code],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONIOENCODING": encoding},
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    if encoding == "ascii":
        assert done.stdout == "caf\\xe9\n"


def test_ctrl_c_while_the_command_line_is_loaded_ends_it_quietly() -> None:
    """Sent when typer is first looked for, which the command line imports before anything else."""
    code = """
import os, runpy, signal, sys

class CtrlC:
    def find_spec(self, name, *_):
        if name == "typer":
            os.kill(os.getpid(), signal.SIGINT)

signal.signal(signal.SIGINT, signal.default_int_handler)  # also where pytest runs in the background
sys.meta_path.insert(0, CtrlC())
runpy.run_module("altogether_rt", run_name="__main__")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


def test_the_package_can_be_run_as_a_module() -> None:
    command = [sys.executable, "-m", "altogether_rt", "--version"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, f"altogether-rt {__version__}\n")


def test_a_value_that_is_no_choice_is_said_plainly() -> None:
    done = CliRunner().invoke(app, ["caption", "photos", "--style", "alt-text"])
    assert done.exit_code == 2
    assert "Invalid value for '--style': 'alt-text' is not one of" in done.output
