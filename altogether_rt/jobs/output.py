"""What a job writes: rows and, if asked for, embeddings and sidecars."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from altogether_rt.captions import Answer
from altogether_rt.data.alts import Alts
from altogether_rt.data.hygiene.clean import HygieneCounts
from altogether_rt.data.problems import Problems
from altogether_rt.data.rows import Row, RunStamp, caption_fault, caption_row, error_row
from altogether_rt.data.sinks.base import Sink
from altogether_rt.data.sinks.embeddings import EmbeddingSink
from altogether_rt.data.sinks.jsonl import JsonlSink
from altogether_rt.data.sinks.sidecars import Sidecars
from altogether_rt.data.sources.base import Source
from altogether_rt.errors import ImageError
from altogether_rt.generation.engine import EngineStats

__all__ = ["CaptionSummary", "JobOutput", "row_check"]


@dataclass
class CaptionSummary:
    """What a run did."""

    captioned: int = 0
    skipped: int = 0  # had a row already
    failed: Counter[str] = field(default_factory=Counter)  # by class of error
    seconds: float = 0.0
    sidecars_kept: Problems = field(default_factory=Problems)
    errors_skipped: int = 0  # rows of earlier runs that carry an error
    updated: int = 0  # rows made again, from other alt-texts
    doubtful: dict[str, Problems] = field(default_factory=dict)  # by `caption_fault`
    embeddings_missing: int = 0  # rows of earlier runs, which did not save them
    stats: EngineStats = field(default_factory=EngineStats)  # of all workers together
    hygiene: HygieneCounts = field(default_factory=HygieneCounts)  # of alt-texts

    @property
    def num_failed(self) -> int:
        return sum(self.failed.values())


@dataclass(frozen=True)
class JobOutput(Sink):
    """Everything that a run writes. A sample's row comes last: it says that the rest is there."""

    rows: JsonlSink
    embeddings: EmbeddingSink | None
    sidecars: Sidecars | None
    stamp: RunStamp
    summary: CaptionSummary
    stale: dict[str, str] = field(default_factory=dict)  # captions of rows that are made again

    def is_stale(self, source: Source, row: Row) -> bool:
        """Whether a row was written from other alt-texts; its caption is remembered."""
        name = row["file_name"]
        alts = source.alts_of(name)
        if alts is None or row.get("alt") == alts.json or not source.has_sample(name):
            self.stale.pop(name, None)
            return False
        self.stale[name] = row.get("caption", "")
        return True

    def review(self, source: Source) -> None:
        """Write what earlier runs, which may not have been asked for it, left out."""
        if self.sidecars is None and self.embeddings is None:
            return
        for row in self.rows.rows():
            name = row["file_name"]
            if "error" in row or name in self.stale or not source.has_sample(name):
                continue
            if self.sidecars is not None:
                self._write_sidecar(self.sidecars, row)
            if self.embeddings is not None:
                self.summary.embeddings_missing += row["file_name"] not in self.embeddings

    def write(self, key: str, alts: Alts, answer: Answer) -> None:
        """Write the answer to a sample, its row last."""
        if isinstance(answer, ImageError):
            self.summary.failed[answer.kind] += 1
            row = error_row(key, alts, answer)
        else:
            self.summary.captioned += 1
            row = caption_row(key, alts, answer, self.stamp)
            fault = caption_fault(row)
            if fault is not None:
                self.summary.doubtful.setdefault(fault, Problems()).add(key)
            new = self.embeddings is not None and key not in self.embeddings
            if new and self.embeddings is not None and answer.embedded is not None:
                self.embeddings.write(key, answer.embedded)
            if self.sidecars is not None:
                self._write_sidecar(self.sidecars, row)
        self.summary.updated += key in self.stale
        self.rows.write(row)

    def finish(self) -> None:
        """Turn the journals into the output files."""
        if self.embeddings is not None:
            self.embeddings.finish()
        self.rows.finish()

    def _write_sidecar(self, sidecars: Sidecars, row: Row) -> None:
        name = row["file_name"]
        sidecars.write(name, row["caption"], former=self.stale.get(name))
        self.summary.sidecars_kept = sidecars.kept


def row_check(source: Source, stamp: RunStamp) -> Callable[[Row], str | None]:
    """A function that says why an existing row cannot stand beside those of this run."""
    expected = stamp.fields()

    def check(row: Row) -> str | None:
        name = row["file_name"]
        alts = source.alts_of(name)
        if alts is not None and row.get("alt") != alts.json:
            return f"written from other alt-texts ({name} for one), which --update makes again"
        if "error" in row:
            return None
        if row.get("bundle") != expected["bundle"]:
            return f"of bundle {row.get('bundle')}, and this one is {expected['bundle']}"
        if row.get("params") != expected["params"]:
            return "written with other parameters"
        if row.get("hygiene") != expected.get("hygiene"):
            options = ", ".join(row.get("hygiene") or ()) or "none"
            return f"written with other options for alt-texts ({options})"
        if row.get("fast_jpeg") != expected.get("fast_jpeg"):
            return f"written {'with' if row.get('fast_jpeg') else 'without'} --fast-jpeg"
        return None

    return check
