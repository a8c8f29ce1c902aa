"""What a user gets: a folder of JPEG files and a file of alt-texts in, a file of rows out.

options: checkpoint or bundle, device, dtype, slots, and images: a folder of JPEG files
(`gpu/jpegs.py`), which are used again and again, each time under another name and with another
alt-text. Of random weights: the tokenizer that comes with them makes a token of every character, so
prompts have the lengths that rows ask for.
"""

from __future__ import annotations

import itertools
import json
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from altogether_rt.captioner import Captioner
from altogether_rt.captions import caption_params
from altogether_rt.jobs.executor import LocalExecutor
from altogether_rt.jobs.folder import CaptionJob, caption_folder, open_folder
from harness.adapter import Adapter, need_torch
from harness.adapters.ours import open_captioner_parts

__all__ = ["ROUNDS", "EndToEnd"]

#: Images of a measurement for each of a batch: beginning and end, when fewer rows are at work than
#: there are slots, must not be most of it.
ROUNDS = 4


class EndToEnd(Adapter):
    """`altogether-rt caption` of a folder, without its process."""

    def prepare(self, options: dict[str, Any]) -> None:
        if "checkpoint" in options:
            need_torch(options.get("device", "cpu"))

    def load(self, options: dict[str, Any], threads: int | None) -> dict[str, Any]:
        parts = open_captioner_parts(options, threads)
        self._captioner = Captioner(parts, speculation="off")
        self._images = sorted(Path(options["images"]).glob("*.jpg"))
        self._tokens = 0.0
        return {"runs_on": parts.runtime.device}

    def run(self, rows: Sequence[Any], batch: int) -> list[list[int]]:
        """Captions ROUNDS images for each row; a row's caption stands for its ROUNDS captions."""
        limit = rows[0].caption_tokens
        with tempfile.TemporaryDirectory() as temporary:
            folder, out = Path(temporary) / "images", Path(temporary) / "rows.jsonl"
            alts = _link(folder, self._images, rows)
            job = CaptionJob(folder=folder, out=out, alts=alts)
            params = caption_params(self._captioner.config, max_new_tokens=limit)
            summary = caption_folder(job, open_folder(job), LocalExecutor(self._captioner), params)
            if summary.captioned != ROUNDS * len(rows):
                raise RuntimeError(f"{summary.captioned} of {ROUNDS * len(rows)} were captioned")
            written = [json.loads(line) for line in out.read_text("utf-8").splitlines()]
        self._tokens = sum(row.get("tokens", 0) for row in written) / summary.captioned
        return [[0] * limit for _ in rows]

    def notes(self) -> dict[str, Any]:
        """Tokens of a caption, which ends early if the random weights choose the end token."""
        return {"tokens_per_caption": round(self._tokens, 1), "rounds": ROUNDS}

    def close(self) -> None:
        self._captioner.close()


def _link(folder: Path, images: Sequence[Path], rows: Sequence[Any]) -> Path:
    """Links to `images`, ROUNDS a row, and the file of their alt-texts."""
    folder.mkdir()
    lines = []
    numbered = zip(itertools.cycle(images), range(ROUNDS * len(rows)), strict=False)
    for image, number in numbered:
        name = f"{number:06d}.jpg"
        os.link(image, folder / name)
        alt = f"{number:06d}".ljust(len(rows[number % len(rows)].alt_ids), "a")
        lines.append(json.dumps({"file_name": name, "alt": alt}))
    path = folder.parent / "alts.jsonl"
    path.write_text("\n".join(lines) + "\n", "utf-8")
    return path
