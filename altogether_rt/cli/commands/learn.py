"""`altogether-rt learn`: learns drafting state for a bundle from finished captions."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from altogether_rt.cli.output import Output, format_bytes
from altogether_rt.data.alts import alt_texts, read_records
from altogether_rt.data.embeddings import EncoderStamp, SavedEmbeddings
from altogether_rt.data.problems import Problems
from altogether_rt.data.rows import Row, as_row
from altogether_rt.errors import AltogetherError, ImageError

if TYPE_CHECKING:
    from altogether_rt.artifacts.bundle import Bundle
    from altogether_rt.speculation.planner import DraftPlanner

__all__ = ["learn_command"]


def learn_command(
    bundle: Annotated[
        str,
        typer.Option(
            help="Folder of the bundle, or of a copy of the starter; what it had learned before is "
            "kept in a file."
        ),
    ],
    captions: Annotated[
        Path | None,
        typer.Argument(metavar="CAPTIONS", help="Output file of altogether-rt caption."),
    ] = None,
    embeddings: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Embeddings from --save-embeddings, to learn which words go with an image.",
        ),
    ] = None,
    limit: Annotated[
        int,
        typer.Option(
            min=1, help="Number of captions to learn from; more than the default help little."
        ),
    ] = 10_000,
    restore: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Restore what the bundle had learned before, from a file that an earlier "
            "learn named.",
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON line instead of text.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print errors only.")] = False,
) -> None:
    """Learn from captions which tokens to draft, so that a bundle's first captions are generated as
    fast as later ones. Captions stay the same, and so does the bundle's id.

    A thousand captions similar to those to come are enough. Captioning one image at a time gains
    most.
    """
    from altogether_rt.artifacts.bundle import Bundle
    from altogether_rt.hub.lookup import locate_bundle
    from altogether_rt.speculation.planner import DraftPlanner
    from altogether_rt.speculation.store import save_drafting_state

    if (captions is None) == (restore is None):
        raise typer.BadParameter("give either CAPTIONS or --restore FILE.", param_hint="CAPTIONS")
    output = Output(as_json=as_json, quiet=quiet)
    opened = Bundle.load(locate_bundle(bundle))
    if bundle == "starter":
        raise AltogetherError(
            f"starter is part of the package and stays as it was installed: copy {opened.path}, "
            "and give the copy as --bundle."
        )
    if restore is not None:
        _restore(opened, restore, output)
        return
    assert captions is not None
    planner = DraftPlanner()
    with output.progress(None, "captions") as progress:
        taught = _teach(planner, opened, captions, embeddings, limit, progress.advance)
    if not taught.captions:
        raise AltogetherError(
            f"there are no captions in {captions}, so there is nothing to learn from: "
            "give the output of altogether-rt caption."
        )
    size, former = _replace(opened, lambda path: save_drafting_state(planner, path))
    said = (
        f"{bundle} has learnt from {taught.captions} captions, {taught.pictures} with embeddings "
        f"({format_bytes(size)})"
    )
    if former is not None:
        said += f"; what it had learnt before is kept: --restore {former} goes back to it"
    figures = {"captions": taught.captions, "pictures": taught.pictures, "bytes": size}
    kept = None if former is None else str(former)
    output.result({**figures, "bundle": bundle, "former": kept}, said)


@dataclass
class _Taught:
    """How many captions there were, and of how many the image's embedding was known."""

    captions: int = 0
    pictures: int = 0


def _teach(
    planner: DraftPlanner,
    bundle: Bundle,
    captions: Path,
    embeddings: Path | None,
    limit: int,
    advance: Callable[[], object],
) -> _Taught:
    """Let `planner` learn from the first `limit` captions. Raises AltogetherError for a file that
    is not of caption rows, and for embeddings of another encoder.
    """
    from altogether_rt.preprocess.prompts import PromptTokenizer
    from altogether_rt.speculation.store import teach

    tokenizer = PromptTokenizer.of_captioner(bundle.tokenizer_path, bundle.config)
    saved = None if embeddings is None else _open_embeddings(embeddings, bundle)
    taught = _Taught()
    for row, alts in itertools.islice(_caption_rows(captions), limit):
        embedding = None
        if saved is not None:
            try:
                embedding = saved.get(row["file_name"]).embedding
                taught.pictures += 1
            except ImageError:
                pass  # its caption teaches without it
        ids = (*tokenizer.encode(row["caption"]), bundle.config.decoder.eos_id)
        teach(planner, tokenizer.prompt(alts).alt_ids, ids, embedding)
        taught.captions += 1
        advance()
    return taught


def _replace(bundle: Bundle, write: Callable[[Path], None]) -> tuple[int, Path | None]:
    """Give the bundle the drafting state that `write` writes; returns its bytes, and the former."""
    changed = bundle.with_drafting_state(write)
    assert changed.drafting_state_path is not None
    former = bundle.drafting_state_path
    same = former == changed.drafting_state_path
    return changed.drafting_state_path.stat().st_size, None if same else former


def _copy(source: Path, new: Path) -> None:
    new.write_bytes(source.read_bytes())


def _restore(bundle: Bundle, path: Path, output: Output) -> None:
    """Make the drafting state in `path` the bundle's again. Raises BundleError if it is not one."""
    from altogether_rt.speculation.store import load_drafting_state

    config = bundle.config
    load_drafting_state(path, config.decoder.vocab_size, config.encoder.embed_dim)
    _, former = _replace(bundle, partial(_copy, path))
    kept = None if former is None else str(former)
    output.result(
        {"bundle": str(bundle.path), "restored": str(path), "former": kept},
        f"{bundle.path} drafts again with what {path} holds.",
    )


def _open_embeddings(path: Path, bundle: Bundle) -> SavedEmbeddings:
    """Open saved embeddings. Raises AltogetherError if they are of another encoder."""
    manifest = bundle.manifest
    stamp = EncoderStamp(manifest.encoder_id, manifest.config.encoder.embed_dim)
    try:
        return SavedEmbeddings(path, stamp)
    except AltogetherError as error:
        try:  # decoded differently, but similar enough to learn from
            return SavedEmbeddings(path, dataclasses.replace(stamp, decoding="fast-jpeg"))
        except AltogetherError:
            raise error from None


def _caption_rows(path: Path) -> Iterator[tuple[Row, tuple[str, ...]]]:
    """Rows that have a caption, with their alt-texts, as they are read.

    Raises AltogetherError for an invalid line.
    """
    problems = Problems()
    try:
        for where, record in read_records(path, problems):
            row = as_row(record)
            try:
                texts = None if row is None else alt_texts(row) or ()
            except ValueError:
                texts = None
            if problems or row is None or texts is None:
                raise _not_a_row(path, problems, where)
            if row.get("error") is None:
                yield row, tuple(text for text in texts if text)
    except OSError as error:
        raise AltogetherError(f"{path} cannot be read: {error.strerror}.") from error
    if problems:
        raise _not_a_row(path, problems, "")


def _not_a_row(path: Path, problems: Problems, where: str) -> AltogetherError:
    where = problems.examples[0].partition(":")[0] if problems else where
    return AltogetherError(
        f"{where} of {path} is not a caption row: give the output of altogether-rt caption."
    )
