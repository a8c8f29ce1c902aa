"""`altogether-rt learn`: learns drafting state for a bundle from finished captions."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator
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

__all__ = ["learn_command"]


def learn_command(
    captions: Annotated[
        Path, typer.Argument(metavar="CAPTIONS", help="Output file of altogether-rt caption.")
    ],
    bundle: Annotated[
        str, typer.Option(help="The bundle's folder; what it has learnt before is replaced.")
    ],
    embeddings: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Embeddings from --save-embeddings: teach which words go with an image.",
        ),
    ] = None,
    limit: Annotated[
        int,
        typer.Option(
            min=1, help="Number of captions to learn from; more than the default teach little."
        ),
    ] = 10_000,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON line on stdout.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Errors only.")] = False,
) -> None:
    """Learn from captions which tokens to draft, so that a bundle's first captions are generated as
    fast as later ones. Captions stay the same, and so does the bundle's id.

    A thousand captions similar to those to come are enough. Captioning one image at a time gains
    most.
    """
    from altogether_rt.artifacts.bundle import Bundle
    from altogether_rt.preprocess import PromptTokenizer
    from altogether_rt.speculation.planner import DraftPlanner
    from altogether_rt.speculation.store import save_drafting_state, teach

    output = Output(as_json=as_json, quiet=quiet)
    opened = Bundle.load(bundle)
    config = opened.config
    tokenizer = PromptTokenizer.of_captioner(opened.tokenizer_path, config)
    saved = None if embeddings is None else _open_embeddings(embeddings, opened)
    planner = DraftPlanner()
    num_captions = num_embeddings = 0
    with output.progress(None, "captions") as progress:
        for row, alts in itertools.islice(_caption_rows(captions), limit):
            embedding = None
            if saved is not None:
                try:
                    embedding = saved.get(row["file_name"]).embedding
                    num_embeddings += 1
                except ImageError:
                    pass  # its caption teaches without it
            alt_ids = tokenizer.prompt(alts).alt_ids
            ids = (*tokenizer.encode(row["caption"]), config.decoder.eos_id)
            teach(planner, alt_ids, ids, embedding)
            num_captions += 1
            progress.advance()
    if not num_captions:
        raise AltogetherError(
            f"there are no captions in {captions}, so there is nothing to learn from: "
            "give the output of altogether-rt caption."
        )
    changed = opened.with_drafting_state(lambda path: save_drafting_state(planner, path))
    assert changed.drafting_state_path is not None
    size = changed.drafting_state_path.stat().st_size
    output.result(
        {"captions": num_captions, "pictures": num_embeddings, "bytes": size, "bundle": bundle},
        f"{bundle} has learnt from {num_captions} captions, {num_embeddings} with embeddings "
        f"({format_bytes(size)})",
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
