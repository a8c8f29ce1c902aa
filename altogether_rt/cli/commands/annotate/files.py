"""`altogether-rt annotate` pack, import, report and export."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import typer

from altogether_rt.annotation.exporting import training_rows
from altogether_rt.annotation.importing import import_answers
from altogether_rt.annotation.label_studio import LABEL_CONFIG, task_rows
from altogether_rt.annotation.pack import DEFAULT_MAX_SIDE, tasks_to_pack, write_pack
from altogether_rt.annotation.report import report_work
from altogether_rt.annotation.work import Work, write_rows
from altogether_rt.artifacts.files import NewFile
from altogether_rt.artifacts.own_files import check_own
from altogether_rt.cli.commands.annotate.rounds import (
    JsonOption,
    QuietOption,
    WorkFolder,
    split_names,
)
from altogether_rt.cli.output import Output, format_bytes
from altogether_rt.errors import AltogetherError

__all__ = ["export_command", "import_command", "pack_command", "report_command"]


def pack_command(
    work: WorkFolder,
    as_: Annotated[str, typer.Option("--as", metavar="NAME", help="The annotator.")],
    out: Annotated[Path, typer.Option(metavar="FILE.html", help="File to write the page to.")],
    instead_of: Annotated[
        str,
        typer.Option(
            metavar="NAME,NAME", help="Include the unanswered images of these annotators."
        ),
    ] = "",
    max_side: Annotated[
        int, typer.Option(min=64, help="Longest side of the images, in pixels.")
    ] = DEFAULT_MAX_SIDE,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Pack one annotator's unanswered images into one HTML file, to work without Python.

    The browser keeps the answers until they are downloaded as a file for annotate import.
    Images are re-encoded without metadata.
    """
    output = Output(as_json=as_json, quiet=quiet)
    opened = Work(work)
    tasks = tasks_to_pack(opened, as_, split_names(instead_of))
    with output.progress(len(tasks), "images") as progress:
        write_pack(opened, as_, tasks, out, max_side=max_side, advance=progress.advance)
    size = out.stat().st_size
    data = {"file": str(out), "annotator": as_, "images": len(tasks), "bytes": size}
    output.result(data, f"{out}: {len(tasks):,} images for {as_}, {format_bytes(size)}.")


