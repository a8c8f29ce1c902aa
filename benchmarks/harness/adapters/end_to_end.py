"""What a user gets: a folder of JPEG files and a file of alt-texts in, a file of rows out.

options: checkpoint or bundle, device, dtype, slots, and images: a folder of JPEG files
(`gpu/jpegs.py`), of which more are made, each with pixels of its own and another alt-text. Of
random weights: the tokenizer that comes with them makes a token of every character, so prompts have
the lengths that rows ask for.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gpu.jpegs import other_pixels
from shards.dummy import DummyCaptioner

from altogether_rt.captioner import Captioner
from altogether_rt.captions import caption_params
from altogether_rt.jobs.executor import LocalExecutor, SupportsCaptions
from altogether_rt.jobs.folder import CaptionJob, caption_folder, open_folder
from altogether_rt.jobs.output import CaptionSummary
from harness.adapter import Adapter, need_torch
from harness.adapters.ours import open_captioner_parts

__all__ = ["EndToEnd"]


class EndToEnd(Adapter):
    """`altogether-rt caption` of a folder, without its process."""

    def prepare(self, options: dict[str, Any]) -> None:
        if "checkpoint" in options:
            need_torch(options.get("device", "cpu"))

    def load(self, options: dict[str, Any], threads: int | None) -> dict[str, Any]:
        parts = open_captioner_parts(options, threads)
        self._captioner = Captioner(parts, speculation="off")
        self._files = [path.read_bytes() for path in sorted(Path(options["images"]).glob("*.jpg"))]
        self._folders = tempfile.TemporaryDirectory()
        self._tokens = 0.0
        return {"runs_on": parts.runtime.device}

    def run(self, rows: Sequence[Any], batch: int) -> list[list[int]]:
        """Captions an image for each row."""
        job, limit = self._job(rows), rows[0].caption_tokens
        summary = self._caption(self._captioner, job, limit)
        if summary.captioned != len(rows):
            raise RuntimeError(f"{summary.captioned} of {len(rows)} were captioned")
        written = [json.loads(line) for line in job.out.read_text("utf-8").splitlines()]
        self._tokens = sum(row.get("tokens", 0) for row in written) / summary.captioned
        return [[0] * limit for _ in rows]

    def stages(self, rows: Sequence[Any]) -> dict[str, Any]:
        """Images a second of the job before if nothing captions them: what reading allows."""
        captioner: Any = DummyCaptioner()
        captioner.preprocessor = self._captioner.preprocessor
        start = time.perf_counter()
        summary = self._caption(captioner, self._last_job, rows[0].caption_tokens)
        return {"read_per_s": round(summary.captioned / (time.perf_counter() - start), 1)}

    def notes(self) -> dict[str, Any]:
        """Tokens of a caption, which ends early if the random weights choose the end token."""
        return {"tokens_per_caption": round(self._tokens, 1)}

    def close(self) -> None:
        self._captioner.close()
        self._folders.cleanup()

    def _caption(self, captioner: SupportsCaptions, job: CaptionJob, limit: int) -> CaptionSummary:
        """All of the job's rows anew, greedy as in the rate that this one is compared with."""
        job.out.unlink(missing_ok=True)
        params = caption_params(self._captioner.config, max_new_tokens=limit, temperature=0.0)
        return caption_folder(job, open_folder(job), LocalExecutor(captioner), params)

    def _job(self, rows: Sequence[Any]) -> CaptionJob:
        """A folder of as many images, made once for each number of them, and their alt-texts."""
        root = Path(self._folders.name) / str(len(rows))
        folder, alts = root / "images", root / "alts.jsonl"
        if not alts.exists():
            folder.mkdir(parents=True)
            lines = []
            for index, row in enumerate(rows):
                name = f"{index:06d}.jpg"
                again, file = divmod(index, len(self._files))
                (folder / name).write_bytes(other_pixels(self._files[file], again))
                alt = f"{index:06d}".ljust(len(row.alt_ids), "a")
                lines.append(json.dumps({"file_name": name, "alt": alt}))
            alts.write_text("\n".join(lines) + "\n", "utf-8")
        self._last_job = CaptionJob(folder=folder, out=root / "rows.jsonl", alts=alts)
        return self._last_job
