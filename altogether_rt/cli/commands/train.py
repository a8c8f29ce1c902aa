"""`altogether-rt train`: run a training recipe."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from altogether_rt.cli.arguments import takes
from altogether_rt.cli.checkpoint import AllowDownload
from altogether_rt.cli.downloads import Download, checkpoint_by_name
from altogether_rt.cli.output import Output

if TYPE_CHECKING:
    from altogether_rt.train.recipe import DataRecipe, TrainRecipe

__all__ = ["train_command"]

DEFAULT_RECIPE = "starter"

Precision = Literal["fp32", "bf16"]


@dataclass(frozen=True, kw_only=True)
class TrainArguments:
    """The options, in the order of the help. None leaves what the recipe says."""

    out: Annotated[Path, typer.Option(help="Checkpoint folder to write; must not exist.")]
    recipe: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|FILE",
            help="Training recipe: `starter` (from scratch), `finetune`, or a .toml file.",
            show_default=DEFAULT_RECIPE,
        ),
    ] = None
    config: Annotated[str | None, typer.Option(hidden=True, help="Former name of --recipe.")] = None
    init: Annotated[
        Path | None,
        typer.Option(
            help="What to start from (encoder, weights and tokenizer): a checkpoint; a CPU "
            "bundle, such as `starter`; the folder of a run; a name (see models); or an "
            "id on the hub."
        ),
    ] = None
    data: Annotated[
        Path | None,
        typer.Option(
            help="Train on this file instead of the recipe's data: JSON lines with file_name, "
            "alts and rounds, or annotations as released with MetaCLIP.",
        ),
    ] = None
    images: Annotated[
        Path | None,
        typer.Option(help="Folder of the images in --data.", show_default="the file's folder"),
    ] = None
    round_number: Annotated[
        int | None,
        typer.Option(
            "--round",
            min=1,
            help="Annotation round to train on. Default: the last.",
            show_default="each record's last",
        ),
    ] = None
    resume: Annotated[bool, typer.Option(help="Continue an interrupted run.")] = False
    holdout: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            max=0.99,
            metavar="SHARE",
            help="Share of the images, such as 0.05, to evaluate on and never train on.",
        ),
    ] = None
    steps: Annotated[
        int | None, typer.Option(min=1, help="Fine-tuning steps, instead of the recipe's.")
    ] = None
    batch_size: Annotated[int | None, typer.Option(min=1, help="Images per fine-tuning step.")] = (
        None
    )
    lr: Annotated[
        float | None, typer.Option(min=0.0, help="Peak learning rate for fine-tuning.")
    ] = None
    alt_dropout: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            max=1.0,
            metavar="SHARE",
            help="Share of the images whose alt-texts are hidden during fine-tuning.",
        ),
    ] = None
    lora: Annotated[
        int | None,
        typer.Option(
            min=0,
            metavar="RANK",
            help="Train low-rank adapters of this rank (such as 16) instead of the decoder's "
            "own weights: uses less memory; merged at the end. 0: none.",
        ),
    ] = None
    precision: Annotated[
        Precision | None,
        typer.Option(help="Precision of the arithmetic in fine-tuning; weights stay in float32."),
    ] = None
    gradient_checkpointing: Annotated[
        bool,
        typer.Option(
            "--gradient-checkpointing",
            help="Compute each decoder layer twice in fine-tuning: a third more time, a "
            "fraction of the memory.",
        ),
    ] = False
    device: Annotated[
        str,
        typer.Option(
            metavar="auto|cpu|cuda|cuda:N", help="Where to train; auto is a GPU if there is one."
        ),
    ] = "auto"
    cache_gb: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            help="Gigabytes of embeddings to keep beside the run; the others are recomputed "
            "when needed.",
            show_default="half of the free disk",
        ),
    ] = None
    skip_bad: Annotated[
        bool,
        typer.Option("--skip-bad", help="Skip rows and images that cannot be used."),
    ] = False
    allow_download: AllowDownload = False
    download: Download = False
    threads: Annotated[
        int | None, typer.Option(min=1, help="CPU threads. Default: whatever measures fastest.")
    ] = None
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print errors only.")] = False

    def training_recipe(self) -> TrainRecipe:
        """The recipe, with what options change. Raises AltogetherError if there is none such."""
        from altogether_rt.train.recipe import load_recipe

        if self.recipe is not None and self.config is not None:
            raise typer.BadParameter("this is the former name of --recipe: give --recipe alone.")
        recipe = load_recipe(self.recipe or self.config or DEFAULT_RECIPE).with_finetune(
            num_steps=self.steps,
            batch_size=self.batch_size,
            peak_lr=self.lr,
            alt_dropout=self.alt_dropout,
            lora_rank=self.lora,
            precision=self.precision,
            gradient_checkpointing=self.gradient_checkpointing or None,
        )
        return recipe if self.holdout is None else replace(recipe, holdout=self.holdout)

    def data_recipe(self) -> DataRecipe | None:
        """What `--data` and its options mean; None: the recipe's own data."""
        from altogether_rt.train.recipe import DataRecipe

        if self.data is None:
            if self.images is not None or self.round_number is not None:
                raise typer.BadParameter("--images and --round are for --data: give it too.")
            return None
        images = "" if self.images is None else str(self.images)
        return DataRecipe(
            "folder", path=str(self.data), images=images, round_number=self.round_number
        )

    @property
    def max_embedding_bytes(self) -> int | None:
        return None if self.cache_gb is None else int(self.cache_gb * 1e9)


