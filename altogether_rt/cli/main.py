"""`altogether-rt`: finds the command, runs it, and prints its errors as sentences.

Exit codes: 0 success, 1 failure, 2 usage error, 130 interrupted, 143 terminated.
"""

from __future__ import annotations

import importlib
import io
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any, TextIO

import typer
from typer.core import TyperGroup

from altogether_rt import __version__
from altogether_rt.cli.arguments import CheckedCommand
from altogether_rt.cli.failures import FAILURES, failure
from altogether_rt.cli.output import Output, printable
from altogether_rt.cli.registry import COMMANDS, EXTRA_OF_PACKAGE, GROUPS, PANELS, CommandSpec
from altogether_rt.errors import MissingDependencyError
from altogether_rt.monitoring.text import print_traceback

__all__ = ["app", "run"]

#: How typer's messages begin where it lets pydantic check a value.
_OF_PYDANTIC = "Value error, "

_SETTINGS = {"help_option_names": ["-h", "--help"]}


class CommandGroup(TyperGroup):
    """Holds a placeholder for each command of the table and imports a command when it is run."""

    prefix = ""  # of its commands' keys in the table: "scenes "
    default = ""  # the command to use if the first word names none

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        known = {*self.commands, *ctx.help_option_names}
        if self.default and args and args[0] not in known:
            args = [self.default, *args]
        return super().parse_args(ctx, args)

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        name, found, rest = super().resolve_command(ctx, args)  # fails, with a hint, if unknown
        if isinstance(found, CommandGroup):
            return name, found, rest
        return name, load_command(self.prefix + args[0]), rest

    def format_help(self, ctx: Any, formatter: Any) -> None:
        if self.prefix:
            self.epilog = _examples(self.prefix)
        super().format_help(ctx, formatter)


class RootGroup(CommandGroup):
    """`altogether-rt` itself; it prints the errors of all commands as sentences."""

    def make_context(self, *args: Any, **kwargs: Any) -> Any:
        with _safe_messages():
            return super().make_context(*args, **kwargs)

    def invoke(self, ctx: Any) -> Any:
        try:
            with _safe_messages():
                result = super().invoke(ctx)
            _flush_stdout()  # now, while a closed pipe can be told from a failure
            return result
        except BrokenPipeError:  # the reader, such as `head`, has stopped reading
            _discard_stdout()
            raise typer.Exit(1) from None
        except FAILURES as error:
            found = failure(error)
            if found is None:
                raise  # a bug, or an exit
            code, message = found
        Output().error(message)
        raise typer.Exit(code)


@contextmanager
def _safe_messages() -> Iterator[None]:
    """Usage errors repeat what was given: make it harmless to a terminal."""
    try:
        yield
    except Exception as error:
        for name in ("message", "param_hint", "option_name"):
            text = getattr(error, name, None)
            if isinstance(text, str):
                setattr(error, name, printable(text.removeprefix(_OF_PYDANTIC)))
        raise


def load_command(name: str) -> Any:
    """Import a command's module and build the command. Raises MissingDependencyError."""
    spec = COMMANDS[name]
    single = typer.Typer(
        add_completion=False, context_settings=_SETTINGS, pretty_exceptions_enable=False
    )
    own_name = name.rpartition(" ")[2]
    single.command(own_name, cls=CheckedCommand, epilog=_examples(name))(
        _import_function(name, spec)
    )
    return typer.main.get_command(single)


def _examples(name: str) -> str:
    """What is shown below the help of a command, or of a group (`"scenes "`): one of each."""
    from altogether_rt.cli.examples import EXAMPLES

    lines = EXAMPLES.get(name) or [EXAMPLES[key][0] for key in COMMANDS if key.startswith(name)]
    return "\n\n".join(("Examples:", *lines))


def _import_function(name: str, spec: CommandSpec) -> Any:
    """The command's function, wrapped so that a package found missing later is explained too."""
    import functools

    module, _, function_name = spec.target.partition(":")
    try:
        function = getattr(importlib.import_module(module), function_name)
    except ModuleNotFoundError as error:
        raise _explain_missing(error, name, spec) from error

    @functools.wraps(function)
    def command(*args: Any, **kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        except ModuleNotFoundError as error:
            raise _explain_missing(error, name, spec) from error

    return command


def _explain_missing(error: ModuleNotFoundError, name: str, spec: CommandSpec) -> Exception:
    package = (error.name or "").partition(".")[0]
    if not package or package == "altogether_rt":
        return error  # our own module: a broken installation deserves its traceback
    extra = EXTRA_OF_PACKAGE.get(package, spec.extra)
    if extra == "train" and spec.extra == "export":
        extra = "export"  # includes `train`
    return MissingDependencyError(package, extra, f"altogether-rt {name}")


def _flush_stdout() -> None:
    stdout: TextIO | None = sys.stdout  # None where the program was started with stdout closed
    if stdout is not None:
        stdout.flush()


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """Print a library's warning as one line; it may repeat what a file holds."""
    print(printable(f"{category.__name__}: {message}"), file=file or sys.stderr)


def _discard_stdout() -> None:
    """Redirect stdout to the null device, so that the flush at exit cannot fail."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"altogether-rt {__version__}")
        raise typer.Exit


app = typer.Typer(
    cls=RootGroup,
    add_completion=False,
    no_args_is_help=True,
    context_settings=_SETTINGS,
    pretty_exceptions_enable=False,  # a traceback means a bug and is printed whole
)


@app.callback(epilog="altogether-rt COMMAND --help shows a command's options and examples.")
def main(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    """Image captions re-aligned from alt-text: train, export once, caption anywhere."""


def _placeholder() -> None:
    """Never runs: CommandGroup loads the real command."""


def _add_group(name: str, panel: str) -> None:
    """Add a command whose --help lists its sub-commands."""
    spec, prefix = GROUPS[name], f"{name} "
    commands = {
        key.removeprefix(prefix): c for key, c in COMMANDS.items() if key.startswith(prefix)
    }
    kind = type("Group", (CommandGroup,), {"prefix": prefix, "default": spec.default})
    group = typer.Typer(cls=kind, no_args_is_help=True, context_settings=_SETTINGS)
    for own_name, command in commands.items():
        group.command(own_name, help=command.summary)(_placeholder)
    app.add_typer(group, name=name, help=spec.summary, rich_help_panel=panel)


for _panel, _names in PANELS.items():
    for _name in _names:
        if _name in GROUPS:
            _add_group(_name, _panel)
        else:
            _summary = COMMANDS[_name].summary
            app.command(_name, help=_summary, rich_help_panel=_panel)(_placeholder)


def run() -> None:
    """Entry point of the `altogether-rt` script."""
    warnings.showwarning = _show_warning
    for stream in (sys.stdout, sys.stderr):
        # A terminal that cannot show a character gets its escape instead of ending the run.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        app(prog_name="altogether-rt")
    except Exception as error:  # a bug; its message may hold anything
        print_traceback(error)
        sys.exit(1)
    finally:
        try:
            _flush_stdout()
        except BrokenPipeError:
            _discard_stdout()


if __name__ == "__main__":
    run()
