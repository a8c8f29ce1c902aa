"""Training recipes: what a training run does, as frozen data read from TOML."""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib import resources
from importlib.resources.abc import Traversable
from typing import Literal

from altogether_rt import toml
from altogether_rt.errors import ConfigError
from altogether_rt.plain_data import from_dict

__all__ = [
    "DataRecipe",
    "EncoderStage",
    "Optimization",
    "TrainRecipe",
    "TrainingStage",
    "load_recipe",
    "recipe_names",
]


@dataclass(frozen=True)
class DataRecipe:
    """Where training examples come from."""

    source: Literal["scenes", "folder"] = "scenes"
    num_scenes: int = 1000  # source = scenes
    scenes_seed: int = 1  # source = scenes; scoring uses the `test` split, which no seed reaches
    path: str = (
        ""  # source = folder: a JSON Lines file of file_name, alts, rounds; images beside it
    )


@dataclass(frozen=True)
class Optimization:
    """AdamW with warm-up and a cosine that ends at a floor. The defaults are the paper's."""

    num_steps: int
    batch_size: int = 512
    peak_lr: float = 2e-4
    lr_floor: float = 0.1  # final learning rate, as a fraction of the peak
    warmup_steps: int = 200
    beta1: float = 0.9
    beta2: float = 0.98
    eps: float = 1e-6
    weight_decay: float = 0.2  # none on biases, norms and 1-d parameters
    accumulation: int = 1  # micro-batches per step
    max_grad_norm: float = 1.0
    precision: Literal["fp32", "bf16"] = "fp32"

    def __post_init__(self) -> None:
        for name in ("num_steps", "batch_size", "accumulation"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1.")
        if self.batch_size % self.accumulation:
            raise ConfigError("batch_size must be a multiple of accumulation.")


@dataclass(frozen=True)
class EncoderStage:
    """The stage that trains the CLIP encoder itself from scratch (scenes only).

    It minimizes CLIP's contrastive loss plus a classification of the scene's facts from the same
    embedding, which makes up for batches thousands of times smaller than CLIP's.
    """

    optimization: Optimization
    fact_weight: float = 1.0


@dataclass(frozen=True)
class TrainingStage:
    """One stage of captioner training.

    `pretrain`: the target is the longest alt-text of an image, the condition another one.
    `finetune`: the target is the last annotation round, the condition all alt-texts.
    """

    optimization: Optimization
    alt_dropout: float = 0.5  # probability of an empty condition


@dataclass(frozen=True)
class TrainRecipe:
    """A whole training run: which captioner, on which data, in which stages."""

    config: str  # a named configuration, or the path of a .toml file
    data: DataRecipe = field(default_factory=DataRecipe)
    seed: int = 0
    encoder: EncoderStage | None = None
    pretrain: TrainingStage | None = None
    finetune: TrainingStage | None = None
    vocab_size: int = 0  # of a tokenizer trained on the data; 0: use the checkpoint's tokenizer
    save_every_steps: int = 200
    log_every_steps: int = 20
    sample_every_steps: int = 500  # also how often held-out figures are computed
    holdout: float = 0.0  # share of the images that is measured on and never trained on

    def __post_init__(self) -> None:
        if not 0 <= self.holdout < 1:
            raise ConfigError("holdout must be at least 0 and less than 1.")


def recipe_names() -> list[str]:
    """Names of the training recipes shipped with the package."""
    return toml.file_names(_folder())


def load_recipe(name_or_path: str) -> TrainRecipe:
    """A recipe shipped with the package (`starter`), or one of your own: the path of a .toml file.

    Raises ConfigError if there is none, or it has a mistake.
    """
    kind = "training recipe"
    file = toml.find_file(_folder(), name_or_path, kind, allow_path=True)
    return toml.load_file(file, kind, lambda data: from_dict(TrainRecipe, data))


def _folder() -> Traversable:
    return resources.files("altogether_rt.train").joinpath("recipes")
