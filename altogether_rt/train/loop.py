"""The training loop: one objective at a time; a resumed run ends with the same bits.

The data of a step depend on the step's number alone, not on when the process started, so the whole
state is the module, the optimizer, the step, torch's random generators, and the losses that the
next line of the log will be the mean of. Ctrl-C saves it after the step that is being computed. (On
a GPU, sums have no fixed order, and the last bits may differ as between any two runs there.) Data
parallelism would give an objective its rank and world size and average the gradients before the
optimizer's step; nothing else here would change.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from altogether_rt.artifacts.files import new_file
from altogether_rt.errors import AltogetherError
from altogether_rt.train.compute.device import device_of, generator_state, set_generator_state
from altogether_rt.train.compute.interrupts import interrupts_noticed
from altogether_rt.train.history import StageHistory
from altogether_rt.train.log import TrainLog
from altogether_rt.train.optim import build_optimizer, learning_rate
from altogether_rt.train.recipe import Optimization

__all__ = ["Evaluate", "Objective", "measure_pass", "minimize", "read_state"]

#: Figures on held-out examples, by name; the argument says whether these are the last ones.
Evaluate = Callable[[bool], Mapping[str, float]]

_UNREADABLE = (RuntimeError, KeyError, ValueError, TypeError, EOFError, UnpicklingError)


class Objective(Protocol):
    """What a training stage minimizes."""

    name: str  # of the stage; logs and saved states carry it
    optimization: Optimization

    @property
    def module(self) -> nn.Module:
        """Contains every parameter that is trained."""

    def loss(self, step: int, micro_batch: int) -> Tensor:
        """Mean loss of one micro-batch; it depends on the arguments and the module alone."""

    def sample(self, step: int) -> str:
        """A line of text that shows what the module does at this step."""


def minimize(
    objective: Objective,
    state_path: Path,
    log: TrainLog,
    *,
    save_every_steps: int,
    log_every_steps: int,
    sample_every_steps: int,
    evaluate: Evaluate | None = None,
) -> StageHistory:
    """Train for all steps of `objective`, from the state saved in `state_path` if there is one.

    evaluate: called in evaluation mode whenever a sample is logged. Raises AltogetherError if the
    loss stops being finite or the saved state is of another run, and KeyboardInterrupt after a
    step in which Ctrl-C came, once it is saved.
    """
    optimizer = build_optimizer(objective.module.train(), objective.optimization)
    history, losses = _load_state(state_path, objective, optimizer)
    num_steps, first_step = objective.optimization.num_steps, history.num_steps
    log.rewind(objective.name, first_step)
    if first_step:
        log.note(f"{objective.name}: resuming at step {first_step} of {num_steps}")
    meter = _Meter(objective.optimization.batch_size, losses)

    def tell() -> None:
        log.note(f"{objective.name}: finishing and saving a step; Ctrl-C again stops at once")

    with interrupts_noticed(tell) as interrupted:
        for step in range(first_step, num_steps):
            start = time.monotonic()
            loss, rates = _step(objective, optimizer, step)
            meter.add(loss)
            done = history.num_steps = step + 1
            if step == first_step:
                log.first_step(objective.name, time.monotonic() - start, num_steps - done)
            last = done == num_steps
            if done % log_every_steps == 0 or last:
                values = {**rates, **meter.read(num_steps - done)}
                log.progress(objective.name, done, num_steps, values)
                history.add_loss(done, values["loss"])
            if done % sample_every_steps == 0 or last:
                with _evaluating(objective.module):
                    log.sample(objective.name, done, objective.sample(done))
                    if evaluate is not None and (figures := evaluate(last)):
                        log.held_out(objective.name, done, figures)
                        history.add_held_out(done, figures)
            interruption = interrupted()
            if done % save_every_steps == 0 or last or interruption:
                _save_state(state_path, objective, optimizer, history, meter.losses)
            if interruption:
                raise interruption(
                    f"Interrupted after step {done} of {num_steps} of {objective.name}, which is "
                    "saved: the same command with --resume continues."
                )
    return history


def measure_pass(objective: Objective) -> None:
    """Compute the gradients of a micro-batch and forget them: what takes most of a step's time."""
    module = objective.module.train()
    device = device_of(module)
    generators = generator_state(device)
    buffers = [(buffer, buffer.clone()) for buffer in module.buffers()]  # running means of norms
    _loss(objective, 0, 0).backward()  # type: ignore[no-untyped-call]
    module.zero_grad(set_to_none=True)
    with torch.no_grad():
        for buffer, before in buffers:
            buffer.copy_(before)
    set_generator_state(generators, device)


