"""A command whose options are the fields of a dataclass, so that they are listed once; and what no
command may be given.

With many options, a function that takes each by itself would list them twice: in its signature, and
where it hands them on.
"""

from __future__ import annotations

import copy
import functools
import inspect
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, Field, fields
from typing import Annotated, Any, Final, TypeVar, get_args, get_type_hints

import typer
from typer.core import TyperArgument, TyperCommand, TyperOption

__all__ = ["CheckedCommand", "takes"]

Arguments = TypeVar("Arguments")


def takes(
    arguments: type[Arguments], *, panels: Mapping[str, Sequence[str]] | None = None
) -> Callable[[Callable[[typer.Context, Arguments], None]], Callable[..., None]]:
    """Make a function of a context and a dataclass a command, whose options are the fields.

    A field's type is annotated as typer takes it. One without a default is required.
    panels: heading -> fields; groups the options in `--help`.
    """
    panel_of = {name: panel for panel, names in (panels or {}).items() for name in names}

    def decorate(function: Callable[[typer.Context, Arguments], None]) -> Callable[..., None]:
        @functools.wraps(function)
        def command(context: typer.Context, **given: Any) -> None:
            function(context, arguments(**given))

        vars(command)["__signature__"] = _signature(arguments, panel_of)
        return command

    return decorate


def _signature(arguments: type, panel_of: Mapping[str, str]) -> inspect.Signature:
    types = get_type_hints(arguments, include_extras=True)
    types |= {name: _in_panel(types[name], panel) for name, panel in panel_of.items()}
    keyword = inspect.Parameter.KEYWORD_ONLY
    context = inspect.Parameter("context", keyword, annotation=typer.Context)
    options = [
        inspect.Parameter(each.name, keyword, default=_default(each), annotation=types[each.name])
        for each in fields(arguments)
    ]
    return inspect.Signature([context, *options], return_annotation=None)


def _in_panel(annotation: Any, panel: str) -> Any:
    kind, option = get_args(annotation)
    option = copy.copy(option)  # other commands have it too, under other headings
    option.rich_help_panel = panel
    return Annotated[kind, option]


def _default(field: Field[Any]) -> Any:
    return inspect.Parameter.empty if field.default is MISSING else field.default


#: Options whose empty value the command explains by itself.
_EXPLAINED: Final = frozenset({"prompt"})
#: Inputs of which people may think that several are read. Of other options the last value counts,
#: as is usual, so that a script can append to what it was given.
_ONE_INPUT: Final = frozenset({"alt", "embeddings", "join"})


class CheckedCommand(TyperCommand):
    """A command that refuses what would otherwise be read as something else.

    An empty value, such as a variable of the shell that is not set, would mean the current folder;
    of several input files only the last would be read.
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        # The parser consumes the list that it is given.
        values, _, order = self.make_parser(ctx).parse_args(args=list(args))
        # Whoever asks for help gets it, whatever else is on the line.
        if not values.get("help"):
            _check(ctx, values, Counter(each.name for each in order), self.get_params(ctx))
        return super().parse_args(ctx, args)


def _check(ctx: Any, values: dict[str, Any], given: Counter[str], params: list[Any]) -> None:
    """Raises typer.BadParameter for the first parameter that is empty, or a second input file."""
    for param in params:
        value = values.get(param.name)
        if isinstance(param, TyperArgument):
            if value == "":
                raise typer.BadParameter("it is empty: give a value.", ctx, param)
        elif isinstance(param, TyperOption) and not param.is_flag and not param.multiple:
            if param.name in _ONE_INPUT and given[param.name] > 1:
                raise typer.BadParameter(
                    "it takes one file and is given more than once: put the files together.",
                    ctx,
                    param,
                )
            if value == "" and param.name not in _EXPLAINED:
                raise typer.BadParameter(
                    "it is empty: give a value, or leave the option out.", ctx, param
                )
