"""The training loop: one task at a time, resumable to the bit.

What a step sees depends on its number alone (never on how the process came to it), so the whole
state is: module, optimizer, step, and torch's generator. Data parallelism would give a task its
rank and world size and average gradients before the optimizer's step; nothing else here changes.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from altogether_rt.artifacts.files import new_file
from altogether_rt.errors import AltogetherError
from altogether_rt.train.log import TrainLog
from altogether_rt.train.optim import build_optimizer, learning_rate
from altogether_rt.train.recipe import Optimization

__all__ = ["Task", "run_task"]


class Task(Protocol):
    """Something to train."""

    name: str
    optimization: Optimization

    @property
    def module(self) -> nn.Module:
        """Holds every parameter that is trained."""

    def loss(self, step: int, micro_batch: int) -> Tensor:
        """Mean loss of one micro-batch; a function of its arguments and the module."""

    def sample(self, step: int) -> str:
        """A line that shows what the module does now."""


def run_task(
    task: Task,
    state_path: Path,
    log: TrainLog,
    *,
    save_every_steps: int,
    log_every_steps: int,
    sample_every_steps: int,
) -> None:
    """Trains `task` to its last step, going on from `state_path` if it exists."""
    recipe = task.optimization
    module = task.module.train()
    optimizer = build_optimizer(module, recipe)
    first_step = _load_state(state_path, task, optimizer)
    if first_step:
        log.note(f"{task.name}: going on from step {first_step} of {recipe.num_steps}")
    meter = _Meter(recipe.batch_size)
    for step in range(first_step, recipe.num_steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, recipe)
        loss = _accumulate(task, step)
        gradient_norm = nn.utils.clip_grad_norm_(module.parameters(), recipe.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        meter.add(loss)
        done = step + 1
        last = done == recipe.num_steps
        if done % log_every_steps == 0 or last:
            log.progress(
                task.name,
                done,
                recipe.num_steps,
                {
                    "lr": optimizer.param_groups[0]["lr"],
                    "gradient_norm": float(gradient_norm),
                    **meter.read(recipe.num_steps - done),
                },
            )
        if done % sample_every_steps == 0 or last:
            with _evaluating(module):
                log.sample(task.name, done, task.sample(done))
        if done % save_every_steps == 0 or last:
            _save_state(state_path, task, optimizer, done)


def _accumulate(task: Task, step: int) -> float:
    """Gradients of one step; returns its mean loss. Raises AltogetherError if it is not finite."""
    recipe = task.optimization
    total = 0.0
    for micro_batch in range(recipe.accumulation):
        with torch.autocast("cpu", torch.bfloat16, enabled=recipe.precision == "bf16"):
            loss = task.loss(step, micro_batch)
        (loss / recipe.accumulation).backward()  # type: ignore[no-untyped-call]
        total += loss.item() / recipe.accumulation
    if not (total < float("inf")):
        raise AltogetherError(
            f"the loss of {task.name} became {total} at step {step}: lower peak_lr and resume "
            "from the last saved state."
        )
    return total


@contextlib.contextmanager
def _evaluating(module: nn.Module) -> Iterator[None]:
    """Evaluation mode, and torch's generator left as it was."""
    generator = torch.get_rng_state()
    module.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        module.train()
        torch.set_rng_state(generator)


class _Meter:
    """Mean loss and speed since the last reading."""

    def __init__(self, batch_size: int) -> None:
        self._batch_size = batch_size
        self._losses: list[float] = []
        self._since = time.monotonic()

    def add(self, loss: float) -> None:
        self._losses.append(loss)

    def read(self, steps_left: int) -> dict[str, float]:
        now = time.monotonic()
        seconds_a_step = (now - self._since) / len(self._losses)
        values = {
            "loss": sum(self._losses) / len(self._losses),
            "samples_per_s": self._batch_size / seconds_a_step,
            "eta_s": seconds_a_step * steps_left,
        }
        self._losses, self._since = [], now
        return values


def _save_state(path: Path, task: Task, optimizer: torch.optim.Optimizer, step: int) -> None:
    """Write the state whole: a run that is killed leaves the former state or the new one."""
    state = {
        "task": task.name,
        "step": step,
        "module": task.module.state_dict(),
        "optimizer": optimizer.state_dict(),
        "generator": torch.get_rng_state(),
    }
    with new_file(path) as file:
        torch.save(state, file)


def _load_state(path: Path, task: Task, optimizer: torch.optim.Optimizer) -> int:
    """Restores a saved state; the number of steps already done, 0 if there is none."""
    if not path.exists():
        return 0
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        task.module.load_state_dict(state["module"])
        optimizer.load_state_dict(state["optimizer"])
        torch.set_rng_state(state["generator"])
        return int(state["step"])
    except (RuntimeError, KeyError, ValueError, EOFError, UnpicklingError) as error:
        raise AltogetherError(
            f"{path} is no state of this run: remove it, or train into another folder."
        ) from error