def import_command(
    work: WorkFolder,
    answers: Annotated[
        Path,
        typer.Argument(
            metavar="FILE", help="Answers of a packed page, or Label Studio's JSON_MIN."
        ),
    ],
    as_: Annotated[
        str | None,
        typer.Option(
            "--as", metavar="NAME", help="The annotator, if FILE doesn't name the right one."
        ),
    ] = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Import answers to the open round from a packed page or from Label Studio.

    A file may be imported again: rows that exist already are skipped.
    """
    output = Output(as_json=as_json, quiet=quiet)
    imported = import_answers(Work(work), answers, as_)
    if imported.refused:
        output.note(f"{imported.refused.total():,} answers were refused: {imported.examples}.")
    if imported.unchanged and imported.source == "label-studio":
        output.note(
            f"{imported.unchanged:,} texts are unchanged; Label Studio also keeps the old text "
            "where somebody emptied the box, so look at some of them."
        )
    data = {
        "source": imported.source,
        "rows": imported.num_rows,
        "taken": dict(imported.taken),
        "unchanged": imported.unchanged,
        "already_there": imported.already_there,
        "refused": dict(imported.refused),
    }
    by_name = ", ".join(f"{count:,} of {name}" for name, count in sorted(imported.taken.items()))
    output.result(
        data,
        f"{imported.taken.total():,} answers taken{f' ({by_name})' if by_name else ''}, "
        f"{imported.already_there:,} were there already, {imported.refused.total():,} refused.",
    )
    if imported.num_rows and imported.refused.total() == imported.num_rows:
        raise AltogetherError(f"not one answer of {answers} could be taken.")


def report_command(
    work: WorkFolder, as_json: JsonOption = False, quiet: QuietOption = False
) -> None:
    """Report on each round: how much was changed, by whom, and how well annotators agree.

    Words and names are compared with the text that the round started from. An answer is too fast if
    it took less than 1 s plus 0.1 s per word of that text. Agreement is Krippendorff's alpha over
    the words, kept or removed, and over the flags.
    """
    output = Output(as_json=as_json, quiet=quiet)
    report = report_work(Work(work))
    output.result(report, output.table("", _COLUMNS, _report_rows(report)))
    for title, columns, rows in (
        ("Agreement on images with several answers", _DOUBLE_COLUMNS, _double_rows(report)),
        ("Gold images", _GOLD_COLUMNS, _gold_rows(report)),
    ):
        if rows:
            output.show(output.table(title, columns, rows))
    output.show("Words kept, added and removed: the means of an answer.")
    doubles = [round_["doubles"] for round_ in report["rounds"] if round_["doubles"]["images"]]
    if any(None in (found["alpha_words"], found["alpha_flags"]) for found in doubles):
        output.show(
            "alpha –: nobody removed a word, or set a flag, on which others could disagree."
        )


#: How the files begin that an export may replace.
_TRAINING_ROWS: Final = re.compile(rb'\{"file_name": [^\n]*"rounds": [^\n]*"guideline": ')
_STUDIO_TASKS: Final = re.compile(rb'\[\]|\[\n \{\n  "data": \{\n   "image": ')
_STUDIO_CONFIG: Final = re.compile(rb'<View>\n  <Image name="image" ')


def export_command(
    work: WorkFolder,
    out: Annotated[Path, typer.Option(metavar="FILE", help="File to write the rows to.")],
    format_: Annotated[
        Literal["train", "label-studio"],
        typer.Option(
            "--format", help="Rows for training, or the open round as Label Studio tasks."
        ),
    ] = "train",
    image_prefix: Annotated[
        str, typer.Option(help="label-studio: prefix of the images' URLs.")
    ] = "/data/local-files/?d=",
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Write what train reads: each image with its alt-texts and all of its rounds.

    Images without an answer, flagged as private or unusable, or changed since are left out and
    counted. With --format label-studio: the tasks of the open round, and the labelling
    configuration beside them (FILE with the suffix .xml).
    """
    output = Output(as_json=as_json, quiet=quiet)
    opened = Work(work)
    out.parent.mkdir(parents=True, exist_ok=True)
    if format_ == "label-studio":
        _export_label_studio(opened, out, image_prefix, output)
        return
    check_own(out, _TRAINING_ROWS, "an export of annotate")
    with output.progress(None, "images checked") as progress:
        export = training_rows(opened, out, progress.advance)
    if export.changed:
        output.note(f"{export.changed.count:,} images are left out: {export.changed}.")
    reasons = ", ".join(f"{count:,} {why}" for why, count in export.left_out.most_common())
    if not export.rows:
        raise AltogetherError(f"no image of {work} can be exported: {reasons}.")
    write_rows(out, export.rows)
    data = {"file": str(out), "rows": len(export.rows), "left_out": dict(export.left_out)}
    output.result(data, f"{out}: {len(export.rows):,} rows; left out: {reasons or 'none'}.")


def _export_label_studio(work: Work, out: Path, prefix: str, output: Output) -> None:
    opened = work.round()
    rows = task_rows(opened.tasks, opened.number, prefix)
    new = NewFile(out)  # refuses a folder, which may have no name to put a suffix to
    config = out.with_suffix(".xml")
    check_own(out, _STUDIO_TASKS, "a file of Label Studio's tasks")
    check_own(config, _STUDIO_CONFIG, "a labelling configuration")
    with new, NewFile(config) as new_config:  # both or none
        new.file.write(json.dumps(rows, indent=1).encode() + b"\n")
        new_config.file.write(LABEL_CONFIG.encode())
        new.commit()
        new_config.commit()
    data = {"file": str(out), "config": str(config), "tasks": len(rows), "round": opened.number}
    output.result(data, f"{out}: {len(rows):,} tasks of round {opened.number}; {config} beside it.")


_COLUMNS = (
    "round",
    "answers",
    "unchanged",
    "words kept",
    "added",
    "removed",
    "names lost",
    "too fast",
    "median s",
    "private",
    "unusable",
    "cannot verify",
)
_DOUBLE_COLUMNS = ("round", "images", "alpha, words", "alpha, flags", "words shared")
_GOLD_COLUMNS = ("round", "images", "facts before", "facts", "names kept", "wrong corrected")


def _report_rows(report: Mapping[str, Any]) -> list[Sequence[str]]:
    rows: list[Sequence[str]] = []
    for round_ in report["rounds"]:
        title = f"round {round_['round']}: {round_['answered']:,} of {round_['images']:,} answered"
        rows.append(_tally_row(title, round_))
        rows += [_tally_row(f"  {name}", tally) for name, tally in round_["annotators"].items()]
    return rows


def _tally_row(title: str, tally: Mapping[str, Any]) -> Sequence[str]:
    flags = tally["flags"]
    return (
        title,
        f"{tally['answers']:,}",
        _cell(tally["unchanged"], " %"),
        *(_cell(tally[name]) for name in ("words_kept", "words_added", "words_removed")),
        _cell(tally["names_lost"], " %"),
        f"{tally['too_fast']:,}",
        _cell(tally["seconds"]),
        *(f"{flags[flag]:,}" for flag in ("private", "unusable", "cannot_verify")),
    )


def _double_rows(report: Mapping[str, Any]) -> list[Sequence[str]]:
    return [
        (
            f"round {round_['round']}",
            f"{doubles['images']:,}",
            _cell(doubles["alpha_words"]),
            _cell(doubles["alpha_flags"]),
            _cell(doubles["words_shared"], " %"),
        )
        for round_ in report["rounds"]
        if (doubles := round_["doubles"])["images"]
    ]


def _gold_rows(report: Mapping[str, Any]) -> list[Sequence[str]]:
    return [
        (
            f"round {round_['round']}, {name}",
            f"{gold['answers']['captions']:,}",
            _cell(gold["started_from"]["visual_facts_right"], " %"),
            _cell(gold["answers"]["visual_facts_right"], " %"),
            _cell(gold["answers"]["names_kept"], " %"),
            _cell(gold["answers"]["wrong_corrected"], " %"),
        )
        for round_ in report["rounds"]
        for name, gold in round_["gold"].items()
    ]


def _cell(value: float | None, unit: str = "") -> str:
    return "–" if value is None else f"{value:g}{unit}"
