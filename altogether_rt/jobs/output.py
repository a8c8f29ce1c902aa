"""What a job writes: rows and, if asked for, embeddings and sidecars."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass, field
from typing import Any, Final

from altogether_rt.captions import Answer, Caption
from altogether_rt.data.alts import Alts
from altogether_rt.data.check_counts import CheckCounts
from altogether_rt.data.hygiene.clean import HygieneCounts
from altogether_rt.data.problems import Problems
from altogether_rt.data.rows import Row, RunStamp, caption_fault, caption_row, error_row, is_edited
from altogether_rt.data.sinks.alt_writer import AltWriter
from altogether_rt.data.sinks.base import Sink
from altogether_rt.data.sinks.embeddings import EmbeddingSink
from altogether_rt.data.sinks.jsonl import JsonlSink
from altogether_rt.data.sinks.sidecars import Sidecars
from altogether_rt.data.sinks.stream import StreamSink
from altogether_rt.data.sources.base import Source
from altogether_rt.errors import ImageError
from altogether_rt.generation.engine import EngineStats
from altogether_rt.jobs.changes import Changes
from altogether_rt.wording.checks import CaptionChecker

__all__ = ["CaptionSummary", "JobOutput", "RowSink", "row_check"]

#: What rows are written with: a file that can be continued, or a stream.
RowSink = JsonlSink | StreamSink

#: Characters shown of a parameter, such as a prompt.
_MAX_SHOWN_CHARS: Final = 40
#: Parameters shown: a row may be anybody's, and have any number.
_MAX_SHOWN: Final = 5


@dataclass
class CaptionSummary:
    """What a run did."""

    captioned: int = 0
    skipped: int = 0  # had a row already
    failed: Counter[str] = field(default_factory=Counter)  # by class of error
    seconds: float = 0.0
    sidecars_kept: Problems = field(default_factory=Problems)  # they hold other text
    sidecars_shared: Problems = field(default_factory=Problems)  # they are those of other images
    sidecars_failed: Problems = field(default_factory=Problems)
    alts_written: AltWriter | None = None  # what was written into images
    errors_skipped: int = 0  # rows of earlier runs that carry an error
    updated: int = 0  # rows made again, since their image or alt-texts have changed
    changes: Changes = field(default_factory=Changes)  # that were left as they are
    images_unchecked: int = 0  # captions of earlier runs that do not say of which file
    edited_kept: Problems = field(default_factory=Problems)  # by hand; `update` was asked for
    rows_elsewhere: Problems = field(default_factory=Problems)  # of images not in the folder
    lines_set_aside: Problems = field(default_factory=Problems)  # lines of OUT that are not rows
    doubtful: dict[str, Problems] = field(default_factory=dict)  # by `caption_fault`
    embeddings_missing: int = 0  # rows of earlier runs, which did not save them
    stats: EngineStats = field(default_factory=EngineStats)  # of all workers together
    hygiene: HygieneCounts = field(default_factory=HygieneCounts)  # of alt-texts
    checks: CheckCounts | None = None  # of captions, where they were asked for

    def note_earlier(self, sink: RowSink, done: Set[str], changes: Changes, *, kept: bool) -> None:
        """Count what earlier runs left. kept: rows stay that do not fit their samples any more.

        Raises AltogetherError if none of them fits.
        """
        self.errors_skipped = len(sink.error_names & done)
        self.lines_set_aside = sink.problems
        self.images_unchecked = changes.num_unchecked
        if kept:
            changes.refuse_if_all(sink.path)
            self.changes = changes

    @property
    def num_failed(self) -> int:
        return sum(self.failed.values())


@dataclass(frozen=True)
class JobOutput(Sink):
    """Everything that a run writes. A sample's row comes last: it says that the rest is there."""

    rows: RowSink
    embeddings: EmbeddingSink | None
    sidecars: Sidecars | None
    stamp: RunStamp
    summary: CaptionSummary
    alts: AltWriter | None = None
    checker: CaptionChecker | None = None  # of captions; None: they are not checked
    stale: dict[str, str] = field(default_factory=dict)  # captions of rows that are made again

    def is_stale(self, changes: Changes, row: Row) -> bool:
        """Whether a row is to be made again; its caption is remembered. An edited one stays."""
        name = row["file_name"]
        if name not in changes:
            return False
        if is_edited(row):
            self.summary.edited_kept.add(name)
            return False
        self.stale[name] = row.get("caption", "")
        return True

    def review(self, source: Source) -> None:
        """Write what earlier runs, which may not have been asked for it, left out."""
        if self.sidecars is None and self.embeddings is None and self.alts is None:
            return
        for row in self.rows.rows():
            name = row["file_name"]
            if "error" in row or name in self.stale or not source.has_sample(name):
                continue
            if self.sidecars is not None:
                self._write_sidecar(self.sidecars, row)
            if self.alts is not None:
                self.alts.write(row)
            if self.embeddings is not None:
                self.summary.embeddings_missing += row["file_name"] not in self.embeddings

    def write(self, key: str, alts: Alts, answer: Answer) -> None:
        """Write the answer to a sample, its row last."""
        if isinstance(answer, ImageError):
            self.summary.failed[answer.kind] += 1
            row = error_row(key, alts, answer)
        else:
            self.summary.captioned += 1
            row = caption_row(key, alts, answer, self.stamp, self.checker)
            if self.summary.checks is not None:
                self.summary.checks.add(key, row["checks"])
            fault = caption_fault(row)
            if fault is not None:
                self.summary.doubtful.setdefault(fault, Problems()).add(key)
            self._write_embedding(key, answer)
            if self.sidecars is not None:
                self._write_sidecar(self.sidecars, row)
            if self.alts is not None:
                self.alts.write(row)
        self.rows.write(row)
        self.summary.updated += key in self.stale

    def finish(self) -> None:
        """Turn the journals into the output files."""
        if self.embeddings is not None:
            self.embeddings.finish()
        self.rows.finish()
        self.summary.alts_written = self.alts
        if self.sidecars is not None:
            self.summary.sidecars_kept = self.sidecars.kept
            self.summary.sidecars_shared = self.sidecars.shared
            self.summary.sidecars_failed = self.sidecars.failed

    def _write_embedding(self, key: str, caption: Caption) -> None:
        if self.embeddings is None or caption.embedded is None:
            return
        if key not in self.embeddings or key in self.stale:
            self.embeddings.write(key, caption.embedded)

    def _write_sidecar(self, sidecars: Sidecars, row: Row) -> None:
        name = row["file_name"]
        former = self.stale.get(name, self.rows.former_caption(name))
        sidecars.write(name, row["caption"], former=former)


