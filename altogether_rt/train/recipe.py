"""What a training run does, as frozen data read from TOML. Unknown keys fail."""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Literal

from altogether_rt import toml
from altogether_rt.errors import ConfigError
from altogether_rt.plain_data import from_dict

__all__ = ["DataRecipe", "EncoderStage", "Optimization", "Stage", "TrainRecipe", "load_recipe"]


@dataclass(frozen=True)
class DataRecipe:
    """Where examples come from."""

    source: Literal["scenes", "folder"] = "scenes"
    num_scenes: int = 1000  # source = scenes
    scenes_seed: int = 1  # source = scenes; scoring uses the `test` split, which no seed reaches
    path: str = ""  # source = folder: a jsonl file of file_name, alts and rounds; images beside it


@dataclass(frozen=True)
class Optimization:
    """AdamW with warm-up and a cosine that ends at a floor. Defaults: the paper's."""

    num_steps: int
    batch_size: int = 512
    peak_lr: float = 2e-4
    lr_floor: float = 0.1  # last learning rate, as a fraction of the peak
    warmup_steps: int = 200
    beta1: float = 0.9
    beta2: float = 0.98
    eps: float = 1e-6
    weight_decay: float = 0.2  # none on biases, norms and 1-d parameters
    accumulation: int = 1  # micro-batches a step
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
    """Trains the CLIP encoder itself from scratch (scenes only).

    Two losses: CLIP's contrastive one, and a classification of the facts of the scene from the
    same embedding, which makes up for batches thousands of times smaller than CLIP's.
    """

    optimization: Optimization
    fact_weight: float = 1.0


@dataclass(frozen=True)
class Stage:
    """One stage of captioner training.

    `pretrain`: the target is an image's longest alt-text, the condition another of them.
    `finetune`: the target is the last annotation round, the condition the alt-texts.
    """

    optimization: Optimization
    alt_dropout: float = 0.5  # probability of an empty condition


@dataclass(frozen=True)
class TrainRecipe:
    """A whole run: which captioner, which data, which stages in which order."""

    config: str  # a named configuration, or the path of a .toml file
    data: DataRecipe = field(default_factory=DataRecipe)
    seed: int = 0
    encoder: EncoderStage | None = None
    pretrain: Stage | None = None
    finetune: Stage | None = None
    vocab_size: int = 0  # train a tokenizer of this size on the data; 0: the checkpoint brings one
    save_every_steps: int = 200
    log_every_steps: int = 20
    sample_every_steps: int = 500


def load_recipe(name_or_path: str) -> TrainRecipe:
    """A recipe shipped with the package (`starter`), or a TOML file.

    Raises ConfigError if there is none of that name or the file has a mistake.
    """
    folder = resources.files("altogether_rt.train").joinpath("recipes")
    path = Path(name_or_path)
    if path.suffix == ".toml":
        if not path.is_file():
            raise ConfigError(f"there is no recipe file {path}.")
        text = path.read_text("utf-8")
    else:
        known = sorted(f.name.removesuffix(".toml") for f in folder.iterdir())
        if name_or_path not in known:
            raise ConfigError(
                f"no training recipe is called {name_or_path!r}: there are {', '.join(known)}, "
                "or give the path of a .toml file."
            )
        text = folder.joinpath(f"{name_or_path}.toml").read_text("utf-8")
    try:
        data = toml.loads(text)
    except toml.TOMLDecodeError as error:
        raise ConfigError(f"{name_or_path} is not valid TOML: {error}.") from error
    return from_dict(TrainRecipe, data)
