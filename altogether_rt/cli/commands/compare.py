"""`altogether-rt compare start`, `compare serve` and `compare report`."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated

import typer

from altogether_rt.artifacts.files import write_whole
from altogether_rt.artifacts.own_files import check_own
from altogether_rt.cli.output import Output
from altogether_rt.cli.tables.comparison import show_report
from altogether_rt.comparison.design import Split
from altogether_rt.comparison.questions import load_questions
from altogether_rt.comparison.start import Started, StartOptions, start_study
from altogether_rt.comparison.study import Study
from altogether_rt.web.answers import AnswerFile, check_annotator

__all__ = ["report_command", "serve_command", "start_command"]

#: Default share of images that two annotators judge, from which their agreement is known.
_OVERLAP = 0.2

_SECONDS_PER_PAIR = 20

_Json = Annotated[bool, typer.Option("--json", help="Print the result as one JSON line.")]
_Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print errors only.")]
_StudyFolder = Annotated[
    Path, typer.Argument(metavar="STUDY", help="Folder created by compare start.")
]


_Captions = Annotated[
    list[Path],
    typer.Argument(metavar="A B …", help="Caption files: rows with file_name and caption."),
]
_Alts = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE", help="File of alt-texts; takes precedence over those in the caption files."
    ),
]
_Names = Annotated[
    str, typer.Option(metavar="NAME,NAME", help="Names of the systems. Default: the file names.")
]
_Questions = Annotated[
    Path | None,
    typer.Option(metavar="TOML", help="Questions to ask instead of the package's three."),
]
_Limit = Annotated[
    int | None,
    typer.Option(min=1, help="Number of images, drawn at random; 400 give about ±5 points."),
]
_Repeat = Annotated[
    float, typer.Option(min=0.0, max=0.5, help="Share of the pairs to repeat with sides swapped.")
]
_Annotators = Annotated[
    str,
    typer.Option(
        metavar="NAME,NAME",
        help="Divide the images equally among these annotators; otherwise everyone judges all "
        "of them.",
    ),
]
_Overlap = Annotated[
    float | None,
    typer.Option(min=0.0, max=1.0, help="Share of the images to give to two people. Default: 0.2."),
]
_Pairs = Annotated[int, typer.Option(min=1, help="Pairs per image, with three or more systems.")]
_Seed = Annotated[
    int | None,
    typer.Option(min=0, help="Seed of every draw; don't show it to annotators. Default: random."),
]


def start_command(
    captions: _Captions,
    images: Annotated[Path, typer.Option(metavar="DIR", help="Folder of the images.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Study folder to create.")],
    alt: _Alts = None,
    names: _Names = "",
    questions: _Questions = None,
    limit: _Limit = None,
    repeat: _Repeat = 0.1,
    annotators: _Annotators = "",
    overlap: _Overlap = None,
    pairs: _Pairs = 1,
    seed: _Seed = None,
    as_json: _Json = False,
    quiet: _Quiet = False,
) -> None:
    """Set up a blind study of two or more systems' captions.

    Sides are assigned at random. Only key.json, which the server never opens, says who wrote what.
    """
    output = Output(as_json=as_json, quiet=quiet)
    options = StartOptions(
        captions=tuple(captions),
        images=images,
        out=out,
        questions=load_questions(questions),
        alts=alt,
        names=_names(names) or None,
        seed=seed,
        limit=limit,
        repeat_share=repeat,
        pairs_per_image=pairs,
        split=_split(_names(annotators), overlap),
    )
    with output.progress(None, "images") as progress:
        started = start_study(options, progress.advance, progress.start)
    _note_left_out(started, options, output)
    output.result(_started_data(started, out), _started_sentence(started, out))
    who = options.split.annotators[0] if options.split.annotators else "NAME"
    serve = f"altogether-rt compare serve {out} --as {who}"
    output.show(f"Next: {serve if started.study.tasks else f'altogether-rt compare report {out}'}")


def serve_command(
    study: _StudyFolder,
    as_: Annotated[
        str, typer.Option("--as", metavar="NAME", help="The annotator: a-z, 0-9, -, _.")
    ],
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port to serve on; 0 picks a free one.")
    ] = 0,
    images: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder of the images, if they have moved.")
    ] = None,
    quiet: _Quiet = False,
) -> None:
    """Serve the page on which one annotator judges the pairs of a study, on this machine only.

    Every answer is on disk before the next pair appears, and the same command resumes.
    To use it from another machine: ssh -L 8000:127.0.0.1:8000, and --port 8000 here.
    """
    from altogether_rt.comparison.site import ComparisonSession, make_site
    from altogether_rt.web.server import LoopbackServer, serve_until_stopped

    output = Output(quiet=quiet)
    opened = Study.load(study)
    opened.tasks_of(check_annotator(as_))  # refuses a stranger before a file of that name is made
    with AnswerFile(opened.answers_folder / f"{as_}.jsonl") as answers:
        session = ComparisonSession(opened, as_, answers, images)
        server = LoopbackServer(make_site(session), port)
        print(server.url, flush=True)
        output.note(
            f"{session.num_done:,} of {session.num_tasks:,} pairs judged. "
            f"Open the address above, which is for {as_} alone; Ctrl-C ends."
        )
        serve_until_stopped(server)
        output.note(f"{session.num_done:,} of {session.num_tasks:,} pairs judged.")


def report_command(
    study: _StudyFolder,
    plot: Annotated[
        Path | None, typer.Option(metavar="SVG", help="Also plot wins, ties and losses.")
    ] = None,
    judgments: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Also write every answer, with the systems' names, as JSON lines.",
        ),
    ] = None,
    key: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The key, if it is kept elsewhere.")
    ] = None,
    as_json: _Json = False,
    quiet: _Quiet = False,
) -> None:
    """Report which system wins, how certain that is, and how reliable the annotators are."""
    from altogether_rt.comparison.judgment_rows import JUDGMENTS_HEAD, write_judgments
    from altogether_rt.comparison.plot import PLOT_HEAD, plot_report
    from altogether_rt.comparison.report import make_report

    output = Output(as_json=as_json, quiet=quiet)
    if plot is not None:
        check_own(plot, PLOT_HEAD, "a plot of compare")
    if judgments is not None:
        check_own(judgments, JUDGMENTS_HEAD, "a file of compare's judgments")
    opened = Study.load(study)
    report = make_report(opened, opened.load_key(key))
    if report.unusable:
        output.note(f"{report.unusable.count:,} rows are not answers: {report.unusable}.")
    if plot is not None:
        plot.parent.mkdir(parents=True, exist_ok=True)
        write_whole(plot, plot_report(report))
    if judgments is not None:
        num_rows = write_judgments(report.names, report.judgments, judgments)
    show_report(report, output)
    if plot is not None:
        output.show(f"Drawn in {plot}.")
    if judgments is not None:
        output.show(f"{num_rows:,} answers in {judgments}.")


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _split(annotators: tuple[str, ...], overlap: float | None) -> Split:
    if overlap is None:
        overlap = _OVERLAP if len(annotators) > 1 else 0.0
    return Split(annotators, overlap)


def _note_left_out(started: Started, options: StartOptions, output: Output) -> None:
    for name, missing in zip(started.systems, started.missing, strict=True):
        if missing:
            output.note(f"{missing.count:,} images have no caption of {name}: {missing}.")
    for path, unusable, repeated in zip(
        options.captions, started.unusable, started.repeated, strict=True
    ):
        if unusable:
            output.note(f"{unusable.count:,} records of {path} cannot be used: {unusable}.")
        if repeated:
            output.note(f"{repeated:,} rows of {path} replace an earlier row of their image.")
    if started.unreadable:
        count = started.unreadable.count
        output.note(f"{count:,} images cannot be shown: {started.unreadable}.")


def _started_sentence(started: Started, out: Path) -> str:
    tasks = started.study.tasks
    parts = [f"{len(tasks) - started.num_repeats:,} pairs to judge in {out}"]
    if started.num_repeats:
        parts.append(f"{started.num_repeats:,} of them repeated with sides swapped")
    if started.num_identical:
        parts.append(f"{started.num_identical:,} more are ties of identical captions")
    if not tasks:
        return f"{', '.join(parts)}."
    annotators = started.study.info.annotators or ("",)
    each = max(sum(not t.annotators or who in t.annotators for t in tasks) for who in annotators)
    minutes = math.ceil(_SECONDS_PER_PAIR * each / 60)
    effort = f"About {minutes:,} min for each annotator, at {_SECONDS_PER_PAIR} seconds a pair."
    return f"{', '.join(parts)}. {effort}"


def _started_data(started: Started, out: Path) -> dict[str, object]:
    return {
        "out": str(out),
        "systems": list(started.systems),
        "images": started.num_images,
        "tasks": len(started.study.tasks),
        "repeats": started.num_repeats,
        "identical": started.num_identical,
        "left_out": {
            name: missing.count
            for name, missing in zip(started.systems, started.missing, strict=True)
        },
        "records_unusable": [unusable.count for unusable in started.unusable],
        "rows_repeated": list(started.repeated),
        "unreadable_images": started.unreadable.count,
    }
