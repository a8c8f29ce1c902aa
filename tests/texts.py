"""Everything that the command line says, on one page to be read: `python3 tasks.py texts`.

First the help of every command, then every sentence that the package can raise, with its place in
the source. Values that are filled in at run time stand in braces.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from typer.testing import CliRunner

from altogether_rt.cli.main import app
from altogether_rt.cli.registry import COMMANDS

__all__ = ["error_messages", "help_texts", "main"]

PACKAGE = Path(__file__).resolve().parent.parent / "altogether_rt"

#: Exceptions whose words reach a user, and functions that print some.
_SPEAKERS = re.compile(r"(\w*Error|BadParameter|_require|Exit|note|warn|error)$")


def help_texts() -> Iterator[tuple[str, str]]:
    """(command, its help), of the program itself first."""
    for name in ("", *COMMANDS):
        done = CliRunner().invoke(
            app, [*name.split(), "--help"], env={"COLUMNS": "100"}, prog_name="altogether-rt"
        )
        assert done.exit_code == 0, f"{name}: {done.output}"
        yield f"altogether-rt {name}".rstrip(), done.output


def error_messages() -> Iterator[tuple[str, str]]:
    """(module:line, sentence) of every text given to an exception or to the user's attention."""
    for path in sorted(PACKAGE.rglob("*.py")):
        module = path.relative_to(PACKAGE.parent).as_posix()
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            name = node.func.attr if isinstance(node.func, ast.Attribute) else ""
            name = node.func.id if isinstance(node.func, ast.Name) else name
            if not _SPEAKERS.match(name):
                continue
            for argument in (*node.args, *(keyword.value for keyword in node.keywords)):
                text = _text(argument)
                if text is not None and " " in text.strip():
                    yield f"{module}:{node.lineno}", text


def _text(node: ast.expr) -> str | None:
    """The text of a literal or an f-string, values in braces; None for anything else."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(
            str(part.value) if isinstance(part, ast.Constant) else f"{{{_inner(part)}}}"
            for part in node.values
        )
    return None


def _inner(part: ast.expr) -> str:
    return ast.unparse(part.value) if isinstance(part, ast.FormattedValue) else "…"


def main() -> None:
    for command, text in help_texts():
        print(f"=== {command}\n{text}")
    print("=== sentences")
    for where, sentence in error_messages():
        print(f"{where}: {sentence}")


if __name__ == "__main__":
    main()
