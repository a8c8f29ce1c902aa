"""Captioners fine-tuned on two and on three rounds of annotation, with and without alt-texts.

    nice -n 19 python benchmarks/rounds.py

The starter's weights (`altogether-rt import starter`) are fine-tuned, as by `altogether-rt train
--init`, on scenes whose annotation ends with the second round, or with the third. In each case they
are trained with the alt-text as condition, left out half of the time as in the paper, and without.
Held-out scenes, whose names do not occur in training, are then captioned and scored by their facts.
If a scene has two groups, its second round describes the first of them; the third round describes
both, and how they stand to each other.

Takes about ten minutes of one core. The figures of a finished run and the state of an unfinished
one are kept in --work: the same command continues. Writes benchmarks/results/rounds.json, .md and
.svg after every run.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from studies.record import RunStore, write_result, write_whole
from studies.rounds_report import to_markdown, to_svg

from altogether_rt import Captioner
from altogether_rt.scenes.dataset import reference_row
from altogether_rt.scenes.draw import render
from altogether_rt.scenes.score import Scores
from altogether_rt.scenes.text import Sample, make_sample
from altogether_rt.train.recipe import DataRecipe, Optimization, TrainingStage, TrainRecipe
from altogether_rt.train.run import train

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
PROGRAM = [sys.executable, "-m", "altogether_rt.cli.main"]


@dataclass(frozen=True)
class Study:
    """The settings of the study."""

    rounds: tuple[int, ...] = (2, 3)
    seeds: tuple[int, ...] = (0, 1, 2)
    scenes: int = 1500
    scenes_seed: int = 16
    held_out: int = 500
    held_out_seed: int = 17
    steps: int = 120
    batch_size: int = 32
    peak_lr: float = 5e-4
    alt_dropout: float = 0.5  # the paper's, where there are alt-texts

    def settings(self) -> dict[str, Any]:
        """The settings as JSON values."""
        settings: dict[str, Any] = json.loads(json.dumps(vars(self)))
        return settings

    def runs(self) -> Iterator[tuple[int, int, bool]]:
        """(seed, last round, whether with alt-texts), seed by seed."""
        return (
            (seed, last, with_alts)
            for seed in self.seeds
            for last in self.rounds
            for with_alts in (True, False)
        )

    def recipe(self, seed: int, with_alts: bool) -> TrainRecipe:
        """Fine-tuning alone."""
        optimization = Optimization(
            num_steps=self.steps,
            batch_size=self.batch_size,
            peak_lr=self.peak_lr,
            warmup_steps=min(10, self.steps),
            weight_decay=0.05,
        )
        return TrainRecipe(
            config="starter",
            data=DataRecipe(source="folder"),
            seed=seed,
            finetune=TrainingStage(optimization, self.alt_dropout if with_alts else 1.0),
            save_every_steps=50,
            log_every_steps=20,
            sample_every_steps=self.steps,
        )


def write_round(folder: Path, last: int) -> Path:
    """Write the rounds up to `last` of references.jsonl, as `train --data` reads them."""
    path = folder / f"round-{last}.jsonl"
    if not path.exists():
        lines = []
        for line in (folder / "references.jsonl").read_text("utf-8").splitlines():
            row = json.loads(line)
            kept = {"file_name": row["file_name"], "alts": row["alts"]}
            lines.append(json.dumps({**kept, "rounds": row["rounds"][:last]}, ensure_ascii=False))
        write_whole(path, "\n".join(lines) + "\n")
    return path


def score(captioner: Captioner, samples: Sequence[Sample], *, alts_given: bool) -> dict[str, Any]:
    """Scores of the captions of scenes, in percent."""
    alts = [list(sample.alts) for sample in samples] if alts_given else None
    scores = Scores()
    images = [render(sample.scene) for sample in samples]
    for sample, caption in zip(samples, captioner.caption(images, alts), strict=True):
        row = reference_row("", sample)
        if not alts_given:  # without an alt-text every name is invented
            row["rounds"] = ["", *row["rounds"]]
        scores.add(caption.text, row)
    return scores.to_dict()


@dataclass
class Laboratory:
    """What the runs of a study share."""

    study: Study
    work: Path
    store: RunStore = field(init=False)
    held_out: list[Sample] = field(init=False)

    def __post_init__(self) -> None:
        study = self.study
        self.store = RunStore(self.work, study.settings())
        self.held_out = [make_sample(study.held_out_seed, i, "test") for i in range(study.held_out)]
        scenes, start = self.work / "scenes", self.work / "starter"
        if not (scenes / "alts.jsonl").exists():
            options = ["--num", str(study.scenes), "--seed", str(study.scenes_seed)]
            command = [*PROGRAM, "scenes", str(scenes), *options, "--split", "train"]
            subprocess.run(command, check=True)
        if not start.exists():
            subprocess.run([*PROGRAM, "import", "starter", "--out", str(start)], check=True)

    def run(self, seed: int, last: int, with_alts: bool) -> dict[str, Any]:
        """Train and score one captioner, unless that was done before."""
        name = f"round-{last}-{'with' if with_alts else 'without'}-alts-seed-{seed}"
        done = self.store.get(name)
        if done is not None:
            return done
        start = time.process_time()
        checkpoint = self.work / name
        if not checkpoint.exists():
            train(
                self.study.recipe(seed, with_alts),
                checkpoint,
                init=self.work / "starter",
                data=write_round(self.work / "scenes", last),
                resume=True,
                threads=1,
                say=lambda line: print(name, line, flush=True),
            )
        with Captioner.load(checkpoint, device="cpu", threads=1) as captioner:
            run: dict[str, Any] = {"seed": seed, "round": last, "trained_with_alts": with_alts}
            if with_alts:
                run["with_alts"] = score(captioner, self.held_out, alts_given=True)
            run["without_alts"] = score(captioner, self.held_out, alts_given=False)
        run["cpu_s"] = round(time.process_time() - start, 1)
        self.store.put(name, run)
        shutil.rmtree(checkpoint)
        shutil.rmtree(checkpoint.with_name(name + ".training"))
        return run

    def baselines(self) -> dict[str, Any]:
        """The alt-texts themselves, and the starter before any fine-tuning."""
        done = self.store.get("baselines")
        if done is not None:
            return done
        alts = Scores()
        for sample in self.held_out:
            alts.add(" ".join(sample.alts), reference_row("", sample))
        with Captioner.load("starter", threads=1) as starter:
            found = {
                "alts": alts.to_dict(),
                "starter_with_alts": score(starter, self.held_out, alts_given=True),
                "starter_without_alts": score(starter, self.held_out, alts_given=False),
            }
        self.store.put("baselines", found)
        return found


def parse_arguments(arguments: Sequence[str] | None = None) -> tuple[Study, Path, Path]:
    """The study, the folder to work in, and the result to write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    study = Study()
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / "rounds")
    parser.add_argument("--out", type=Path, default=RESULTS / "rounds.json")
    parser.add_argument("--seeds", type=int, default=len(study.seeds), help="how many")
    for name in ("scenes", "held_out", "steps", "batch_size"):
        option = "--" + name.replace("_", "-")
        parser.add_argument(option, type=int, default=getattr(study, name))
    given = vars(parser.parse_args(arguments))
    work, out = given.pop("work"), given.pop("out")
    return Study(seeds=tuple(range(given.pop("seeds"))), **given), work, out


def main(arguments: Sequence[str] | None = None) -> None:
    study, work, out = parse_arguments(arguments)
    torch.set_num_threads(1)
    laboratory = Laboratory(study, work)
    baselines = laboratory.baselines()
    runs: list[dict[str, Any]] = []
    for seed, last, with_alts in study.runs():
        runs.append(laboratory.run(seed, last, with_alts))
        result = write_result(out, study.settings(), {"baselines": baselines, "runs": runs})
        write_whole(out.with_suffix(".md"), to_markdown(result))
        write_whole(out.with_suffix(".svg"), to_svg(result))
    print(to_markdown(result))


if __name__ == "__main__":
    main()
