"""Runs one task in this process: `python -m gpu.worker '{"task": …, "answer": "out.json", …}'`.

The answer is written whenever there is something new, so that a task that crashes or is stopped
leaves what it had measured.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from altogether_rt.errors import AltogetherError, MissingDependencyError

from .skip import Skip

__all__ = ["Emit", "main"]

#: Takes what is new in the answer.
Emit = Callable[..., None]

#: Task -> module and function, which is given the request and an `Emit`.
TASKS = {
    "ceilings": ("ceilings", "measure_rates"),
    "floors": ("own", "count_floors"),
    "reference": ("own", "record_reference"),
    "runtime": ("own", "measure_runtime"),
    "public-pipeline": ("peers", "public_pipeline"),
    "hf-static-compile": ("peers", "static_cache"),
    "hf-continuous-batching": ("peers", "continuous_batching"),
    "vllm": ("peers", "vllm_embeddings"),
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

    module, function = TASKS[request.pop("task")]
    try:
        run = getattr(importlib.import_module(f"{__package__}.{module}"), function)
        run(request, emit)
    except (Skip, MissingDependencyError, ModuleNotFoundError) as reason:
        emit(skipped=str(reason))
    except AltogetherError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
