"""What `altogether-rt caption` prints at the end of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from altogether_rt.cli.commands.caption.run_notes import note_problems
from altogether_rt.cli.hygiene import hygiene_sentences
from altogether_rt.cli.output import Output, format_duration
from altogether_rt.cli.run_output import RunOutput
from altogether_rt.data.problems import Problems, counted
from altogether_rt.data.sinks.alt_writer import IN_PLACE
from altogether_rt.data.sources.base import Sample, Source
from altogether_rt.data.sources.folder import FolderSource
from altogether_rt.errors import AltogetherError, ImageError
from altogether_rt.generation.engine import STAGE_SECONDS
from altogether_rt.jobs.folder import CaptionJob, CaptionSummary
from altogether_rt.monitoring.state import RunState

__all__ = ["dry_run", "error_lines", "report"]

#: Share of unusable lines of the alt-text file above which the summary shows them too.
_MANY_UNUSABLE = 0.05

#: What the summary says of captions, by `caption_fault`.
_FAULTS = {
    "empty": "empty",
    "loop": "cut in a loop",
    "same_as_alt": "equal to the alt-text",
}


def report(
    job: CaptionJob,
    source: Source,
    summary: CaptionSummary,
    sheet: Path | None,
    output: Output,
    state: RunState,
    captioner_notes: Sequence[str] = (),
    captioner: Mapping[str, str] | None = None,
) -> None:
    """The summary; exits with 1 if not one image could be captioned.

    captioner_notes: why captions may not be what is expected, as said before the run. captioner:
    its name, and the target that a name turned out to mean on this machine.
    """
    note_problems(job, summary, output)
    for sentence in hygiene_sentences(summary.hygiene, job.hygiene):
        output.note(sentence)
    sentence = _sentence(job, summary) + _changed(summary) + _unusable(source)
    data = {
        **_summary_data(job, source, summary, sheet),
        "alt_file": _alt_file(source),
        "captioner": dict(captioner or {}),
        "captioner_notes": list(captioner_notes),
        "failed_examples": state.error_examples,
    }
    checks = summary.checks
    checked = [f"  {checks.sentence()}"] if checks is not None and checks.num_checked else []
    output.result(data, [sentence, *checked, *error_lines(state)])
    alts = summary.alts_written
    if alts is not None:
        where = "XMP" if alts.target == IN_PLACE else f"copies in {alts.target}"
        total = alts.num_written + alts.num_unchanged
        images = counted(total, "image has its caption", "images have their captions")
        before = f", {alts.num_unchanged:,} from before" if alts.num_unchanged else ""
        output.show(f"{images} as alt-text in {where}{before}.")
    if sheet is not None:
        output.show(f"Look at them in {sheet}.")
    if summary.num_failed and not summary.captioned and not summary.skipped:
        count = summary.num_failed
        failed = "the one image could not" if count == 1 else f"none of the {count:,} images could"
        raise AltogetherError(f"{failed} be captioned: {job.out} says why.")


def _alt_file(source: Source) -> str | None:
    """The alt-text file that was taken."""
    path = source.alt_file if isinstance(source, FolderSource) else None
    return None if path is None else str(path)


def error_lines(state: RunState) -> list[str]:
    """A line for each class of error, the most frequent first, with its first examples."""
    lines = []
    for kind, count in state.errors.most_common():
        examples = state.error_examples[kind]
        more = f" (and {count - len(examples):,} more)" if count > len(examples) else ""
        lines.append(f"  {kind}: {' '.join(examples)}{more}")
    return lines


def dry_run(job: CaptionJob, source: Source, run: RunOutput) -> None:
    """Read and decode every image, and say what captioning would meet."""
    from altogether_rt.captions import CaptionParams
    from altogether_rt.jobs.dry_run import read_samples
    from altogether_rt.jobs.plan import CaptionPlan

    num_with_alts = 0
    plan = CaptionPlan(CaptionParams(1, 0.0, 1.0), job.limits, job.fast_jpeg)
    with run.output.progress(source.num_samples(), "images", run.observers) as monitor:

        def on_sample(sample: Sample, error: ImageError | None) -> None:
            nonlocal num_with_alts
            num_with_alts += bool(sample.alts.texts)
            monitor.answered(sample.key, error)

        read_samples(monitor.drawn(source.samples()), plan, on_sample)
    state = monitor.state()
    readable = state.done - state.errors.total()
    problems = {name: _problems_data(each) for name, each in source.unused().items()}
    data = {
        "dry_run": True,
        "images": state.done,
        "readable": readable,
        "with_alt_texts": num_with_alts,
        "failed": dict(state.errors),
        "failed_examples": state.error_examples,
        "seconds": round(state.elapsed_s, 3),
        "alt_lines_used": source.figures().get("alt_lines_used", 0),
        **problems,
    }
    sentence = (
        f"dry run, nothing is written: {state.done:,} images, {num_with_alts:,} with alt-texts; "
        f"{readable:,} can be read, {state.errors.total():,} cannot."
    )
    run.output.result(data, [sentence + _unusable(source), *error_lines(state)])


def _sentence(job: CaptionJob, summary: CaptionSummary) -> str:
    rate = summary.captioned / summary.seconds if summary.seconds > 0 else 0.0
    took = f" in {format_duration(summary.seconds)} ({rate:.1f} images/s)"
    parts = [f"{summary.captioned:,} captioned" + (took if summary.captioned else "")]
    parts += [
        f"{problems.count:,} of them {_FAULTS[fault]} ({problems})"
        for fault, problems in summary.doubtful.items()
    ]
    if summary.updated:
        parts.append(f"{summary.updated:,} made again, since image or alt-texts have changed")
    if summary.skipped:
        parts.append(f"{summary.skipped:,} skipped (already there)")
    if summary.num_failed:
        classes = ", ".join(f"{count:,} {kind}" for kind, count in summary.failed.most_common())
        parts.append(f"{summary.num_failed:,} failed ({classes})")
    return f"{job.out}: {', '.join(parts)}."


def _changed(summary: CaptionSummary) -> str:
    """Sentences about images that were skipped though they, or their alt-texts, have changed."""
    changes = summary.changes
    return "".join(
        f" {counted(len(names), *what)} ({changes.problems(names)}): --update captions "
        f"{'it' if len(names) == 1 else 'them'} again."
        for names, what in (
            (
                changes.images,
                (
                    "image has changed since it was captioned",
                    "images have changed since they were captioned",
                ),
            ),
            (
                changes.alts,
                (
                    "image has other alt-texts than its caption was written from",
                    "images have other alt-texts than their captions were written from",
                ),
            ),
        )
        if names
    )


def _unusable(source: Source) -> str:
    """A sentence about lines of the alt-text file, if many cannot be used."""
    problems = source.unused().get("alt_lines_unusable", Problems())
    total = problems.count + source.figures().get("alt_lines_used", 0)
    if problems.count <= _MANY_UNUSABLE * total:
        return ""
    return (
        f" {problems.count:,} of {total:,} lines of the alt-text file could not be used: "
        f"{problems}."
    )


def _summary_data(
    job: CaptionJob, source: Source, summary: CaptionSummary, sheet: Path | None
) -> dict[str, Any]:
    figures = source.figures()
    return {
        "out": str(job.out),
        "sheet": None if sheet is None else str(sheet),
        "images": figures["images"],
        "captioned": summary.captioned,
        "updated": summary.updated,
        "doubtful": {
            fault: _problems_data(summary.doubtful.get(fault, Problems())) for fault in _FAULTS
        },
        "skipped": summary.skipped,
        "images_changed": _problems_data(summary.changes.problems(summary.changes.images)),
        "alts_changed": _problems_data(summary.changes.problems(summary.changes.alts)),
        "images_unchecked": summary.images_unchecked,
        "edited_kept": _problems_data(summary.edited_kept),
        "rows_elsewhere": _problems_data(summary.rows_elsewhere),
        "lines_set_aside": _problems_data(summary.lines_set_aside),
        "errors_skipped": summary.errors_skipped,
        "failed": dict(summary.failed),
        "seconds": round(summary.seconds, 3),
        **{name: round(getattr(summary.stats, name), 3) for name in STAGE_SECONDS},
        "other_files": figures["other_files"],
        **{name: _problems_data(problems) for name, problems in source.unused().items()},
        **summary.hygiene.to_dict(),
        **({} if summary.checks is None else {"checks": summary.checks.to_dict()}),
        "alt_lines_used": figures.get("alt_lines_used", 0),
        "alts_truncated": figures["alts_truncated"],
        "embeddings_missing": summary.embeddings_missing,
        "sidecars_kept": _problems_data(summary.sidecars_kept),
        "sidecars_shared": _problems_data(summary.sidecars_shared),
        "sidecars_failed": _problems_data(summary.sidecars_failed),
        **_alts_data(summary),
    }


def _problems_data(problems: Problems) -> dict[str, Any]:
    return {"count": problems.count, "examples": problems.examples}


def _alts_data(summary: CaptionSummary) -> dict[str, Any]:
    alts = summary.alts_written
    if alts is None:
        return {}
    return {
        "alts_written": alts.num_written,
        "alts_kept": _problems_data(alts.kept),
        "alts_failed": _problems_data(alts.failed),
    }
