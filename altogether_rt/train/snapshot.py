"""A checkpoint from a run that is not finished: what it saved last, while it goes on or after it.

Each state is one file, replaced whole, so it can be read at any moment. Configuration, tokenizer
and encoder lie beside it and do not change any more once there is a state of the captioner.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from altogether_rt.artifacts.checkpoint import save_checkpoint
from altogether_rt.artifacts.files import NewFile
from altogether_rt.config import CaptionerConfig
from altogether_rt.errors import AltogetherError, ConfigError
from altogether_rt.model.encoder import Encoder
from altogether_rt.model.lora import merge_lora
from altogether_rt.plain_data import from_dict
from altogether_rt.train.folder import (
    ENCODER_NAME,
    RECORD_NAME,
    TOKENIZER_NAME,
    run_folder,
    state_path,
)
from altogether_rt.train.loop import read_state
from altogether_rt.train.recipe import LoraRecipe
from altogether_rt.train.record import RunRecord

__all__ = ["checkpoint_of", "save_encoder", "write_snapshot"]

#: Stages whose state has a captioner, the last one first.
_CAPTIONER_STAGES: Final = ("finetune", "pretrain")


@contextmanager
def checkpoint_of(source: Path, report: Callable[[str], None]) -> Iterator[Path]:
    """`source`, or a temporary checkpoint if it is the folder of a run.

    The checkpoint that a run has not written yet stands for its folder. Raises AltogetherError if
    the run has saved no captioner yet.
    """
    folder = source
    if not source.exists() and (run_folder(source) / RECORD_NAME).is_file():
        folder = run_folder(source)
        report(f"{source} is not finished: taking the last state in {folder}")
    if not (folder / RECORD_NAME).is_file():
        yield source
        return
    with tempfile.TemporaryDirectory(prefix="altogether-rt-") as temporary:
        out = Path(temporary) / folder.resolve().name
        report(write_snapshot(folder, out))
        yield out


def write_snapshot(folder: Path, out: Path) -> str:
    """Write the last state of the run in `folder` as the checkpoint `out`; returns what it is.

    Raises AltogetherError if there is none of a captioner, or a file is not of such a run.
    """
    record = RunRecord.read(folder)
    if record is None:
        raise AltogetherError(f"{folder} is not the folder of a training run (no {RECORD_NAME}).")
    found = [stage for stage in _CAPTIONER_STAGES if state_path(folder, stage).is_file()]
    if not found:
        every = record.recipe.get("save_every_steps")
        raise AltogetherError(
            f"the run in {folder} has saved no captioner yet: it does after every {every} steps of "
            "pretraining or fine-tuning."
        )
    stage = found[0]
    state = read_state(state_path(folder, stage))
    history = state.get("history", {})
    about: dict[str, Any] = {
        **record.to_dict(),
        "stages": {**record.stages, stage: history},
        "snapshot": {"stage": stage, "step": state["step"]},
    }
    tensors = {k: v for k, v in state["module"].items() if not k.startswith("encoder.")}
    try:
        config = CaptionerConfig.from_dict(record.config)
        if lora := (record.recipe.get("finetune") or {}).get("lora"):
            tensors = merge_lora(tensors, from_dict(LoraRecipe, lora, "lora").scale)
        tensors |= _read_encoder(folder / ENCODER_NAME)
        save_checkpoint(out, config, tensors, folder / TOKENIZER_NAME, about)
    except (ConfigError, FileNotFoundError) as error:
        raise AltogetherError(f"the run in {folder} is not whole: {error}.") from error
    return f"state of the stage {stage} after {state['step']} steps"


def save_encoder(encoder: Encoder, folder: Path) -> None:
    """Keep the encoder of the run in `folder` for its snapshots."""
    with NewFile(folder / ENCODER_NAME) as new:
        save_file({k: v.contiguous() for k, v in encoder.visual.state_dict().items()}, new.path)
        new.commit()


def _read_encoder(path: Path) -> dict[str, Tensor]:
    try:
        return {f"encoder.{name}": tensor for name, tensor in load_file(path).items()}
    except SafetensorError as error:
        raise AltogetherError(f"{path} cannot be read: {error}.") from error