def _step(
    objective: Objective, optimizer: torch.optim.Optimizer, step: int
) -> tuple[float, dict[str, float]]:
    """Change the weights; return the mean loss, and figures for the log."""
    recipe, module = objective.optimization, objective.module
    lr = learning_rate(step, recipe)
    for group in optimizer.param_groups:
        group["lr"] = lr
    loss = _accumulate(objective, step)
    gradient_norm = nn.utils.clip_grad_norm_(module.parameters(), recipe.max_grad_norm)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return loss, {"lr": lr, "gradient_norm": float(gradient_norm)}


def _loss(objective: Objective, step: int, micro_batch: int) -> Tensor:
    enabled = objective.optimization.precision == "bf16"
    with torch.autocast(device_of(objective.module).type, torch.bfloat16, enabled=enabled):
        return objective.loss(step, micro_batch)


def _accumulate(objective: Objective, step: int) -> float:
    """Compute the gradients of one step; return its mean loss.

    Raises AltogetherError if the loss is not finite.
    """
    recipe = objective.optimization
    total = 0.0
    for micro_batch in range(recipe.accumulation):
        loss = _loss(objective, step, micro_batch)
        (loss / recipe.accumulation).backward()  # type: ignore[no-untyped-call]
        total += loss.item() / recipe.accumulation
    if not (total < float("inf")):
        raise AltogetherError(
            f"the loss of the stage {objective.name} became {total} at step {step}: lower peak_lr "
            "in the recipe and train with another --out; --init takes the folder of this run too."
        )
    return total


@contextlib.contextmanager
def _evaluating(module: nn.Module) -> Iterator[None]:
    """Set evaluation mode; restore training mode and torch's random generators afterwards."""
    device = device_of(module)
    generators = generator_state(device)
    module.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        module.train()
        set_generator_state(generators, device)


class _Meter:
    """Mean loss and speed since the last `read`."""

    def __init__(self, batch_size: int, losses: list[float]) -> None:
        """losses: of steps that a former process did since its last `read`."""
        self._batch_size = batch_size
        self.losses, self._num_former = losses, len(losses)
        self._since = time.monotonic()

    def add(self, loss: float) -> None:
        self.losses.append(loss)

    def read(self, steps_left: int) -> dict[str, float]:
        now = time.monotonic()
        seconds_per_step = (now - self._since) / (len(self.losses) - self._num_former)
        values = {
            "loss": sum(self.losses) / len(self.losses),
            "samples_per_s": self._batch_size / seconds_per_step,
            "eta_s": seconds_per_step * steps_left,
        }
        self.losses, self._num_former, self._since = [], 0, now
        return values


def _save_state(
    path: Path,
    objective: Objective,
    optimizer: torch.optim.Optimizer,
    history: StageHistory,
    losses: list[float],
) -> None:
    """Write the state whole: a run that is killed leaves the former state or the new one.

    losses: of the steps since the last line of the log.
    """
    state = {
        "task": objective.name,  # key of the file format
        "step": history.num_steps,
        "module": objective.module.state_dict(),
        "optimizer": optimizer.state_dict(),
        **generator_state(device_of(objective.module)),
        "history": history.to_dict(),
        "losses": losses,
    }
    with new_file(path) as file:
        torch.save(state, file)


def _load_state(
    path: Path, objective: Objective, optimizer: torch.optim.Optimizer
) -> tuple[StageHistory, list[float]]:
    """Restore a saved state; return how far it is, step 0 if there is no state, and its losses."""
    if not path.exists():
        return StageHistory(), []
    state = read_state(path)
    try:
        objective.module.load_state_dict(state["module"])
        optimizer.load_state_dict(state["optimizer"])
        set_generator_state(state, device_of(objective.module))
        history = StageHistory.from_dict({"steps": state["step"], **state.get("history", {})})
        return history, [float(loss) for loss in state.get("losses", [])]
    except _UNREADABLE as error:
        raise _not_a_state(path) from error


def read_state(path: Path) -> dict[str, Any]:
    """What a run saved last, from one whole file. Raises AltogetherError if it is not that."""
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        if not {"task", "step", "module"} <= state.keys():
            raise KeyError("module")
    except (*_UNREADABLE, AttributeError) as error:
        raise _not_a_state(path) from error
    return state


def _not_a_state(path: Path) -> AltogetherError:
    return AltogetherError(f"{path} is not a state of this run: remove it, or give another --out.")
