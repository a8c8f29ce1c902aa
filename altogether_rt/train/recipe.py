"""Training recipes: what a training run does, as frozen data read from TOML."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from importlib import resources
from importlib.resources.abc import Traversable
from typing import Any, Literal

from altogether_rt import toml
from altogether_rt.errors import ConfigError
from altogether_rt.plain_data import from_dict

__all__ = [
    "DataRecipe",
    "EncoderStage",
    "LoraRecipe",
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
    images: str = ""  # source = folder: where the images are, if not beside the file
    round_number: int | None = None  # source = folder: the round to learn; None: the last

    def __post_init__(self) -> None:
        if self.num_scenes < 1:
            raise ConfigError("num_scenes must be at least 1.")


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
    precision: Literal["fp32", "bf16"] = "fp32"  # of the arithmetic; weights stay in float32
    #: Compute each decoder layer twice instead of keeping what its gradients need.
    gradient_checkpointing: bool = False

    def __post_init__(self) -> None:
        for name in ("num_steps", "batch_size", "accumulation"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1.")
        if self.batch_size % self.accumulation:
            raise ConfigError("batch_size must be a multiple of accumulation.")
        # Each holds for no NaN. max_grad_norm may be infinite, which clips nothing.
        bounds = {
            "peak_lr": (0 < self.peak_lr < math.inf, "greater than 0"),
            "lr_floor": (0 <= self.lr_floor <= 1, "from 0 to 1"),
            "warmup_steps": (self.warmup_steps >= 0, "at least 0"),
            "beta1": (0 <= self.beta1 < 1, "at least 0 and less than 1"),
            "beta2": (0 <= self.beta2 < 1, "at least 0 and less than 1"),
            "eps": (0 <= self.eps < math.inf, "at least 0"),
            "weight_decay": (0 <= self.weight_decay < math.inf, "at least 0"),
            "max_grad_norm": (self.max_grad_norm > 0, "greater than 0"),
        }
        for name, (holds, bound) in bounds.items():
            if not holds:
                raise ConfigError(f"{name} is {getattr(self, name)}: it must be {bound}.")


@dataclass(frozen=True)
class EncoderStage:
    """The stage that trains the CLIP encoder itself from scratch (scenes only).

    It minimizes CLIP's contrastive loss plus a classification of the scene's facts from the same
    embedding, which makes up for batches thousands of times smaller than CLIP's.
    """

    optimization: Optimization
    fact_weight: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.fact_weight < math.inf:
            raise ConfigError(f"fact_weight is {self.fact_weight}: it must be at least 0.")


@dataclass(frozen=True)
class LoraRecipe:
    """Low-rank adapters instead of the decoder's own weights; merged when the run ends."""

    rank: int = 16
    alpha: int = 32  # what they add is scaled by alpha / rank

    def __post_init__(self) -> None:
        if self.rank < 1 or self.alpha < 1:
            raise ConfigError("lora.rank and lora.alpha must be positive.")

    @property
    def scale(self) -> float:
        return self.alpha / self.rank


@dataclass(frozen=True)
class TrainingStage:
    """One stage of captioner training.

    `pretrain`: the target is the longest alt-text of an image, the condition another one.
    `finetune`: the target is the last annotation round, the condition all alt-texts.
    """

    optimization: Optimization
    alt_dropout: float = 0.5  # probability of an empty condition
    lora: LoraRecipe | None = None  # None: mapper and decoder are trained whole

    def __post_init__(self) -> None:
        if not 0 <= self.alt_dropout <= 1:
            raise ConfigError(f"alt_dropout is {self.alt_dropout}: it must be from 0 to 1.")


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
        if not 0 <= self.seed < 1 << 63:
            raise ConfigError("seed must be at least 0 and less than 2 ** 63.")
        for name in ("save_every_steps", "log_every_steps", "sample_every_steps"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1; the last step counts in any case.")
        if self.pretrain is not None and self.pretrain.lora is not None:
            raise ConfigError("lora is for the stage [finetune]: pretraining trains whole weights.")

    @property
    def lora(self) -> LoraRecipe | None:
        """The adapters that this run trains, if any."""
        return None if self.finetune is None else self.finetune.lora

    def with_finetune(
        self,
        *,
        num_steps: int | None = None,
        batch_size: int | None = None,
        peak_lr: float | None = None,
        precision: Literal["fp32", "bf16"] | None = None,
        gradient_checkpointing: bool | None = None,
        alt_dropout: float | None = None,
        lora_rank: int | None = None,
    ) -> TrainRecipe:
        """The recipe with other values of its stage [finetune]; None: the recipe's own.

        lora_rank: 0 for none. Raises ConfigError if the recipe has no such stage.
        """
        optimization: dict[str, Any] = {
            "num_steps": num_steps,
            "batch_size": batch_size,
            "peak_lr": peak_lr,
            "precision": precision,
            "gradient_checkpointing": gradient_checkpointing,
        }
        changed = {key: value for key, value in optimization.items() if value is not None}
        if not changed and alt_dropout is None and lora_rank is None:
            return self
        stage = self.finetune
        if stage is None:
            raise ConfigError("the recipe has no stage [finetune], which these options are for.")
        stage = replace(stage, optimization=replace(stage.optimization, **changed))
        if alt_dropout is not None:
            stage = replace(stage, alt_dropout=alt_dropout)
        if lora_rank is not None:
            lora = LoraRecipe(lora_rank, 2 * lora_rank) if lora_rank else None
            stage = replace(stage, lora=lora)
        return replace(self, finetune=stage)


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
