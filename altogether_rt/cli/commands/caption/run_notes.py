"""What `altogether-rt caption` says, after a run, of what did not go as it was asked."""

from __future__ import annotations

from altogether_rt.cli.output import Output
from altogether_rt.data.problems import Problems, counted
from altogether_rt.jobs.folder import CaptionJob, CaptionSummary

__all__ = ["note_problems"]

#: What was not written as asked, for one and for several.
_NOT_WRITTEN = {
    "alts_kept": (
        "image has another alt-text, or is another file",
        "images have other alt-texts, or are other files",
    ),
    "alts_failed": ("image cannot hold its caption", "images cannot hold their captions"),
    "sidecars_kept": (
        "sidecar file holds other text and was left alone",
        "sidecar files hold other text and were left alone",
    ),
    "sidecars_shared": ("image has no sidecar of its own", "images have no sidecar of their own"),
    "sidecars_failed": ("sidecar file could not be written", "sidecar files could not be written"),
}


def note_problems(job: CaptionJob, summary: CaptionSummary, output: Output) -> None:
    """What did not go as it was asked, a sentence each."""
    alts = summary.alts_written
    found = {
        "alts_kept": alts.kept if alts else Problems(),
        "alts_failed": alts.failed if alts else Problems(),
        "sidecars_kept": summary.sidecars_kept,
        "sidecars_shared": summary.sidecars_shared,
        "sidecars_failed": summary.sidecars_failed,
    }
    for name, problems in found.items():
        if problems:
            output.note(f"{counted(problems.count, *_NOT_WRITTEN[name])}: {problems}.")
    _note_earlier(job, summary, output)


def _note_earlier(job: CaptionJob, summary: CaptionSummary, output: Output) -> None:
    """What was found in the output of earlier runs."""
    if summary.embeddings_missing and job.embeddings is not None:
        were = counted(summary.embeddings_missing, "caption was", "captions were")
        output.note(
            f"{were} there without an embedding, so {job.embeddings.save} lacks some: --overwrite "
            "makes all of them again."
        )
    if summary.lines_set_aside:
        aside = summary.lines_set_aside
        what = counted(
            aside.count,
            "line was not a row, or another row of an image, and is",
            "lines were not rows, or other rows of an image, and are",
        )
        output.note(f"{what} in {job.out}.set-aside now: {aside}.")
    if summary.edited_kept:
        output.note(
            f"{job.out} keeps {counted(summary.edited_kept.count, 'caption', 'captions')} edited "
            f"by hand ({summary.edited_kept}): delete a row there to have its image captioned."
        )
    if summary.rows_elsewhere:
        rows = counted(summary.rows_elsewhere.count, "row of an image", "rows of images")
        output.note(
            f"{job.out} also has {rows} not in {job.folder} ({summary.rows_elsewhere}): removed "
            "since, or of another folder, which should have an --out of its own."
        )
    if summary.images_unchecked:
        were = counted(summary.images_unchecked, "caption was", "captions were")
        output.note(
            f"{were} written without the hash of the image, so whether that has changed is not "
            "known: --overwrite captions again."
        )
    if summary.errors_skipped and not job.retry_errors:
        failed = counted(summary.errors_skipped, "image", "images")
        output.note(f"{failed} failed in an earlier run: --retry-errors tries again.")
