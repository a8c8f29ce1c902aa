"""What a run over shards says when it is over."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from altogether_rt.cli.hygiene import hygiene_sentences
from altogether_rt.cli.output import Output, format_duration
from altogether_rt.data.problems import Problems, counted

if TYPE_CHECKING:
    from altogether_rt.data.hygiene.clean import HygieneOptions
    from altogether_rt.data.sinks.shards.stats import RowCounts
    from altogether_rt.jobs.shards.run import ShardSummary

__all__ = [
    "BUSY",
    "INCOMPLETE",
    "changed_sentence",
    "exit_code",
    "listed",
    "problems_data",
    "report",
    "row_sentences",
]

#: Exit codes of shards that are not done: samples are missing; another process has them.
INCOMPLETE = 3
BUSY = 75


def exit_code(summary: ShardSummary) -> int:
    """0: all shards are done; 1: some failed; 3: some lack samples; 75: some are not finished."""
    if summary.shards["failed"]:
        return 1
    if summary.shards["incomplete"] or summary.num_replaced:
        return INCOMPLETE
    return BUSY if summary.shards["busy"] else 0


def report(
    out: str,
    summary: ShardSummary,
    hygiene: HygieneOptions,
    output: Output,
    captioner_notes: Sequence[str] = (),
) -> None:
    """Print what a run did.

    hygiene: what was done to its alt-texts. captioner_notes: why captions may not be what is
    expected, as said before the run.
    """
    if summary.changed:
        output.note(changed_sentence(summary.changed))
    for sentence in hygiene_sentences(summary.counts.alts, hygiene):
        output.note(sentence)
    data = {**_data(out, summary), "captioner_notes": list(captioner_notes)}
    output.result(data, _sentences(out, summary))


def changed_sentence(changed: Problems) -> str:
    """What to do about shards whose captions were made from other files."""
    are = counted(changed.count, "shard is not the file", "shards are not the files")
    return (
        f"{are} whose captions are there ({changed}): --overwrite makes them again; captions of "
        "other shards that have the same name belong in another folder, or under another --name "
        "of caption-shard."
    )


def _sentences(out: str, summary: ShardSummary) -> list[str]:
    counts = summary.counts
    rate = summary.num_new / summary.seconds if summary.seconds > 0 else 0.0
    took = f" in {format_duration(summary.seconds)} ({rate:.1f} images/s)"
    states = [f"{count:,} {state}" for state, count in sorted(summary.shards.items())]
    lines = [
        f"{out}: {counts.captioned:,} of {counts.rows:,} images captioned"
        f"{took if summary.num_new else ''}; shards: {', '.join(states)}."
    ]
    if summary.num_skipped:
        were = counted(summary.num_skipped, "shard was", "shards were")
        lines[0] += f" {were} there already."
    lines += row_sentences(counts)
    for state, problems in summary.bad.items():
        lines.append(f"  {state}: {listed(problems)}")
    return lines


def row_sentences(counts: RowCounts) -> list[str]:
    """What is to be said of rows: errors, captions without a word, what checks found."""
    lines = []
    for kind, count in counts.errors.most_common():
        examples = "; ".join(text.rstrip(".") for text in counts.examples.get(kind, []))
        lines.append(f"  {count:,} {kind}: {examples}")
    if counts.empty:
        lines.append(f"  {counted(counts.empty, 'caption is', 'captions are')} empty")
    if counts.checks.num_checked:
        lines.append(f"  {counts.checks.sentence()}")
    return lines


def _data(out: str, summary: ShardSummary) -> dict[str, Any]:
    counts = summary.counts
    return {
        "out": out,
        "shards": dict(summary.shards),
        "shards_skipped": summary.num_skipped,
        "images": counts.rows,
        "captioned": counts.captioned,
        "failed": dict(counts.errors),
        "examples": counts.examples,
        "tokens": counts.tokens,
        "captions_empty": counts.empty,
        **counts.alts.to_dict(),
        **counts.checks_data(),
        "rows_made": summary.num_new,
        "seconds": round(summary.seconds, 3),
        "not_done": {state: problems_data(bad) for state, bad in summary.bad.items()},
        "changed": problems_data(summary.changed),
    }


def listed(problems: Problems) -> str:
    """Problems, which may be sentences, in a line."""
    examples = [example.rstrip(".") for example in problems.examples]
    return str(Problems(problems.count, examples))


def problems_data(problems: Problems) -> dict[str, Any]:
    """A count and its examples as plain data."""
    return {"count": problems.count, "examples": problems.examples}
