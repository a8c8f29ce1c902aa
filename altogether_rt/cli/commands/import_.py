"""`altogether-rt import`: convert published weights or a bundle to a checkpoint."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from tokenizers import Tokenizer

from altogether_rt.cli.arguments import takes
from altogether_rt.cli.downloads import Download, checkpoint_by_name
from altogether_rt.cli.output import Output
from altogether_rt.config import CaptionerConfig
from altogether_rt.errors import AltogetherError
from altogether_rt.hub.names import find_name

__all__ = ["import_command"]


@dataclass(frozen=True, kw_only=True)
class ImportArguments:
    """The options, in the order of the help."""

    source: Annotated[
        Path,
        typer.Argument(
            metavar="SRC",
            help="What to import: weights in a torch.save or safetensors file, or a folder of "
            "several; a SmolVLM or DistilViT2, as a Hugging Face folder, an id on the hub"
            " or a name (see models); or a CPU bundle, as a folder or `starter`.",
        ),
    ]
    out: Annotated[Path, typer.Option(help="Checkpoint folder to write; must not exist.")]
    tokenizer: Annotated[
        str | None,
        typer.Option(
            help="The decoder's tokenizer: a folder (vocab.json and merges.txt, or "
            "tokenizer.json), a file or a hub id. Default: the files beside SRC or, with "
            "--allow-download, the published tokenizer."
        ),
    ] = None
    encoder_name: Annotated[
        str | None,
        typer.Option(
            help="open_clip's name of the image encoder, or a .json file in its format. Default: "
            "the published encoder of that width."
        ),
    ] = None
    encoder_weights: Annotated[
        str | None,
        typer.Option(
            help="The encoder's weights: a file, which is copied into the checkpoint, or an "
            "open_clip tag, whose weights are loaded when needed. Default: the published "
            "tag."
        ),
    ] = None
    normalize: Annotated[
        bool | None,
        typer.Option(
            "--normalize/--no-normalize",
            help="Whether the captioner expects embeddings of length 1. Default: as published.",
        ),
    ] = None
    mapper_heads: Annotated[
        int, typer.Option(min=1, help="Attention heads of a transformer mapper.")
    ] = 8
    decoder_heads: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Attention heads of the decoder. Default: those of the published model of its"
            " width.",
        ),
    ] = None
    longest_edge: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="For SmolVLM: resize images to this many pixels on their longer side, and "
            "read them in tiles and then as a whole (1024: up to 5 tiles; 2048: up to "
            "17). Default: one tile.",
        ),
    ] = None
    allow_download: Annotated[
        bool,
        typer.Option(
            "--allow-download",
            help="Download the published tokenizer if none is given and none is beside SRC.",
        ),
    ] = False
    download: Download = False
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON line instead of text.")
    ] = False
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print errors only.")] = False


@takes(ImportArguments)
def import_command(context: typer.Context, arguments: ImportArguments) -> None:
    """Convert published weights to a checkpoint.

    A file holds the weights of ClipCap or of Altogether's public code; a folder is a SmolVLM or a
    DistilViT2, encoder and tokenizer included. A CPU bundle can be converted to a
    checkpoint too, to export it for other targets; the weights of an int8 bundle keep its rounding.
    The options that describe weights apply to files only.
    """
    from altogether_rt.artifacts.bundle import find_source
    from altogether_rt.importing.vision_language import is_vision_language

    source, out = arguments.source, arguments.out
    output = Output(as_json=arguments.as_json, quiet=arguments.quiet)
    if out.exists():
        raise AltogetherError(f"{out} already exists: give another --out.")
    if find_name(source) is not None:
        with checkpoint_by_name(source, output, download=arguments.download) as folder:
            _take(folder, out, output)
        return
    bundle = find_source(source)
    if bundle is not None:
        _recover(bundle, out, output)
    elif is_vision_language(source):
        _import_folder(source, out, arguments.longest_edge, output)
    else:
        _import_weights(arguments, output)


def _import_weights(arguments: ImportArguments, output: Output) -> None:
    """Weights that come without a description of the captioner: the options give the rest."""
    from altogether_rt.artifacts.checkpoint import save_checkpoint
    from altogether_rt.importing.captioner import import_captioner, read_captioner
    from altogether_rt.importing.encoders import embedded_encoder, encoder_reference
    from altogether_rt.importing.weights import check_finite, hash_weights

    source, out, given = arguments.source, arguments.out, arguments.encoder_weights
    weights = read_captioner(source)
    tokenizer = Tokenizer.from_str(
        _tokenizer_text(
            arguments.tokenizer,
            _beside(source),
            weights.published_tokenizer,
            arguments.allow_download,
        )
    )
    embed = given is not None and Path(given).is_file()
    config, state = import_captioner(
        weights,
        tokenizer,
        name=source.stem,
        mapper_heads=arguments.mapper_heads,
        decoder_heads=arguments.decoder_heads,
        encoder_name=arguments.encoder_name,
        encoder_tag=None if embed else given,
        normalize=arguments.normalize,
    )
    encoder_weights = _encoder_weights(config, given)
    if embed:
        state |= embedded_encoder(config.encoder, encoder_weights)
        check_finite(state, encoder_weights)
    about = {
        "imported_from": source.name,
        "imported_sha256": hash_weights(source),
        **encoder_reference(encoder_weights),
    }
    save_checkpoint(out, config, state, tokenizer, about)
    _show_imported(out, config, None if embed else encoder_weights, output)


def _show_imported(
    out: Path, config: CaptionerConfig, reference: str | None, output: Output
) -> None:
    """reference: to the weights of the encoder; None if they are embedded."""
    where = "embedded" if reference is None else f"by reference ({reference})"
    output.result(
        {"checkpoint": str(out), "config": config.to_dict(), "encoder_embedded": reference is None},
        [
            f"checkpoint in {out}: {config.mapper.kind} mapper of {config.mapper.prefix_length} "
            f"visual tokens, {config.decoder.family} of {config.decoder.layers} layers, encoder "
            f"{config.encoder.name} {where}",
            f"altogether-rt export --ckpt {out}",
        ],
    )


def _import_folder(source: Path, out: Path, longest_edge: int | None, output: Output) -> None:
    from altogether_rt.artifacts.checkpoint import save_checkpoint
    from altogether_rt.importing.vision_language import import_vision_language

    config, state, tokenizer = import_vision_language(source, source.resolve().name, longest_edge)
    save_checkpoint(out, config, state, tokenizer, {"imported_from": source.resolve().name})
    mapper, decoder = config.mapper, config.decoder
    output.result(
        {"checkpoint": str(out), "config": config.to_dict(), "encoder_embedded": True},
        [
            f"checkpoint in {out}: {mapper.prefix_length} visual tokens of "
            f"{config.encoder.embedding_shape[0]} patches, {decoder.family} of {decoder.layers} "
            "layers, encoder embedded",
            f"altogether-rt export --ckpt {out}",
        ],
    )


def _take(folder: Path, out: Path, output: Output) -> None:
    """Make `out` a copy of a checkpoint, or a checkpoint of the bundle in `folder`."""
    from altogether_rt.artifacts.bundle import find_source
    from altogether_rt.artifacts.checkpoint import Checkpoint
    from altogether_rt.artifacts.files import NewFolder

    bundle = find_source(folder)
    if bundle is not None:
        _recover(bundle, out, output)
        return
    with NewFolder(out) as new:
        shutil.copytree(folder, new.path, dirs_exist_ok=True)
        new.commit()
    checkpoint = Checkpoint.load(out)
    origin = checkpoint.about["hub"]
    output.result(
        {
            "checkpoint": str(out),
            "config": checkpoint.config.to_dict(),
            "encoder_embedded": True,
            "hub": origin,
        },
        [
            f"checkpoint in {out}: {origin['id']} at {origin['revision'][:12]}, licence "
            f"{origin['licence']}",
            f"altogether-rt export --ckpt {out}",
        ],
    )


def _recover(bundle: Path, out: Path, output: Output) -> None:
    from altogether_rt.importing.bundle import recover_checkpoint

    checkpoint = recover_checkpoint(bundle, out)
    config, about = checkpoint.config, checkpoint.about
    output.result(
        {
            "checkpoint": str(out),
            "config": config.to_dict(),
            "encoder_embedded": True,
            "recovered_from_bundle": about["recovered_from_bundle"],
        },
        [
            f"checkpoint in {out}: {config.name}, recovered from the "
            f"{about['recovered_from_target']} bundle {about['recovered_from_bundle']}",
            f"altogether-rt export --ckpt {out}",
        ],
    )


def _encoder_weights(config: CaptionerConfig, given: str | None) -> str:
    """The file or tag that the user gave, or else the published tag.

    Raises AltogetherError if there is none or it cannot be loaded.
    """
    from altogether_rt.importing.captioner import default_encoder_tag
    from altogether_rt.importing.encoders import check_encoder_weights

    weights = given or default_encoder_tag(config)
    if weights is None:
        raise AltogetherError(
            f"no published weights are known for {config.encoder.name}: give --encoder-weights."
        )
    check_encoder_weights(config.encoder, weights)
    return weights


def _beside(source: Path) -> Path:
    return source if source.is_dir() else source.parent


def _tokenizer_text(given: str | None, beside: Path, published: str, allow_download: bool) -> str:
    """The tokenizer.json of the user's tokenizer, of SRC's folder, or of the hub, in this order."""
    from altogether_rt.importing.huggingface import hub_folder
    from altogether_rt.importing.tokenizer import tokenizer_json

    if given is None:
        if any((beside / name).is_file() for name in ("tokenizer.json", "vocab.json")):
            return tokenizer_json(beside)
        if not allow_download:
            raise AltogetherError(
                f"{beside} has no tokenizer: give --tokenizer, a folder with vocab.json "
                f"and merges.txt, or pass --allow-download to fetch {published} from the hub."
            )
        try:
            return tokenizer_json(hub_folder(published, weights=False))
        except AltogetherError as error:
            raise AltogetherError(
                f"the tokenizer {published} cannot be fetched: give --tokenizer, a folder with "
                "vocab.json and merges.txt."
            ) from error
    if Path(given).exists():
        return tokenizer_json(Path(given))
    return tokenizer_json(hub_folder(given, weights=False))
