"""Ray's own pipeline of rows: read_webdataset, map_batches with an actor, write_parquet.

    python -m benchmarks.shards.ray_rows IN OUT [IN OUT ...] [--workers N] [--delay S]

All pairs are done in one session of Ray. Prints a line of JSON for each: how it ended.
"""

from __future__ import annotations

import argparse
import io
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.shards.dummy import dummy_caption, thumbnail

__all__ = ["CaptionActor", "main"]


class CaptionActor:
    """Captions batches of rows; it is kept for the run, as one with a model would be."""

    def __init__(self, delay_s: float) -> None:
        self._delay_s = delay_s

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """The keys, alt-texts and captions of a batch."""
        captions = []
        for content, alt in zip(batch["png"], batch["txt"], strict=True):
            image = Image.open(io.BytesIO(content)).convert("RGB")
            captions.append(dummy_caption(_text(alt), thumbnail(image)))
            if self._delay_s:
                time.sleep(self._delay_s)
        keys = [str(key) for key in batch["__key__"]]
        alts = [_text(alt) for alt in batch["txt"]]
        return {"key": np.array(keys), "alt": np.array(alts), "caption": np.array(captions)}


def _text(alt: Any) -> str:
    return alt.decode() if isinstance(alt, bytes) else str(alt)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--delay", type=float, default=0.0)
    given = parser.parse_args()
    import ray

    ray.init(num_cpus=given.workers + 1, include_dashboard=False, log_to_driver=False)
    ray.data.DataContext.get_current().enable_progress_bars = False
    for inputs, out in zip(given.folders[::2], given.folders[1::2], strict=True):
        said = ""
        try:
            # Texts and JSON decoded, images left to the actor.
            rows = ray.data.read_webdataset(
                sorted(map(str, inputs.absolute().glob("*.tar"))), decoder=None
            )
            captions = rows.map_batches(
                CaptionActor,
                fn_constructor_args=(given.delay,),
                batch_size=16,
                compute=ray.data.ActorPoolStrategy(size=given.workers),
            )
            captions.write_parquet(str(out.absolute()))
        except Exception as error:
            said = f"{type(error).__name__}: {error}".strip().splitlines()[0]
        print(json.dumps({"inputs": str(inputs), "error": said}), flush=True)
    ray.shutdown()


if __name__ == "__main__":
    main()
