"""Writes the captions of a run in a layout, shard by shard, and goes on where it was stopped.

For each shard OUT/.export/shards/NAME.json says what was written and from which inputs. It comes
after the file, so a shard without it, or whose inputs have changed since, is written again.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from altogether_rt.data.problems import Problems
from altogether_rt.data.shards.spool import Spool
from altogether_rt.data.shards.storage import is_same_file
from altogether_rt.data.sinks.shards.store import OutputStore
from altogether_rt.errors import AltogetherError
from altogether_rt.publishing.counts import ExportCounts
from altogether_rt.publishing.layouts import Layout
from altogether_rt.publishing.run import CaptionRun
from altogether_rt.publishing.storage import joined, stamp_of
from altogether_rt.publishing.tables import write_rows

__all__ = ["ExportSummary", "export_rows", "export_shards"]

#: Hidden, so that no reader of the layout takes its files for data.
_STATE: Final = ".export"
_SETTINGS: Final = f"{_STATE}/settings.json"

#: Told after each shard.
Advance = Callable[[], object]


@dataclass
class ExportSummary:
    """What an export did."""

    shards: int = 0  # written now or before
    shards_skipped: int = 0  # of these, written before
    counts: ExportCounts = field(default_factory=ExportCounts)
    unfinished: int = 0  # shards that the run has not completed
    problems: Problems = field(default_factory=Problems)  # records that cannot be read
    failed: Problems = field(default_factory=Problems)  # shards that cannot be written
    notes: Problems = field(default_factory=Problems)  # shards that could be read only in part

    @property
    def is_complete(self) -> bool:
        return not (self.unfinished or self.failed or self.notes)

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "shards": self.shards,
            "shards_skipped": self.shards_skipped,
            "shards_unfinished": self.unfinished,
            "shards_failed": {"count": self.failed.count, "examples": self.failed.examples},
            "shards_damaged": {"count": self.notes.count, "examples": self.notes.examples},
            **self.counts.to_dict(),
        }


def export_shards(
    run: CaptionRun,
    out: OutputStore,
    layout: Layout,
    spool: Spool,
    *,
    overwrite: bool = False,
    advance: Advance = lambda: None,
) -> ExportSummary:
    """Write the file of every shard of `run` that `out` does not have yet.

    A shard that cannot be read or written is counted, and the others are not affected. overwrite:
    take no shard as done. spool: for inputs that are not on this machine. Raises AltogetherError if
    `out` holds an export with other settings, or the export would replace what it reads or, without
    `overwrite`, what no export wrote.
    """
    _check_targets(run, out, layout, overwrite)
    _check_settings(out, layout.settings(), overwrite)
    summary = ExportSummary(unfinished=run.num_unfinished)
    written: dict[str, str] = {}
    for shard, source in run.shards():
        name = layout.file_name(shard)
        if name in written:
            raise AltogetherError(
                f"the shards {written[name]} and {shard} would both become {name}: export them to "
                "different folders."
            )
        written[name] = shard
        try:
            _export_shard(run, out, layout, spool, shard, source, summary, overwrite)
        except AltogetherError as error:
            summary.failed.add(f"{shard}: {error}")
        except OSError as error:
            summary.failed.add(f"{shard}: {error.strerror or error}")
        advance()
    return summary


def export_rows(
    run: CaptionRun,
    out: OutputStore,
    name: str,
    spool: Spool,
    advance: Advance = lambda: None,
) -> ExportSummary:
    """Write the rows of all shards into one file of JSON lines, which appears when it is whole.

    Raises AltogetherError if a shard cannot be read, or if the file is one of them.
    """
    summary = ExportSummary(unfinished=run.num_unfinished)
    for _, source in run.shards():
        _check_not_read(joined(out, name), joined(run.store, source))
    made_with = run.made_with()
    with out.new_file(name) as file:
        for shard, source in run.shards():
            records = run.records(source, spool, summary.counts, summary.problems)
            prefix = None if run.is_file else shard
            write_rows(file, prefix, records, made_with, summary.counts)
            summary.shards += 1
            advance()
    return summary


def _export_shard(
    run: CaptionRun,
    out: OutputStore,
    layout: Layout,
    spool: Spool,
    shard: str,
    source: str,
    summary: ExportSummary,
    overwrite: bool,
) -> None:
    name, state = layout.file_name(shard), f"{_STATE}/shards/{shard}.json"
    inputs = [run.stamp(source), layout.stamp(shard), layout.settings()]
    former = None if overwrite else _former(out, state, inputs)
    if former is not None and former["output"] == stamp_of(joined(out, name)):
        counts, note = ExportCounts(**former["counts"]), former["note"]
        summary.shards_skipped += 1
    else:
        counts = ExportCounts()
        with out.new_file(name) as file:
            records = run.records(source, spool, counts, summary.problems)
            note = layout.write(shard, records, file, counts)
        report = {
            "inputs": inputs,
            "output": stamp_of(joined(out, name)),
            "counts": counts.to_dict(),
            "note": note,
        }
        out.write(state, json.dumps(report).encode("ascii") + b"\n")
    summary.shards += 1
    summary.counts.add(counts)
    if note is not None:
        summary.notes.add(note)


def _former(out: OutputStore, state: str, inputs: list[Any]) -> dict[str, Any] | None:
    """What an earlier export says of a shard, if it read the same inputs."""
    try:
        report = json.loads(out.read(state) or b"")
        ExportCounts(**report["counts"])
    except (ValueError, KeyError, TypeError):
        return None
    return report if report.get("inputs") == inputs and "note" in report else None


def _check_targets(run: CaptionRun, out: OutputStore, layout: Layout, overwrite: bool) -> None:
    """Refuse to replace what is read and, where an export begins, what is there already."""
    begins = not overwrite and out.read(_SETTINGS) is None
    there = set(out.all_files()) if begins else set()
    found = Problems()
    for shard, source in run.shards():
        name = layout.file_name(shard)
        for url in (joined(run.store, source), layout.input_of(shard)):
            if url is not None:
                _check_not_read(joined(out, name), url)
        if name in there:
            found.add(name)
    if found:
        raise AltogetherError(
            f"{out.url} holds files that no export wrote, and this one would replace them "
            f"({found}): choose another folder, or replace them with --overwrite."
        )


def _check_not_read(target: str, url: str) -> None:
    if is_same_file(target, url):
        raise AltogetherError(
            f"the export would replace {url}, which it reads: choose another folder."
        )


def _check_settings(out: OutputStore, settings: dict[str, Any], overwrite: bool) -> None:
    name = _SETTINGS
    data = json.dumps(settings, sort_keys=True).encode("utf-8") + b"\n"
    former = out.read(name)
    if former == data:
        return
    if former is not None and not overwrite:
        raise AltogetherError(
            f"{out.url} holds an export with other settings "
            f"({former.decode('utf-8', 'replace').strip()}): choose another folder, or replace it "
            "with --overwrite."
        )
    out.write(name, data)
