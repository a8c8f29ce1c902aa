"""OpenVINO's models of a captioner, one image a line of stdin; for `one_at_a_time.py`.

    python -m harness.openvino_turns OPTIONS

OPTIONS is JSON: folder, pixels, embeddings, prompt (token ids after the visual ones), tokens,
threads. Prints OpenVINO's version, then for each line a list of seconds: of encoder and mapper, of
the prompt, and of each step after it.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import numpy as np
import openvino as ov

from harness.adapters.openvino_ir import OpenVino

__all__ = ["OneImage"]


class OneImage(OpenVino):
    """The adapter's three models, with the time of each part."""

    def turn(self, prompt: list[int], tokens: int) -> list[float]:
        """Seconds of each part for the first image."""
        times = [time.perf_counter()]
        visual = self._visual_tokens([0])
        times.append(time.perf_counter())
        rows = np.concatenate([visual[0], self._embeddings[prompt]])
        embeds = rows.astype(np.float32)[None]
        mask = np.ones(embeds.shape[:2], np.int64)
        self._request.reset_state()
        for _ in range(tokens):
            ids = self._step(embeds, mask)
            times.append(time.perf_counter())
            embeds = self._embeddings[ids][:, None]
            mask = np.concatenate([mask, np.ones((1, 1), np.int64)], axis=1)
        return [float(part) for part in np.diff(times)]


def main() -> None:
    options: dict[str, Any] = json.loads(sys.argv[1])
    model = OneImage()
    model.load(options, options["threads"])
    print(json.dumps(ov.__version__), flush=True)
    for _ in sys.stdin:
        print(json.dumps(model.turn(options["prompt"], options["tokens"])), flush=True)


if __name__ == "__main__":
    main()
