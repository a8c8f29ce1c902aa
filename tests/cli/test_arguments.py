"""Commands whose options are the fields of a dataclass."""

from __future__ import annotations

import dataclasses
import inspect
from typing import Annotated, Any

import pytest
import typer
from typer.testing import CliRunner

from altogether_rt.cli.arguments import takes
from altogether_rt.cli.commands.caption.arguments import PANELS, CaptionArguments

pytestmark = pytest.mark.lean


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arguments:
    """Stands in for those of a command; the types are names of this module."""

    folder: Annotated[str, typer.Argument(help="Where it is.")]
    limit: Annotated[int | None, typer.Option(min=1, help="How many.")] = None
    strict: Annotated[bool, typer.Option("--strict", help="No mistakes.")] = False


def run(*given: str) -> tuple[int, str, list[Any]]:
    """Exit code, output, and what the function was called with."""
    calls: list[Any] = []

    @takes(Arguments)
    def command(context: typer.Context, arguments: Arguments) -> None:
        """Do it once."""
        calls.append((dict(context.params), arguments))

    app = typer.Typer(add_completion=False)
    app.command()(command)
    done = CliRunner().invoke(app, list(given), env={"COLUMNS": "100"})
    return done.exit_code, done.output, calls


def test_fields_are_options() -> None:
    code, _, calls = run("photos", "--limit", "3")
    expected = Arguments(folder="photos", limit=3)
    assert (code, calls) == (0, [(dataclasses.asdict(expected), expected)])
    assert run("photos", "--strict")[2][0][1] == Arguments(folder="photos", strict=True)


def test_what_is_wrong_is_told_by_the_option() -> None:
    code, output, calls = run()
    assert (code, calls) == (2, [])
    assert "Missing argument 'folder'" in output
    code, output, calls = run("photos", "--limit", "0")
    assert (code, calls) == (2, [])
    assert "Invalid value for '--limit'" in output


def test_help_is_the_docstring_and_the_fields_in_their_order() -> None:
    code, output, _ = run("--help")
    assert code == 0
    told = ["Do it once.", "Where it is.", "How many.", "No mistakes."]
    assert [output.count(each) for each in told] == [1, 1, 1, 1]
    assert sorted(told, key=output.index) == told


def test_options_are_grouped_by_panel_and_those_of_others_stay_as_they_are() -> None:
    """`Arguments.limit` may be an option of other commands too, under no heading there."""

    @takes(Arguments, panels={"Which ones": ("limit",)})
    def command(context: typer.Context, arguments: Arguments) -> None:
        """Do it once."""

    app = typer.Typer(add_completion=False)
    app.command()(command)
    output = CliRunner().invoke(app, ["--help"], env={"COLUMNS": "100"}).output
    options, heading = output.index("─ Options ─"), output.index("─ Which ones ─")
    assert options < output.index("--strict") < heading < output.index("--limit")
    assert "Which ones" not in run("--help")[1]


def test_every_option_of_caption_has_one_heading_or_is_of_the_first() -> None:
    grouped = [name for names in PANELS.values() for name in names]
    assert len(grouped) == len(set(grouped))
    first = {each.name for each in dataclasses.fields(CaptionArguments)} - set(grouped)
    assert first == {"inputs", "alt", "bundle", "out", "sheet", "as_json", "quiet"}


def test_the_signature_has_the_defaults_of_the_fields() -> None:
    @takes(Arguments)
    def command(context: typer.Context, arguments: Arguments) -> None: ...

    context, folder, limit, strict = inspect.signature(command).parameters.values()
    assert context.annotation is typer.Context
    assert folder.default is inspect.Parameter.empty
    assert (limit.name, limit.default, strict.name, strict.default) == (
        *("limit", None),
        *("strict", False),
    )
