"""How `altogether-rt compare report` shows a report."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from altogether_rt.cli.output import Output
from altogether_rt.comparison.ranking import Rank
from altogether_rt.comparison.report import Report
from altogether_rt.comparison.results import Consistency, PairResult
from altogether_rt.statistics import Interval, SideBias

__all__ = ["show_report"]

_NONE = "–"


def show_report(report: Report, output: Output) -> None:
    """The JSON line, or tables: each pair of systems, their ranking, the annotators."""
    names = report.names
    if output.as_json:
        output.result(report.to_dict())
        return
    for pair in report.results.pairs:
        first, second = (names[index] for index in pair.systems)
        columns = ["question", "images", "win", "tie", "loss", "win rate (95 %)", "p", "α"]
        output.show(output.table(f"{first} against {second}", columns, _rows(pair)))
    for question in report.study.info.questions.questions:
        ranks = report.ranks.get(question.id)
        if ranks:
            columns = ["system", "strength", "95 % interval", "win rate against the others"]
            title = f"Bradley–Terry: {question.label}"
            output.show(output.table(title, columns, _rank_rows(names, ranks)))
    columns = [*("annotator", "judged", "assigned", "skipped", "median s", "left side")]
    columns += ["p", "repeats agree"]
    output.show(output.table("Annotators", columns, _annotator_rows(report)))
    for line in _remarks(report):
        output.show(line)


def _rows(pair: PairResult) -> Iterator[tuple[str, ...]]:
    for result in pair.questions:
        yield (
            result.question.label,
            f"{result.num_images:,}",
            _percent(result.win),
            _percent(result.tie),
            _percent(result.loss),
            f"{100 * result.win_rate:.1f} ({_range(result.interval, 100, ')')}",
            _p(result.p_value),
            _NONE if result.alpha is None else f"{result.alpha:.3f}",
        )


def _rank_rows(names: Sequence[str], ranks: Sequence[Rank]) -> Iterator[tuple[str, ...]]:
    for rank in ranks:
        strength, interval = f"{rank.strength:.2f}", _range(rank.interval, 1, "")
        yield names[rank.system], strength, interval, _percent(rank.win_rate)


def _annotator_rows(report: Report) -> Iterator[tuple[str, ...]]:
    for found in report.results.annotators:
        yield (
            found.name,
            f"{found.num_answered:,}",
            f"{found.num_tasks:,}",
            f"{found.num_skipped:,}",
            _NONE if found.median_seconds is None else f"{found.median_seconds:.1f}",
            _left(found.side),
            _p(found.side.p_value) if _num_sided(found.side) else _NONE,
            _same(found.consistency),
        )


def _remarks(report: Report) -> Iterator[str]:
    """Sentences below the tables."""
    results = report.results
    yield (
        "Win rate: wins and half of the ties, with its bootstrap interval over images (Wilson's "
        "where all of them agree). p: exact sign test over images. α: Krippendorff's agreement."
    )
    yield from _progress_remarks(report)
    if _num_sided(results.side):
        low, high = results.side.interval
        yield (
            f"Side bias: {_left(results.side)} of the pairs that were not tied went to the left "
            f"(95 % interval {_range(Interval(low, high), 100, ' %')}, "
            f"p {_p_equals(results.side)}). Sides are random: a bias favours neither system."
        )
    if results.median_seconds is not None:
        yield f"Median time: {results.median_seconds:.1f} seconds a pair."
    for question in report.study.info.questions.questions:
        found = results.consistency[question.id]
        if found.num_pairs:
            yield (
                f"Repeated with sides swapped, {question.label}: {_same(found)} verdicts agree; "
                f"{found.num_same_side:,} times the same side was chosen."
            )


def _progress_remarks(report: Report) -> Iterator[str]:
    """Where judgments are missing, and how many ties nobody was asked about."""
    identical = 0
    for pair in report.results.pairs:
        progress = pair.progress
        if progress.num_judged < progress.num_planned:
            first, second = (report.names[index] for index in pair.systems)
            counted = f"; of {progress.num_identical:,} identical captions the same share counts"
            yield (
                f"Not finished: {progress.num_judged:,} of {progress.num_planned:,} pairs of "
                f"{first} and {second} are judged{counted if progress.num_identical else ''}."
            )
        identical = max(identical, *(question.num_identical for question in pair.questions))
    if identical:
        yield f"{identical:,} of the ties are identical captions, which nobody had to judge."


def _same(found: Consistency) -> str:
    return _NONE if found.share is None else f"{found.num_same:,} of {found.num_pairs:,}"


def _p_equals(side: SideBias) -> str:
    return _p(side.p_value) if side.p_value < 0.001 else f"= {_p(side.p_value)}"


def _left(side: SideBias) -> str:
    return _percent(side.left_share) if _num_sided(side) else _NONE


def _num_sided(side: SideBias) -> int:
    """Judgments that favoured one side."""
    return side.tally.wins + side.tally.losses


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _range(interval: Interval, scale: float, unit: str) -> str:
    digits = 1 if scale == 100 else 2
    return f"{scale * interval.low:.{digits}f} to {scale * interval.high:.{digits}f}{unit}"


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.3f}"
