"""The trained artifact, a folder: config.json, model.safetensors, tokenizer.json, checkpoint.json.

The weights are those of mapper and decoder. The encoder is either embedded (`encoder.*`, the names
of open_clip's vision tower) or referred to: checkpoint.json then names the source of its weights
(`encoder_weights`) and their hash (`encoder_sha256`, of the file if they are one file, otherwise of
the tensors).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from tokenizers import Tokenizer
from torch import Tensor, nn

from altogether_rt import __version__
from altogether_rt.artifacts.bundle import hash_file
from altogether_rt.artifacts.files import NewFolder
from altogether_rt.artifacts.json_file import read_json_file
from altogether_rt.artifacts.stamps import FileStamps
from altogether_rt.config import CaptionerConfig
from altogether_rt.errors import AltogetherError, ConfigError, reason
from altogether_rt.model.captioner import CaptionerModel
from altogether_rt.model.encoder import Encoder, build_encoder, encoder_sha256, is_published
from altogether_rt.model.tensor_file import write_tensors
from altogether_rt.model.weight_files import check_weights_file

__all__ = ["CONFIG", "Checkpoint", "save_checkpoint"]

CONFIG, WEIGHTS, TOKENIZER, ABOUT = (
    "config.json",
    "model.safetensors",
    "tokenizer.json",
    "checkpoint.json",
)
_ENCODER = "encoder."
_MAX_JSON_BYTES = 16 << 20


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint folder, its weights not yet read."""

    folder: Path
    config: CaptionerConfig
    about: Mapping[str, Any] = field(default_factory=dict)
    allow_download: bool = False

    @classmethod
    def load(cls, folder: Path, *, allow_download: bool = False) -> Checkpoint:
        """Read the configuration.

        allow_download: whether the checkpoint may name an encoder that is fetched, or files outside
        of its folder. Raises AltogetherError if `folder` is not a whole checkpoint, or if a file of
        it is a link that leads out of it and that is not allowed.
        """
        if not folder.exists():
            raise AltogetherError(
                f"{folder} is not a checkpoint: there is no such folder; give one made by "
                "altogether-rt train or import."
            )
        missing = [name for name in (CONFIG, WEIGHTS, TOKENIZER) if not (folder / name).is_file()]
        if missing:
            raise AltogetherError(f"{folder} is not a checkpoint (no {missing[0]}).")
        if not allow_download:
            _check_inside(folder)
        try:
            config = CaptionerConfig.from_dict(_read_json(folder, CONFIG))
        except ConfigError as error:
            raise AltogetherError(f"the checkpoint {folder} has a bad {CONFIG}: {error}") from error
        about = _read_json(folder, ABOUT) if (folder / ABOUT).is_file() else {}
        return cls(folder, config, about, allow_download)

    @property
    def weights_path(self) -> Path:
        return self.folder / WEIGHTS

    @property
    def tokenizer_path(self) -> Path:
        return self.folder / TOKENIZER

    def sha256(self) -> str:
        """Hash of the weights file."""
        return hash_file(self.weights_path)

    @property
    def has_encoder(self) -> bool:
        """Whether the encoder's weights are embedded."""
        return any(name.startswith(_ENCODER) for name in self._names())

    def captioner(self, *, with_encoder: bool = True) -> CaptionerModel:
        """The torch captioner with these weights, in float32 and in evaluation mode.

        Raises AltogetherError if the weights do not fit the configuration.
        """
        # Built without allocating memory: the parameters become the tensors of the file.
        with torch.device("meta"):
            captioner = CaptionerModel(self.config)
        self._fit(captioner, self._read(lambda name: not name.startswith(_ENCODER)))
        if with_encoder:
            captioner.encoder = self.encoder()
        return captioner.eval()

    def encoder(self) -> Encoder:
        """The frozen encoder, embedded or loaded from the source that checkpoint.json names.

        Raises AltogetherError if it is not available, or is not the encoder of this checkpoint.
        """
        if not self.has_encoder:
            return self._referred_encoder()
        state = self._read(lambda name: name.startswith(_ENCODER))
        state = {name.removeprefix(_ENCODER): tensor for name, tensor in state.items()}
        encoder = build_encoder(self.config.encoder)
        self._fit(encoder.visual, state)
        return encoder.requires_grad_(False)

    def _referred_encoder(self) -> Encoder:
        weights = self.about.get("encoder_weights")
        if not isinstance(weights, str | None):
            raise AltogetherError(f"{self.folder / ABOUT} has an encoder_weights that is no name.")
        if weights is None and not is_published(self.config.encoder.name):
            raise AltogetherError(f"{self.folder} holds no encoder and does not name one.")
        wanted = self.about.get("encoder_sha256")
        file = None if weights is None else self._encoder_file(weights)
        if file is not None:
            stamps = FileStamps.take([file])
            if wanted is not None and hash_file(file) != wanted:
                raise self._other_encoder(weights)
        encoder = build_encoder(
            self.config.encoder,
            weights if file is None else str(file),
            allow_download=self.allow_download,
        )
        if file is not None:
            stamps.check()
        elif wanted is not None and encoder_sha256(encoder) != wanted:
            raise self._other_encoder(weights)
        return encoder

    def _encoder_file(self, weights: str) -> Path | None:
        """The file that `weights` names, if any: in this folder, or elsewhere if allowed."""
        inside = self.folder / weights
        if inside.resolve().is_relative_to(self.folder.resolve()) and inside.is_file():
            return inside
        if not Path(weights).is_file():
            return None
        if not self.allow_download:
            raise AltogetherError(
                f"{self.folder} takes its encoder from {weights}, outside of its folder: pass "
                "--allow-download if you trust where the checkpoint comes from, or copy the file "
                "into the folder and write its name there."
            )
        return Path(weights)

    def _other_encoder(self, weights: str | None) -> AltogetherError:
        return AltogetherError(
            f"{weights or self.config.encoder.name} is not the encoder that {self.folder} was "
            "trained with: its hash differs."
        )

    def _names(self) -> list[str]:
        check_weights_file(self.weights_path)
        try:
            with safe_open(self.weights_path, framework="pt") as file:
                return list(file.keys())
        except (SafetensorError, OSError) as error:
            raise AltogetherError(
                f"{self.weights_path} cannot be read: {reason(error)}."
            ) from error

    def _read(self, wanted: Callable[[str], bool]) -> dict[str, Tensor]:
        names = self._names()
        with safe_open(self.weights_path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in names if wanted(name)}
        return {
            name: tensor.float() if tensor.is_floating_point() else tensor
            for name, tensor in tensors.items()
        }

    def _fit(self, module: nn.Module, state: Mapping[str, Tensor]) -> None:
        """Make the tensors of `state` those of `module`, if names and shapes agree."""
        expected = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
        found = {name: tuple(tensor.shape) for name, tensor in state.items()}
        for name in sorted(expected.keys() | found.keys()):
            if expected.get(name) != found.get(name):
                raise AltogetherError(
                    f"the weights of {self.folder} do not fit its {CONFIG}: {name} is "
                    f"{found.get(name, 'absent')} and should be {expected.get(name, 'absent')}."
                )
        module.load_state_dict(state, assign=True)


