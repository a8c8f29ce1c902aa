"""`altogether-rt annotate` start, next and serve: rounds, and the page for answering them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from altogether_rt.annotation.rounds import next_round
from altogether_rt.annotation.session import Session
from altogether_rt.annotation.start import Start, Started, StartPlan, plan_start, start_work
from altogether_rt.annotation.work import FIRST_ROUND, Work
from altogether_rt.cli.output import Output
from altogether_rt.web.server import LoopbackServer, serve_until_stopped

__all__ = [
    "JsonOption",
    "QuietOption",
    "WorkFolder",
    "next_command",
    "serve_command",
    "split_names",
    "start_command",
]

WorkFolder = Annotated[Path, typer.Argument(metavar="WORK", help="Folder made by annotate start.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as one JSON line.")]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="Print errors only.")]
Annotators = Annotated[
    str,
    typer.Option(
        metavar="NAME,NAME",
        help="Divide the images equally among these annotators; otherwise anyone may answer any.",
    ),
]
Overlap = Annotated[
    float, typer.Option(min=0.0, max=1.0, help="Share of the images to assign to two people.")
]


def start_command(
    images: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of images.")],
    out: Annotated[
        Path, typer.Option(metavar="WORK", help="Work folder to create; must be new or empty.")
    ],
    alt: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="File of alt-texts, as for caption. Searched for here, then in DIR.",
        ),
    ] = None,
    from_: Annotated[
        Path | None,
        typer.Option(
            "--from",
            metavar="FILE",
            help="Captions to start from instead of alt-texts; every row records it.",
        ),
    ] = None,
    annotators: Annotators = "",
    overlap: Overlap = 0.0,
    gold: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Folder of scenes, whose facts are known, to mix in as gold images (or DIR "
            "itself), so that report can score each annotator.",
        ),
    ] = None,
    num_gold: Annotated[int, typer.Option(min=1, help="Number of scenes to mix in.")] = 10,
    guideline: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.toml", help="Guideline to use, in the format of WORK/guideline.toml."
        ),
    ] = None,
    seed: Annotated[
        int, typer.Option(min=0, help="Seed for assigning images and drawing gold images.")
    ] = 0,
    limit: Annotated[int | None, typer.Option(min=1, help="Use only the first N images.")] = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Start annotation of a folder: round 1 is its alt-texts, round 2 is opened for answers."""
    output = Output(as_json=as_json, quiet=quiet)
    start = Start(
        images,
        out,
        alt,
        from_,
        split_names(annotators),
        overlap,
        gold,
        num_gold,
        seed,
        guideline,
        limit,
    )
    plan = plan_start(start)
    _note_plan(start, plan, output)
    with output.progress(plan.num_images, "images") as progress:
        started = start_work(start, plan, progress.advance)
    _report_start(start, started, output)


def next_command(
    work: WorkFolder,
    annotators: Annotated[
        str | None,
        typer.Option(metavar="NAME,NAME", help="Annotators of the new round, if they change."),
    ] = None,
    overlap: Annotated[
        float | None,
        typer.Option(min=0.0, max=1.0, help="Share to assign to two people, if it changes."),
    ] = None,
    partial: Annotated[
        bool, typer.Option("--partial", help="Continue even though answers are missing.")
    ] = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Close the open round and open the next one, which starts from its answers.

    Where an image has several answers, the one closest to all others is used; of two, the one with
    more words. Images that anyone flagged as private or unusable are left out.
    """
    output = Output(as_json=as_json, quiet=quiet)
    opened = Work(work)
    names = None if annotators is None else split_names(annotators)
    with output.progress(None, "images checked") as progress:
        number, tasks, resolved = next_round(
            opened,
            annotators=names,
            overlap=overlap,
            partial=partial,
            advance=progress.advance,
        )
    data = {
        "work": str(work),
        "round": number,
        "images": len(tasks),
        "flagged": len(resolved.left_out),
        "unanswered": len(resolved.unanswered),
    }
    behind = [
        f"{count:,} {what}"
        for count, what in (
            (data["flagged"], "flagged as private or unusable"),
            (data["unanswered"], "without an answer"),
        )
        if count
    ]
    left = f"; left out: {', '.join(behind)}" if behind else ""
    output.result(data, f"Round {number} of {work} is open with {len(tasks):,} images{left}.")


def serve_command(
    work: WorkFolder,
    as_: Annotated[
        str, typer.Option("--as", metavar="NAME", help="The annotator: a-z, 0-9, -, _.")
    ],
    instead_of: Annotated[
        str,
        typer.Option(
            metavar="NAME,NAME", help="Take over the unanswered images of these annotators."
        ),
    ] = "",
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port to serve on; 0 picks a free one.")
    ] = 0,
    quiet: QuietOption = False,
) -> None:
    """Serve the page on which one annotator works on the open round, on this machine only.

    An answer is on disk before the page confirms it. Ctrl-C stops the server; the same command
    resumes. To use it from another machine: ssh -L 8000:127.0.0.1:8000, and --port 8000 here.
    """
    output = Output(quiet=quiet)
    with Session(Work(work), as_, split_names(instead_of)) as session:
        server = LoopbackServer(session.site(), port)
        print(server.url, flush=True)
        output.note(
            f"{session.num_answered:,} of {session.num_tasks:,} images answered. "
            f"Open the address above; it is for {as_} only. Ctrl-C ends the server."
        )
        serve_until_stopped(server)
        output.note(f"{session.num_answered:,} of {session.num_tasks:,} images answered.")


def split_names(text: str) -> tuple[str, ...]:
    """The names in `anna,ben`."""
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _note_plan(start: Start, plan: StartPlan, output: Output) -> None:
    for note in plan.source.notes():
        output.note(note)
    if plan.num_bad_captions:
        output.note(f"{plan.num_bad_captions:,} lines of {start.captions} are no rows of captions.")
    if start.alts is None:
        output.note("No --alt is given: every text starts empty, unless --from has one.")


def _report_start(start: Start, started: Started, output: Output) -> None:
    tasks, left_out = started.tasks, started.left_out
    if left_out:
        output.note(
            f"{len(left_out):,} images cannot be read and are left out "
            f"({start.out / 'left_out.jsonl'}): {left_out[0]['error']['message']}"
        )
    if started.other_images:
        output.note(
            f"{started.other_images.count:,} captions in {start.captions} are not used, since they "
            f"are of another image of the same name: {started.other_images}."
        )
    others = len(tasks) - started.num_extra - started.num_from_captions
    if start.captions is not None and others:
        instead = "no text" if start.alts is None else "the alt-text"
        output.note(f"{others:,} images have no caption in {start.captions}: {instead} instead.")
    data = {
        "work": str(start.out),
        "round": FIRST_ROUND,
        "images": len(tasks) - started.num_extra,
        "from_captions": started.num_from_captions,
        "doubled": sum(len(task.annotators) > 1 for task in tasks if not task.extra),
        "gold": started.num_gold,
        "left_out": len(left_out),
        "annotators": list(start.annotators),
    }
    who = start.annotators[0] if start.annotators else "NAME"
    output.result(
        data,
        [
            f"{start.out}: {data['images']:,} images, {data['doubled']:,} of them for two people, "
            f"{data['gold']:,} with known facts.",
            f"Round {FIRST_ROUND} is open: altogether-rt annotate serve {start.out} --as {who}",
        ],
    )
