"""`altogether-rt init`: make a checkpoint to start from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from tokenizers import Tokenizer

from altogether_rt.cli.output import Output
from altogether_rt.config import CaptionerConfig, load_config
from altogether_rt.errors import AltogetherError

__all__ = ["init_command"]


def init_command(
    out: Annotated[Path, typer.Option(help="Checkpoint folder to write; must not exist.")],
    config: Annotated[
        str,
        typer.Option(help="Configuration: a name such as `altogether-opt-125m`, or a .toml file."),
    ] = "altogether-opt-1.3b",
    random_weights: Annotated[
        bool,
        typer.Option(
            "--random-weights", help="Use random weights for every part that no option gives."
        ),
    ] = False,
    decoder: Annotated[
        str | None,
        typer.Option(
            help="A trained decoder (OPT, GPT-2, Llama): a Hugging Face folder or hub id. It "
            "replaces the configuration's decoder."
        ),
    ] = None,
    encoder_weights: Annotated[
        str | None,
        typer.Option(
            help="Trained weights of the configuration's encoder: a file, which is copied into"
            " the checkpoint, or an open_clip tag, whose weights are loaded when needed."
        ),
    ] = None,
    no_encoder: Annotated[
        bool,
        typer.Option(
            "--no-encoder",
            help="Leave out the encoder's weights; the published ones are loaded when needed.",
        ),
    ] = False,
    tokenizer: Annotated[
        Path | None,
        typer.Option(
            help="Folder with vocab.json and merges.txt, or tokenizer.json. Default: the decoder's "
            "tokenizer, or a placeholder with a token for every byte."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the random weights.")] = 0,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON line instead of text.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print errors only.")] = False,
) -> None:
    """Make a checkpoint to try things out with (random weights) or to start training from."""
    from altogether_rt.artifacts.checkpoint import save_checkpoint
    from altogether_rt.importing.encoders import encoder_reference
    from altogether_rt.importing.starting import starting_captioner

    output = Output(as_json=as_json, quiet=quiet)
    base = load_config(config)
    if out.exists():
        raise AltogetherError(f"{out} already exists: give another --out.")
    encoder_weights = _encoder_weights(base, encoder_weights, no_encoder=no_encoder)
    _check_complete(decoder, encoder_weights, random_weights=random_weights)
    is_file = encoder_weights is not None and Path(encoder_weights).is_file()
    made, state = starting_captioner(
        base,
        seed=seed,
        decoder=decoder,
        embed_encoder=is_file or encoder_weights is None,
        encoder_weights=encoder_weights if is_file else None,
    )
    random_parts = ["mapper", *(["decoder"] if decoder is None else [])]
    random_parts += ["encoder"] if encoder_weights is None else []
    about: dict[str, Any] = {
        "started_from": config,
        "random_weights": random_parts,
        "seed": seed,
        **({"decoder": decoder} if decoder else {}),
        **encoder_reference(encoder_weights),
    }
    loaded_tokenizer = Tokenizer.from_str(_tokenizer_text(made, tokenizer, decoder))
    save_checkpoint(out, made, state, loaded_tokenizer, about)
    parameters = sum(tensor.numel() for tensor in state.values())
    data = {"checkpoint": str(out), "parameters": parameters, "random": random_parts}
    output.result(
        data,
        [
            f"checkpoint in {out}: {parameters / 1e6:.1f} M parameters, random: "
            f"{', '.join(random_parts)}",
            f"altogether-rt export --ckpt {out}",
        ],
    )


def _encoder_weights(config: CaptionerConfig, given: str | None, *, no_encoder: bool) -> str | None:
    """A tag, a file, or None for random weights.

    Raises AltogetherError if the options contradict each other or name no weights.
    """
    from altogether_rt.importing.encoders import check_encoder_weights, published_weights
    from altogether_rt.model.encoder import is_published

    if given is not None:
        check_encoder_weights(config.encoder, given)
    if not no_encoder and not is_published(config.encoder.name):
        return given
    if given is not None and Path(given).is_file():
        raise AltogetherError(
            "--no-encoder cannot be combined with a file in --encoder-weights: give one of them."
        )
    weights = given or published_weights(config.encoder.name, config.decoder.family)
    if weights is None:
        raise AltogetherError(
            f"no published weights are known for {config.encoder.name}, so a checkpoint without "
            "its weights could not be used: leave out --no-encoder, or give --encoder-weights."
        )
    return weights


def _check_complete(
    decoder: str | None, encoder_weights: str | None, *, random_weights: bool
) -> None:
    missing = [
        option
        for option, value in (("--decoder", decoder), ("--encoder-weights", encoder_weights))
        if value is None
    ]
    if missing and not random_weights:
        raise typer.BadParameter(
            f"give {' and '.join(missing)}, or --random-weights for random weights"
        )


def _tokenizer_text(config: CaptionerConfig, given: Path | None, decoder: str | None) -> str:
    from altogether_rt.importing.huggingface import hub_folder
    from altogether_rt.importing.tokenizer import placeholder_tokenizer_json, tokenizer_json

    if given is not None:
        return tokenizer_json(given)
    if decoder is not None:
        return tokenizer_json(hub_folder(decoder, weights=False))
    structure = config.decoder
    return placeholder_tokenizer_json(structure.vocab_size, structure.eos_id, structure.pad_id)
