"""CLIP trained on alt-texts and a share of captions: the paper's Fig. 4 in miniature.

    nice -n 19 python benchmarks/mixing.py
    nice -n 19 python benchmarks/mixing.py --image-tower scratch --scenes 12000 --steps 1200

The starter captions scenes that it has not seen. A CLIP is then trained on the same scenes with the
texts that `altogether-rt mix` would give them, at several shares of captions and seeds, by CLIP's
loss alone. It is evaluated on held-out scenes: zero-shot classification (kind × colour) and
retrieval. These are scenes, not ImageNet.

The image tower is the starter's, locked, and the text tower starts from random weights: ten minutes
of one core are enough. With `--image-tower scratch` both towers start from random weights, on
smaller images; that takes hours. The figures of a finished run and the state of an unfinished one
are kept in --work: the same command continues. Writes benchmarks/results/mixing.json, .md and .svg
after every run.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL.Image import Image
from studies.clip import Clip, ClipObjective, Images, Pictures, resized
from studies.held_out import evaluate, make_held_out
from studies.mixing_report import to_markdown, to_svg
from studies.record import RunStore, write_result, write_whole

from altogether_rt import Captioner
from altogether_rt.data.images import load_image
from altogether_rt.data.rows import read_rows
from altogether_rt.mixing.draw import MixDraw
from altogether_rt.preprocess.pixels import Preprocessor
from altogether_rt.train.log import TrainLog
from altogether_rt.train.loop import minimize
from altogether_rt.train.recipe import Optimization

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
PROGRAM = [sys.executable, "-m", "altogether_rt.cli.main"]

#: Pictures that are held at once.
_CHUNK = 256


@dataclass(frozen=True)
class Study:
    """The settings of the study."""

    ratios: tuple[float, ...] = (0.0, 0.15, 0.3, 0.5, 0.75, 1.0)
    seeds: tuple[int, ...] = (0, 1, 2)
    image_tower: Literal["locked", "scratch"] = "locked"
    image_size: int = 32  # of a tower from scratch
    text_length: int = 32  # tokens; one text in twenty is longer
    scenes: int = 1000
    scenes_seed: int = 14
    held_out: int = 1000
    held_out_seed: int = 15
    steps: int = 200
    batch_size: int = 64
    peak_lr: float = 1e-3

    def settings(self) -> dict[str, Any]:
        """The settings as JSON values."""
        settings: dict[str, Any] = json.loads(json.dumps(vars(self)))
        return settings

    def runs(self) -> Iterator[tuple[int, float]]:
        """(seed, ratio), seed by seed, so that early results have every ratio."""
        return ((seed, ratio) for seed in self.seeds for ratio in self.ratios)

    @property
    def optimization(self) -> Optimization:
        """As the starter's encoder was trained, but for the number of steps."""
        return Optimization(
            num_steps=self.steps,
            batch_size=self.batch_size,
            peak_lr=self.peak_lr,
            lr_floor=0.01,
            warmup_steps=min(50, self.steps),
            weight_decay=0.05,
        )


def caption_scenes(work: Path, study: Study) -> Path:
    """Draw the scenes and caption them with the starter; returns the file of captions."""
    scenes, captions = work / "scenes", work / "captions.jsonl"
    if not (scenes / "alts.jsonl").exists():
        options = ["--num", str(study.scenes), "--seed", str(study.scenes_seed)]
        command = [*PROGRAM, "scenes", str(scenes), *options, "--split", "train"]
        subprocess.run(command, check=True)
    if not captions.exists():
        options = ["--alt", "alts.jsonl", "--out", str(captions), "--threads", "1"]
        subprocess.run([*PROGRAM, "caption", str(scenes), *options], check=True)
    return captions


