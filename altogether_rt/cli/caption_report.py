"""What `altogether-rt caption` says before and after its work."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from altogether_rt.cli.output import Output, format_duration
from altogether_rt.data.alts import MAX_ALT_CHARS
from altogether_rt.data.problems import Problems
from altogether_rt.errors import AltogetherError
from altogether_rt.generation.engine import STAGE_SECONDS
from altogether_rt.jobs.folder import CaptionJob, CaptionSummary, Inputs

__all__ = ["note_inputs", "report"]


def note_inputs(job: CaptionJob, inputs: Inputs, output: Output) -> None:
    """What the user should know about the inputs before waiting for the captions."""
    if inputs.scan.problems:
        output.note(f"Left out in {job.folder}: {inputs.scan.problems}.")
    for problems, what in (
        (inputs.alts.problems, "lines of the alt-text file cannot be used"),
        (inputs.alts_without_image, "alt-texts have no image in the folder"),
    ):
        if problems:
            output.note(f"{problems.count:,} {what}: {problems}.")
    if inputs.names and 0 < inputs.alts_without_image.count == len(inputs.alts.by_name):
        output.note(
            f"So no image gets an alt-text: the file's names must be relative to "
            f"{inputs.scan.root}, as {inputs.names[0]} is."
        )
    if inputs.alts.num_truncated:
        output.note(
            f"{inputs.alts.num_truncated:,} images have alt-texts of more than "
            f"{MAX_ALT_CHARS:,} characters: the rest is left out, and the rows say so."
        )
    if job.alts is None:
        for name in ("alts.jsonl", "metadata.jsonl"):
            if (inputs.scan.root / name).is_file():
                output.note(f"{job.folder} holds {name}: give --alt {name} to use its alt-texts.")


def report(
    job: CaptionJob, inputs: Inputs, summary: CaptionSummary, sheet: Path | None, output: Output
) -> None:
    """The summary; exits with 1 if not one image could be captioned."""
    if summary.sidecars_kept:
        kept = summary.sidecars_kept
        output.note(f"{kept.count:,} sidecar files hold other text and were left alone: {kept}.")
    if summary.embeddings_missing:
        output.note(
            f"{summary.embeddings_missing:,} captions were there without an embedding, so "
            f"{job.save_embeddings} lacks theirs: --overwrite makes all of them again."
        )
    output.result(_summary_data(job, inputs, summary, sheet), _sentence(job, summary))
    if sheet is not None:
        output.show(f"Look at them in {sheet}.")
    if summary.num_failed and not summary.captioned and not summary.skipped:
        raise AltogetherError(
            f"none of the {summary.num_failed:,} images could be captioned: "
            f"{job.out} says why for each."
        )


def _sentence(job: CaptionJob, summary: CaptionSummary) -> str:
    rate = summary.captioned / summary.seconds if summary.seconds > 0 else 0.0
    took = f" in {format_duration(summary.seconds)} ({rate:.1f} images/s)"
    parts = [f"{summary.captioned:,} captioned" + (took if summary.captioned else "")]
    if summary.skipped:
        parts.append(f"{summary.skipped:,} skipped (already there)")
    if summary.num_failed:
        classes = ", ".join(f"{count:,} {kind}" for kind, count in summary.failed.most_common())
        parts.append(f"{summary.num_failed:,} failed ({classes})")
    return f"{job.out}: {', '.join(parts)}."


def _summary_data(
    job: CaptionJob, inputs: Inputs, summary: CaptionSummary, sheet: Path | None
) -> dict[str, Any]:
    return {
        "out": str(job.out),
        "sheet": None if sheet is None else str(sheet),
        "images": len(inputs.names),
        "captioned": summary.captioned,
        "skipped": summary.skipped,
        "failed": dict(summary.failed),
        "seconds": round(summary.seconds, 3),
        **{name: round(getattr(summary.stats, name), 3) for name in STAGE_SECONDS},
        "other_files": inputs.scan.num_other,
        "folders_left_out": _problems_data(inputs.scan.problems),
        "alt_lines_unusable": _problems_data(inputs.alts.problems),
        "alts_without_image": _problems_data(inputs.alts_without_image),
        "alts_truncated": inputs.alts.num_truncated,
        "embeddings_missing": summary.embeddings_missing,
        "sidecars_kept": _problems_data(summary.sidecars_kept),
    }


def _problems_data(problems: Problems) -> dict[str, Any]:
    return {"count": problems.count, "examples": problems.examples}
