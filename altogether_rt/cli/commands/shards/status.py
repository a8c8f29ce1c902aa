"""`altogether-rt status`: how far a run over shards has come."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from altogether_rt.cli.commands.shards.report import listed, row_sentences
from altogether_rt.cli.output import Output, format_duration
from altogether_rt.data.problems import counted

if TYPE_CHECKING:
    from altogether_rt.jobs.shards.status import RunStatus

__all__ = ["status_command"]

Folder = Annotated[str, typer.Argument(metavar="OUT", help="Folder or URL that caption wrote to.")]
Json = Annotated[bool, typer.Option("--json", help="Print the state as one JSON line.")]


def status_command(out: Folder, as_json: Json = False) -> None:
    """Show the progress of a run over shards: shards and rows by state, and which are bad.

    It reads only names and statistics, and may be used while the run goes on.
    """
    from altogether_rt.jobs.shards.status import read_status

    status = read_status(out)
    Output(as_json=as_json).result(_data(out, status), _sentences(out, status))


def _sentences(out: str, status: RunStatus) -> list[str]:
    from altogether_rt.jobs.shards.status import STATES

    counts = status.counts
    states = [f"{status.shards[state]:,} {state}" for state in STATES if status.shards[state]]
    rows = f"{counts.rows:,} rows, {counts.captioned:,} of them captions"
    if status.num_durable:
        rows += f"; {status.num_durable:,} more in unfinished shards"
    lines = [
        f"{out}: {counted(status.shards.total(), 'shard', 'shards')}: "
        f"{', '.join(states) or 'none begun'}.",
        f"  {rows}.",
    ]
    lines += row_sentences(counts)
    for state, problems in status.bad.items():
        lines.append(f"  {state}: {listed(problems)}")
    if status.seconds_left:
        lines.append(
            f"  About {status.num_expected or 0:,} rows in unfinished shards: "
            f"{format_duration(status.seconds_left)} for "
            f"{max(1, status.shards['running']):,} at a time."
        )
    return lines


def _data(out: str, status: RunStatus) -> dict[str, Any]:
    from altogether_rt.jobs.shards.status import STATES

    counts = status.counts
    return {
        "out": out,
        "shards": {state: status.shards[state] for state in STATES},
        "rows": counts.rows,
        "captioned": counts.captioned,
        "failed": dict(counts.errors),
        "examples": counts.examples,
        "tokens": counts.tokens,
        "captions_empty": counts.empty,
        **counts.alts.to_dict(),
        **counts.checks_data(),
        "rows_in_unfinished_shards": status.num_durable,
        "rows_expected_there": status.num_expected,
        "seconds_left": status.seconds_left,
        "bad": {
            state: {"count": problems.count, "examples": problems.examples}
            for state, problems in status.bad.items()
        },
    }