@takes(TrainArguments)
def train_command(context: typer.Context, arguments: TrainArguments) -> None:
    """Train a captioner following a recipe: encoder (scenes only), pretraining, fine-tuning.

    Options from --steps to --gradient-checkpointing override the recipe's fine-tuning stage.
    """
    from altogether_rt.train.run import train

    output = Output(quiet=arguments.quiet)
    recipe = arguments.training_recipe()
    _check_paths(arguments)
    with _starting_checkpoint(arguments.init, output, download=arguments.download) as start:
        train(
            recipe,
            arguments.out,
            init=start,
            data=arguments.data_recipe(),
            resume=arguments.resume,
            skip_bad=arguments.skip_bad,
            threads=arguments.threads,
            device=arguments.device,
            max_embedding_bytes=arguments.max_embedding_bytes,
            allow_download=arguments.allow_download,
            say=output.note,
        )
    output.show(f"checkpoint in {arguments.out}: altogether-rt export --ckpt {arguments.out}")


def _check_paths(arguments: TrainArguments) -> None:
    """Raises AltogetherError for what would end the run after a long download."""
    from altogether_rt.train.data import check_training_file
    from altogether_rt.train.folder import check_folders, run_folder

    check_folders(arguments.out, run_folder(arguments.out), arguments.resume)
    if arguments.data is not None:
        check_training_file(arguments.data, arguments.images)


@contextmanager
def _starting_checkpoint(
    init: Path | None, output: Output, *, download: bool
) -> Iterator[Path | None]:
    """The checkpoint that `--init` means: a folder, what a run saved last, a bundle, a name."""
    if init is None:
        yield None
        return
    from altogether_rt.artifacts.bundle import find_source
    from altogether_rt.train.folder import run_folder
    from altogether_rt.train.snapshot import checkpoint_of

    with ExitStack() as stack:
        if not run_folder(init).is_dir():  # an unfinished run looks like an id on the hub
            init = stack.enter_context(checkpoint_by_name(init, output, download=download))
        source = stack.enter_context(checkpoint_of(init, output.note))
        if find_source(source) is not None:  # a bundle's graphs are read with the extra `export`
            from altogether_rt.importing.bundle import checkpoint_folder

            source = stack.enter_context(checkpoint_folder(source, output.note))
        yield source