class Laboratory:
    """What the runs of a study share."""

    def __init__(self, study: Study, work: Path) -> None:
        self.study = study
        self.store = RunStore(work, study.settings())
        with Captioner.load("starter", threads=1) as starter:
            self._starter = starter
            scratch = study.image_tower == "scratch"
            encoder = starter.config.encoder
            size = study.image_size if scratch else encoder.image_size
            self._encoder = resized(encoder, size, study.text_length)
            self._preprocessor = Preprocessor(self._encoder)
            self.pictures = self._read_pictures(caption_scenes(work, study))
            self.held_out = make_held_out(self._prepare, study.held_out, study.held_out_seed)

    def _prepare(self, images: Sequence[Image]) -> Images:
        """Pixels, or the embeddings of the starter's image tower."""
        pixels = np.stack([self._preprocessor.pixels(image) for image in images])
        if self.study.image_tower == "scratch":
            return pixels
        batch = 32
        starts = range(0, len(pixels), batch)
        parts = [self._starter.runtime.encode(pixels[i : i + batch]) for i in starts]
        return np.concatenate(parts).astype(np.float32)

    def _read_pictures(self, captions: Path) -> Pictures:
        """The pictures that have an alt-text, as all pictures of a web data set do."""
        with captions.open("rb") as file:
            rows = [row for _, row, _ in read_rows(file) if row is not None and row["alt"]]
        names = [str(row["file_name"]) for row in rows]
        parts: list[NDArray[Any]] = []
        for first in range(0, len(names), _CHUNK):
            paths = [captions.parent / "scenes" / name for name in names[first : first + _CHUNK]]
            parts.append(self._prepare([load_image(path) for path in paths]))
        alts = [[row["alt"]] if isinstance(row["alt"], str) else row["alt"] for row in rows]
        images: Images = np.concatenate(parts)
        return Pictures(names, images, alts, [row.get("caption") for row in rows])

    def run(self, seed: int, ratio: float) -> dict[str, Any]:
        """Train and evaluate one CLIP, unless that was done before."""
        name = f"ratio-{ratio:g}-seed-{seed}"
        done = self.store.get(name)
        if done is not None:
            return done
        start = time.process_time()
        torch.manual_seed(seed)
        locked = self.study.image_tower == "locked"
        eos_id = self._starter.config.decoder.eos_id
        clip = Clip(self._encoder, self._starter.tokenizer, eos_id, locked=locked)
        objective = ClipObjective(
            self.study.optimization, clip, self.pictures, MixDraw(ratio, seed)
        )
        state = self.store.folder / f"{name}.pt"
        with TrainLog(self.store.folder / "log", lambda line: print(name, line, flush=True)) as log:
            every = {"save_every_steps": 100, "log_every_steps": 50}
            minimize(objective, state, log, **every, sample_every_steps=self.study.steps)
        figures = {key: round(value, 5) for key, value in evaluate(clip, self.held_out).items()}
        run = {
            "ratio": ratio,
            "seed": seed,
            "captions": round(objective.share_of_captions(), 4),
            "cpu_s": round(time.process_time() - start, 1),
            **figures,
        }
        self.store.put(name, run)
        state.unlink()
        return run


def parse_arguments(arguments: Sequence[str] | None = None) -> tuple[Study, Path, Path]:
    """The study, the folder to work in, and the result to write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    study = Study()
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / "mixing")
    parser.add_argument("--out", type=Path, default=RESULTS / "mixing.json")
    parser.add_argument("--ratio", type=float, action="append", help="may be repeated")
    parser.add_argument("--seeds", type=int, default=len(study.seeds), help="how many")
    parser.add_argument("--image-tower", choices=["locked", "scratch"], default="locked")
    for name in ("scenes", "held_out", "image_size", "steps", "batch_size"):
        option = "--" + name.replace("_", "-")
        parser.add_argument(option, type=int, default=getattr(study, name))
    given = vars(parser.parse_args(arguments))
    work, out = given.pop("work"), given.pop("out")
    ratios, seeds = given.pop("ratio"), range(given.pop("seeds"))
    study = Study(ratios=tuple(ratios or study.ratios), seeds=tuple(seeds), **given)
    return study, work, out


def main(arguments: Sequence[str] | None = None) -> None:
    study, work, out = parse_arguments(arguments)
    torch.set_num_threads(1)
    laboratory = Laboratory(study, work)
    settings = {**study.settings(), "scenes_with_alt_text": len(laboratory.pictures)}
    runs: list[dict[str, Any]] = []
    for seed, ratio in study.runs():
        runs.append(laboratory.run(seed, ratio))
        result = write_result(out, settings, {"runs": runs})
        write_whole(out.with_suffix(".md"), to_markdown(result))
        write_whole(out.with_suffix(".svg"), to_svg(result))
    print(to_markdown(result))


if __name__ == "__main__":
    main()