def row_check(stamp: RunStamp) -> Callable[[Row], str | None]:
    """A function that says why an existing row cannot stand beside those of this run."""
    expected = stamp.fields()

    def check(row: Row) -> str | None:
        if "error" in row:
            return None
        if row.get("bundle") != expected["bundle"]:
            return f"of bundle {row.get('bundle')}, and this one is {expected['bundle']}"
        if row.get("params") != expected["params"]:
            return (
                f"written with other parameters{_differing(row.get('params'), expected['params'])}"
            )
        if row.get("hygiene") != expected.get("hygiene"):
            options = ", ".join(row.get("hygiene") or ()) or "none"
            return f"written with other options for alt-texts ({options})"
        if row.get("fast_jpeg") != expected.get("fast_jpeg"):
            return f"written {'with' if row.get('fast_jpeg') else 'without'} --fast-jpeg"
        return None

    return check


def _differing(then: object, now: Mapping[str, Any]) -> str:
    """` (style: alt then, the default now)`; nothing if a row's parameters are none."""
    if not isinstance(then, Mapping):
        return ""
    names = [name for name in sorted({*then, *now}) if then.get(name) != now.get(name)]
    found = [
        f"{name:.{_MAX_SHOWN_CHARS}}: {_shown(then, name)} then, {_shown(now, name)} now"
        for name in names[:_MAX_SHOWN]
    ]
    return f" ({'; '.join(found)})"


def _shown(params: Mapping[str, Any], name: str) -> str:
    """A value in a few words; what is at its default may not be there."""
    text = str(params.get(name, "the default"))
    return text if len(text) <= _MAX_SHOWN_CHARS else text[:_MAX_SHOWN_CHARS] + "…"
