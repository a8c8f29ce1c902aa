"""What the GPU comparison needs besides its contestants, each task in a process of its own.

    python -m gpu.tasks '{"task": …, "answer": "out.json", …}'

`ceilings`: rates of the device. `floors`: shortest possible times, from these rates and counted
work. `reference`: what torch answers in float32, for the contestants' parity. The answer is
rewritten whenever there are new figures, so that a task that is stopped leaves what it had.
"""

from __future__ import annotations

import json
import os
import pickle
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from harness.adapter import Unavailable, need, need_torch

from altogether_rt.errors import AltogetherError, MissingDependencyError
from gpu.ceilings import measure_rates
from gpu.workload import Workload

__all__ = ["NUM_SAMPLES", "TASKS", "main"]

#: Images of the comparison with the reference.
NUM_SAMPLES = 8

#: Takes new figures of the answer.
Emit = Callable[..., None]


def count_floors(request: dict[str, Any], emit: Emit) -> None:
    """request: config, batch_sizes, rates, number_bytes. Emits floor_s by batch size."""
    need("torch")
    from altogether_rt.config import load_config
    from altogether_rt.model.encoder import with_architecture
    from gpu.roofline import Rates, floor_s, whole_costs

    config, rates = load_config(request["config"]), Rates(**request["rates"])
    encoder = with_architecture(config.encoder)
    floors = {}
    for batch in request["batch_sizes"]:
        costs = whole_costs(Workload.of(config, batch), encoder, request["number_bytes"])
        floors[str(batch)] = None if costs is None else floor_s(costs, rates)
    emit(floor_s=floors)


def record_reference(request: dict[str, Any], emit: Emit) -> None:
    """request: checkpoint, device, recording. Writes what torch answers in float32 to `recording`,
    on the CPU where torch finds no GPU. Emits where it ran."""
    need_torch("cpu")
    import torch

    from altogether_rt.artifacts.checkpoint import Checkpoint
    from altogether_rt.export.samples import draw_samples
    from altogether_rt.export.verify import record
    from altogether_rt.preprocess.prompts import PromptTokenizer
    from altogether_rt.runtime.torch.runtime import TorchRuntime

    torch.backends.cudnn.allow_tf32 = False  # convolutions would have 10 bits of mantissa
    device = request["device"] if torch.cuda.is_available() else "cpu"
    checkpoint = Checkpoint.load(Path(request["checkpoint"]))
    config = checkpoint.config
    tokenizer = PromptTokenizer.from_file(
        checkpoint.tokenizer_path, config.prompt, config.decoder.pad_id
    )
    # The plain backend: kernels are not to be compared with themselves.
    with TorchRuntime(
        checkpoint.captioner(), num_slots=NUM_SAMPLES, device=device, fixed_decode=False
    ) as runtime:
        recording = record(runtime, draw_samples(config, tokenizer))
    Path(request["recording"]).write_bytes(pickle.dumps(recording))
    emit(runs_on=device)


#: Each is given the request and an `Emit`.
TASKS: dict[str, Callable[[dict[str, Any], Emit], None]] = {
    "ceilings": measure_rates,
    "floors": count_floors,
    "reference": record_reference,
}


def main(text: str) -> int:
    request = json.loads(text)
    answer = Path(request.pop("answer"))
    data: dict[str, Any] = {}

    def emit(**news: Any) -> None:
        data.update(news)
        temporary = answer.with_suffix(".new")
        temporary.write_text(json.dumps(data), "utf-8")
        os.replace(temporary, answer)

    try:
        TASKS[request.pop("task")](request, emit)
    except (Unavailable, MissingDependencyError, ModuleNotFoundError) as reason:
        emit(skipped=str(reason))
    except AltogetherError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
