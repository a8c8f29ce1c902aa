"""Export recipes: one TOML file per target, in the package or in a checkout's `export/recipes/`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, Literal

from altogether_rt import toml
from altogether_rt.artifacts.manifest import GROUPS, TargetSpec
from altogether_rt.errors import AltogetherError, ConfigError
from altogether_rt.export.lowering.groups import group_for
from altogether_rt.plain_data import from_dict

__all__ = [
    "DEFAULT_TARGET",
    "STAGES",
    "LoweringNames",
    "Recipe",
    "Threshold",
    "find_recipe",
    "load_recipe",
    "recipe_folder",
    "target_names",
]

DEFAULT_TARGET = "cpu-int8"
#: What parity is measured on: two graphs, and two uses of the decoder's graph.
STAGES = ("encoder", "mapper", "prefill", "step")
#: Lowerings of linear layers that can compute some products more precisely than the others.
KEEPING = ("int8-row", "int4-group")
#: Lowerings with scales of activations that are fixed at export.
STATIC = ("int8-static", "fp8-static")


@dataclass(frozen=True)
class LoweringNames:
    """The lowerings of a target, by name."""

    linear: Literal[
        "fp32",
        "int8-row",
        "int4-group",
        "fp16",
        "int8-static",
        "fp8-static",
        "int8-weight",
        "int4-weight",
    ]
    table: Literal["fp32", "int8-row", "fp16"]
    attention: Literal["group-query", "group-query-int8", "scatter"]
    activations: Literal["fp32", "fp16"] = "fp32"
    #: What LayerNorm takes and gives; its statistics are float32 either way.
    norms: Literal["fp32", "fp16"] = "fp32"
    #: Attention of an encoder: as torch writes it, or one operator that moves no data.
    encoder_attention: Literal["traced", "packed"] = "traced"
    #: Attention of a second graph, for steps of one token a row; "": there is none.
    decode: Literal["", "group-query"] = ""
    #: The same of a graph for new prompts.
    prompts: Literal["", "group-query"] = ""
    #: Whether static scales are for the encoder's products too; in float16 they are if not.
    encoder: bool = False
    #: How much of the activations' outliers moves into weights, 0 to 1 (`calibration.smooth`).
    smoothing: float = 0.0
    #: Products of the decoder that are computed more precisely than the others in any case.
    keep: tuple[str, ...] = ()
    #: Others are kept too, those first whose rounding costs most (`calibration.sensitivity`), up to
    #: this share of the decoder's weights, until the rest costs `keep_target` nats per token.
    keep_budget: float = 0.0
    keep_target: float = 0.0
    #: Consecutive input channels that share a scale of `int4-group`; 0: by the decoder's width.
    group: int = 0

    def __post_init__(self) -> None:
        half_products = self.linear not in ("fp32", *KEEPING)
        half = (half_products, self.table == "fp16", self.attention == "scatter")
        if set(half) != {self.activations == "fp16"}:
            raise ConfigError(
                "lowering mixes precisions: linear, table, attention and activations must all be "
                "for float16 or all for float32."
            )
        if self.norms == "fp16" and self.activations != "fp16":
            raise ConfigError("lowering.norms = fp16 needs lowering.activations to be fp16.")
        if self.encoder and self.linear not in STATIC:
            raise ConfigError(f"lowering.encoder needs linear to be one of {', '.join(STATIC)}.")
        for name, wanted in (("decode", self.decode), ("prompts", self.prompts)):
            if wanted and self.attention != "scatter":
                raise ConfigError(
                    f"lowering.{name} needs attention to be scatter: both use one cache."
                )
        if not 0 <= self.smoothing <= 1:
            raise ConfigError("lowering.smoothing must be between 0 and 1.")
        if not 0 <= self.keep_budget <= 1 or not 0 <= self.keep_target < math.inf:
            raise ConfigError(
                "lowering.keep_budget must be between 0 and 1, lowering.keep_target at least 0."
            )
        if (self.keep or self.keep_budget) and self.linear not in KEEPING:
            raise ConfigError(
                f"lowering.keep and lowering.keep_budget need linear to be one of "
                f"{', '.join(KEEPING)}."
            )
        if self.group not in (0, *GROUPS):
            raise ConfigError(f"lowering.group must be one of {', '.join(map(str, GROUPS))}.")
        if self.group and self.linear != "int4-group":
            raise ConfigError("lowering.group needs linear to be int4-group.")


@dataclass(frozen=True)
class Threshold:
    """How far a stage may be from the torch reference.

    Of logits, cosines are taken without the mean of each row, and divergence counts too.
    """

    mean: float  # minimum cosine, over all rows
    worst: float  # of any row
    kl: float = math.inf  # maximum Kullback-Leibler divergence, nats per token, over all rows
    worst_kl: float = math.inf  # of any row

    def __post_init__(self) -> None:
        if not (-1 <= self.worst <= self.mean <= 1):
            raise ConfigError("parity needs -1 <= worst <= mean <= 1.")
        if not 0 <= self.kl <= self.worst_kl:
            raise ConfigError("parity needs 0 <= kl <= worst_kl.")


@dataclass(frozen=True)
class _RecipeFile:
    description: str
    precision: str
    runtime: str
    device: str
    lowering: LoweringNames
    parity: Mapping[str, Any]


@dataclass(frozen=True)
class Recipe:
    """How a checkpoint becomes a bundle for one target."""

    target: TargetSpec
    lowering: LoweringNames
    parity: Mapping[str, Threshold]  # by stage

    def for_decoder(self, width: int) -> Recipe:
        """This recipe with what it leaves to the decoder's width: the groups of 4-bit weights."""
        if self.lowering.linear != "int4-group":
            return self
        group = self.lowering.group or group_for(width)
        return replace(
            self,
            target=replace(self.target, group=group),
            lowering=replace(self.lowering, group=group),
        )


def recipe_folder() -> Path:
    """The folder of the recipes: in an installed package, or at the top of a checkout."""
    package = Path(__file__).parent
    checkout = package.parent.parent / "export" / "recipes"
    for folder in (package / "recipes", checkout):
        if folder.is_dir():
            return folder
    raise AltogetherError("this installation has no export recipes: reinstall altogether-rt.")


def target_names() -> list[str]:
    """Names of all targets."""
    return toml.file_names(recipe_folder())


def find_recipe(target: str) -> Recipe:
    """The recipe of a target. Raises ConfigError, which lists the targets, if there is none."""
    return load_recipe(toml.find_file(recipe_folder(), target, "target", allow_path=False))


def load_recipe(file: Traversable) -> Recipe:
    """Read a recipe file, whose name is the target's. Raises ConfigError if it has a mistake."""
    name = file.name.removesuffix(".toml")
    return toml.load_file(file, "export recipe", lambda data: _parse(name, data))


def _parse(name: str, data: Mapping[str, Any]) -> Recipe:
    file = from_dict(_RecipeFile, data)
    if set(file.parity) != set(STAGES):
        raise ConfigError(f"parity needs exactly {', '.join(STAGES)}.")
    thresholds = {
        stage: from_dict(Threshold, file.parity[stage], f"parity.{stage}") for stage in STAGES
    }
    target = TargetSpec(name, file.runtime, file.device, file.precision, file.description)
    return Recipe(target, file.lowering, thresholds)
