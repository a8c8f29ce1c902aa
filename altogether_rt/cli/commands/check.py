"""`altogether-rt check`: what came of the captions of a file, by rules."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, BinaryIO

import typer

from altogether_rt.artifacts.files import new_file
from altogether_rt.cli.output import Output
from altogether_rt.data.check_counts import CheckCounts
from altogether_rt.data.rows import Row, encode_row, read_rows
from altogether_rt.errors import AltogetherError
from altogether_rt.wording.checks import CaptionChecker

__all__ = ["check_command"]


def check_command(
    captions: Annotated[
        Path, typer.Argument(metavar="CAPTIONS", help="Output file of altogether-rt caption.")
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Also write the rows with their checks to this new file."
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON line instead of text.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print errors only.")] = False,
) -> None:
    """Check captions: words kept from alt-texts, names added, refusals, loops.

    The rules are those of caption --checks. Of the prompt they know what the rows record.
    """
    output = Output(as_json=as_json, quiet=quiet)
    if not captions.is_file():
        raise AltogetherError(f"there is no file of captions {captions}.")
    if out is not None and (out.exists() or out.is_symlink()):
        raise AltogetherError(f"{out} is there already: name another --out.")
    counts, num_failed = CheckCounts(), 0
    with ExitStack() as stack:
        source = stack.enter_context(captions.open("rb"))
        target = None if out is None else stack.enter_context(new_file(out))
        progress = stack.enter_context(output.progress(None, "captions"))
        for row in _rows(source, captions):
            if "error" in row:
                num_failed += 1
            else:
                row = {**row, "checks": _checks(row)}
                counts.add(row["file_name"], row["checks"])
            if target is not None:
                target.write(encode_row(row))
            progress.advance()
        if not counts.num_checked:
            raise AltogetherError(f"there are no captions in {captions}.")
    data = {**counts.to_dict(), "failed": num_failed, "out": None if out is None else str(out)}
    output.result(data, f"{captions}: {counts.sentence()}")


def _rows(file: BinaryIO, path: Path) -> Iterator[Row]:
    for offset, row, _ in read_rows(file):
        if row is None:
            raise AltogetherError(
                f"{path} has a line that is not a row, at byte {offset:,}: give the output of "
                "altogether-rt caption."
            )
        yield row


def _checks(row: Row) -> dict[str, Any]:
    read = row.get("alt_used", row.get("alt"))
    alts = [text for text in (read if isinstance(read, list) else [read]) if isinstance(text, str)]
    params = row.get("params")
    prompt = params.get("prompt") if isinstance(params, dict) else None
    checker = _checker(prompt if isinstance(prompt, str) else "")
    return checker.check(row["caption"], alts, row.get("finish_reason"))


@lru_cache(4)
def _checker(prompt: str) -> CaptionChecker:
    """Rows of a file have one prompt, or those of a few runs."""
    return CaptionChecker([prompt])
