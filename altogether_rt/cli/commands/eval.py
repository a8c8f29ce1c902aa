"""`altogether-rt eval`: metrics of captions."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from altogether_rt.artifacts.own_files import check_own
from altogether_rt.cli.arguments import takes
from altogether_rt.cli.output import Output
from altogether_rt.cli.tables.evaluation import results_json, run_settings, show_results
from altogether_rt.data.alts import read_alts
from altogether_rt.errors import AltogetherError, ImageError
from altogether_rt.evaluation.evaluate import Evaluation, evaluate, results
from altogether_rt.evaluation.inputs import (
    Captions,
    References,
    image_path,
    read_captions,
    read_references,
)
from altogether_rt.evaluation.metric import Bootstrap
from altogether_rt.evaluation.options import EvaluationOptions, load_clip
from altogether_rt.evaluation.phrases import DEFAULT_MODEL, PhraseFinder, PhraseForm
from altogether_rt.evaluation.report import REPORT_HEAD, Report, write_report
from altogether_rt.evaluation.scores import SCORES_HEAD, write_scores

__all__ = ["eval_command"]


@dataclass(frozen=True, kw_only=True)
class EvalArguments:
    """The options, in the order of the help."""

    captions: Annotated[
        Path,
        typer.Argument(
            metavar="CAPTIONS",
            help="Rows of altogether-rt caption, or other JSON lines or a table (.csv, .tsv) with "
            "file_name and caption.",
        ),
    ]
    references: Annotated[
        Path | None,
        typer.Argument(
            metavar="[REFERENCES]",
            help="JSON lines with file_name and references, or rounds (the last one is used), or a "
            "COCO captions file. Optional: some metrics need none.",
        ),
    ] = None
    against: Annotated[
        Path | None,
        typer.Option(metavar="OTHER", help="Other captions of the same images to compare with."),
    ] = None
    alt: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="File of alt-texts to use instead of those in CAPTIONS."),
    ] = None
    images: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Folder of the images, for the CLIP score and the report."
        ),
    ] = None
    clip: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            help="Compute the CLIP score with this open_clip model: a name, a JSON file, "
            "hf-hub:org/repo or local-dir:path.",
        ),
    ] = None
    clip_weights: Annotated[
        str | None,
        typer.Option(
            metavar="WEIGHTS", help="Weights of the CLIP model: open_clip's tag, or a file."
        ),
    ] = None
    embeddings: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Embeddings from caption --save-embeddings, made with the same CLIP.",
        ),
    ] = None
    phrases: Annotated[
        bool, typer.Option(help="Compare noun phrases, if spaCy and its model are installed.")
    ] = True
    spacy_model: Annotated[
        str, typer.Option(metavar="MODEL", help="spaCy model for noun phrases.")
    ] = DEFAULT_MODEL
    phrase_form: Annotated[
        PhraseForm, typer.Option(help="Form in which noun phrases are compared.")
    ] = "lemmas"
    meteor: Annotated[
        bool, typer.Option(help="Compute METEOR, if Java and pycocoevalcap are installed.")
    ] = True
    missing_as_empty: Annotated[
        bool,
        typer.Option(
            "--missing-as-empty", help="Score error rows and missing captions as empty captions."
        ),
    ] = False
    resamples: Annotated[int, typer.Option(min=100, help="Number of bootstrap resamples.")] = 2000
    seed: Annotated[int, typer.Option(min=0, help="Seed of the bootstrap.")] = 0
    html: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Write a report with plots and the best and worst captions."
        ),
    ] = None
    scores: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Write the scores of each image as JSON lines, for pandas and the like.",
        ),
    ] = None
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as one JSON line.")] = (
        False
    )
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print errors only.")] = False


@takes(EvalArguments)
def eval_command(context: typer.Context, arguments: EvalArguments) -> None:
    """Evaluate captions against references, alt-texts and images.

    Every metric has a 95 % bootstrap interval over images. --against adds paired differences from
    other captions of the same images. Error rows, captions without references and references
    without captions are counted and shown.
    """
    output = Output(as_json=arguments.as_json, quiet=arguments.quiet)
    html, scores = arguments.html, arguments.scores
    _check_written(html, REPORT_HEAD, "a report of eval")
    _check_written(scores, SCORES_HEAD, "a file of eval's scores")
    table = None if arguments.alt is None else read_alts(arguments.alt)
    known = None if arguments.references is None else read_references(arguments.references)
    paths = (arguments.captions, arguments.against)
    systems = [read_captions(path, table) for path in paths if path is not None]
    if len(systems) == 2 and (changed := systems[0].images_changed(systems[1])):
        output.note(
            f"{len(changed):,} images of {paths[0]} and {paths[1]} have the same name and are not "
            f"the same image, {changed[0]} for one: are the captions of different folders?"
        )
    root = arguments.images or _find_images(systems[0], arguments.references)
    options = _options(arguments, root, with_phrases=arguments.phrases and known is not None)
    bootstrap = Bootstrap(num_resamples=arguments.resamples, seed=arguments.seed)
    evaluations = list(_evaluate(systems, known, options, output))
    computed = results(evaluations[0], evaluations[1] if arguments.against else None, bootstrap)
    settings = run_settings(bootstrap, options, arguments.clip, arguments.clip_weights)
    if html is not None:
        write_report(Report(computed, settings, root), html)
    num_scored = 0 if scores is None else write_scores(computed, scores)
    show_results(output, computed)
    output.result(results_json(computed, settings))
    if html is not None:
        output.note(f"Report: {html}")
    if scores is not None:
        output.note(f"Scores: {scores}, {num_scored:,} rows")


def _check_written(path: Path | None, kind: re.Pattern[bytes], name: str) -> None:
    """Raise AltogetherError, before anything slow, if a file must not be written there."""
    if path is not None:
        if path.is_dir():
            raise AltogetherError(f"{path} is a folder: give a file.")
        check_own(path, kind, name)


def _options(
    arguments: EvalArguments, root: Path | None, *, with_phrases: bool
) -> EvaluationOptions:
    """What is computed. root: of the images. Raises AltogetherError if CLIP cannot be loaded."""
    options = EvaluationOptions(
        meteor=arguments.meteor, missing_as_empty=arguments.missing_as_empty
    )
    if with_phrases:
        try:
            options.phrases = PhraseFinder(arguments.spacy_model, arguments.phrase_form)
        except AltogetherError as error:
            options.why_no_phrases = str(error)
    if arguments.clip is not None:
        options.clip = load_clip(arguments.clip, arguments.clip_weights, root, arguments.embeddings)
    elif arguments.embeddings is not None or arguments.clip_weights is not None:
        raise AltogetherError(
            "--embeddings and --clip-weights are for the CLIP score: name its model (--clip)."
        )
    return options


def _evaluate(
    systems: Sequence[Captions],
    known: References | None,
    options: EvaluationOptions,
    output: Output,
) -> Iterator[Evaluation]:
    with output.progress(None, "captions") as progress:
        options.advance = progress.advance
        for system in systems:
            for step in evaluate(system, known, options):
                if isinstance(step, Evaluation):
                    yield step
                else:
                    progress.advance(0, f"{system.path.name}: {step}")


def _find_images(captions: Captions, references: Path | None) -> Path | None:
    """The folder beside a file that has the first image; None if there is none."""
    first = next(iter(captions.files.values()))
    for path in (references, captions.path):
        try:
            if path is not None and image_path(path.parent, first).is_file():
                return path.parent
        except ImageError:
            continue
    return None