def save_checkpoint(
    folder: Path,
    config: CaptionerConfig,
    state: Mapping[str, Tensor],
    tokenizer: Path | Tokenizer,
    about: Mapping[str, Any],
) -> None:
    """Write a checkpoint, whole or not at all.

    state: `mapper.*`, `decoder.*` and, to embed the encoder, `encoder.*` of open_clip's vision
    tower; floating point is stored as float32. tokenizer: a tokenizer or its file. An existing
    checkpoint at `folder` is replaced. Raises AltogetherError if anything else is there.
    """
    _check_replaceable(folder)
    with NewFolder(folder) as writer:
        new = writer.path
        write_tensors(new / WEIGHTS, state)
        (new / CONFIG).write_text(_as_json(config.to_dict()), "utf-8")
        versions = {"altogether_rt": __version__, "torch": torch.__version__}
        versions = {**about.get("versions", {}), **versions}
        text = _as_json({**about, "versions": versions})
        # names of files may have bytes that are not UTF-8: JSON has the same escapes
        (new / ABOUT).write_text(text, "utf-8", "backslashreplace")
        (new / TOKENIZER).write_text(_tokenizer_json(tokenizer), "utf-8")
        writer.commit()


def _check_replaceable(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise AltogetherError(f"{folder} is a file: give another folder.")
    if folder.exists() and any(folder.iterdir()) and not (folder / CONFIG).is_file():
        raise AltogetherError(f"{folder} is not empty and not a checkpoint: give another folder.")


def _tokenizer_json(tokenizer: Path | Tokenizer) -> str:
    if isinstance(tokenizer, Path):
        return tokenizer.read_text("utf-8")
    text: str = tokenizer.to_str()
    return text


def _as_json(data: Mapping[str, Any]) -> str:
    return json.dumps(data, indent=2, ensure_ascii=False) + "\n"


def _check_inside(folder: Path) -> None:
    """Raises AltogetherError for a link that leads out of the folder."""
    for name in (CONFIG, WEIGHTS, TOKENIZER, ABOUT):
        if not (folder / name).resolve().is_relative_to(folder.resolve()):
            raise AltogetherError(
                f"{folder / name} is a link to a file outside of the checkpoint: pass "
                "--allow-download if you trust where it comes from, or copy that file here."
            )


def _read_json(folder: Path, name: str) -> dict[str, Any]:
    try:
        data = read_json_file(folder / name, _MAX_JSON_BYTES)
    except ValueError as error:
        raise AltogetherError(
            f"the checkpoint {folder} has a bad {name}: {reason(error)}."
        ) from error
    if not isinstance(data, dict):
        raise AltogetherError(f"the checkpoint {folder} has a bad {name}: it is not a JSON object.")
    return data
