"""The table of commands: the module of each, the extra it needs, examples.

It imports nothing else of the package, so that `--help` is quick and a command whose extra is not
installed does not break the others.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["COMMANDS", "EXTRA_OF_PACKAGE", "CommandSpec"]


@dataclass(frozen=True)
class CommandSpec:
    """One command of `altogether-rt`."""

    target: str  # "module:function"; the function's signature is the command's options
    summary: str  # one line, shown by `altogether-rt --help`
    examples: tuple[str, ...]  # shown under the command's own --help
    extra: str  # installs what the command needs beyond the base installation


#: A key of two words ("scenes score") is a command within a command.
COMMANDS: dict[str, CommandSpec] = {
    "caption": CommandSpec(
        "altogether_rt.cli.commands.caption:caption_command",
        "Caption a folder of images with their alt-texts.",
        (
            "altogether-rt caption photos/ --alt alts.jsonl",
            "altogether-rt caption photos/ --bundle my-bundle --out captions.jsonl --temperature 0",
            "altogether-rt caption photos/ --sidecar .txt --sheet captions.html --limit 100",
        ),
        "cpu",
    ),
    "bench": CommandSpec(
        "altogether_rt.cli.commands.bench:bench_command",
        "Measure speed and memory, and compare them with the limits of this machine.",
        (
            "altogether-rt bench",
            "altogether-rt bench --bundle my-bundle --batch-sizes 1,8,32 --out bench.json",
        ),
        "cpu",
    ),
    "inspect": CommandSpec(
        "altogether_rt.cli.commands.inspect:inspect_command",
        "Describe a bundle: sizes, precision, parity, origin.",
        ("altogether-rt inspect my-bundle", "altogether-rt inspect starter --json"),
        "cpu",
    ),
    "prepare": CommandSpec(
        "altogether_rt.cli.commands.prepare:prepare_command",
        "Make a bundle open faster on this machine, with weights shared by workers.",
        ("altogether-rt prepare my-bundle", "altogether-rt prepare my-bundle --remove"),
        "cpu",
    ),
    "learn": CommandSpec(
        "altogether_rt.cli.commands.learn:learn_command",
        "Learn from captions which tokens to draft, so that speculation works from the start.",
        (
            "altogether-rt learn captions.jsonl --bundle my-bundle",
            "altogether-rt learn captions.jsonl --bundle my-bundle --embeddings emb.npy",
        ),
        "cpu",
    ),
    "doctor": CommandSpec(
        "altogether_rt.cli.commands.doctor:doctor_command",
        "Show what this machine can run, and what to install for the rest.",
        ("altogether-rt doctor", "altogether-rt doctor --json"),
        "cpu",
    ),
    "export": CommandSpec(
        "altogether_rt.cli.commands.export:export_command",
        "Export a checkpoint as a bundle for a target.",
        (
            "altogether-rt export --ckpt my-checkpoint",
            "altogether-rt export --ckpt my-checkpoint --target cpu-fp32 --out my-bundle",
            "altogether-rt export --ckpt starter --target cpu-fp32",
            "altogether-rt export --ckpt my-checkpoint --target tensorrt-fp16 --sm 80,89,120",
            "altogether-rt export --list-targets",
        ),
        "export",
    ),
    "train": CommandSpec(
        "altogether_rt.cli.commands.train:train_command",
        "Train a captioner.",
        (
            "altogether-rt train --recipe starter --out runs/starter",
            "altogether-rt train --recipe starter --out runs/starter --resume",
        ),
        "train",
    ),
    "mix": CommandSpec(
        "altogether_rt.cli.commands.mix:mix_command",
        "Mix captions into the alt-texts to train CLIP or an image generator with.",
        (
            "altogether-rt mix captions.jsonl --ratio 0.15 --seed 0 --epochs 8",
            "altogether-rt mix captions.jsonl --format open-clip --images photos --out train.tsv",
            "altogether-rt mix captions.jsonl --format imagefolder --only-captions "
            "--out photos/metadata.jsonl",
            "altogether-rt mix captions/ --format metaclip --ratio 1 --out plain/",
        ),
        "cpu",
    ),
    "import": CommandSpec(
        "altogether_rt.cli.commands.import_:import_command",
        "Import weights of ClipCap or Altogether, or a bundle, as a checkpoint.",
        (
            "altogether-rt import coco_weights.pt --out clipcap",
            "altogether-rt import starter --out starter",
        ),
        "train",
    ),
    "init": CommandSpec(
        "altogether_rt.cli.commands.init:init_command",
        "Make a checkpoint with random weights, for trying things out.",
        ("altogether-rt init --config altogether-opt-125m --random-weights --out random-125m",),
        "train",
    ),
    "eval": CommandSpec(
        "altogether_rt.cli.commands.eval:eval_command",
        "Judge captions by their references, their alt-texts and their pictures.",
        (
            "altogether-rt eval captions.jsonl references.jsonl",
            "altogether-rt eval captions.jsonl coco.json --against other.jsonl --html report.html",
            "altogether-rt eval made.jsonl --images made/ --clip ViT-B-32 --clip-weights openai",
        ),
        "eval",
    ),
    "scenes": CommandSpec(
        "altogether_rt.cli.commands.scenes:scenes_command",
        "Draw scenes with alt-texts, facts and reference captions.",
        (
            "altogether-rt scenes examples --num 24 --seed 7",
            "altogether-rt scenes score captions.jsonl examples/references.jsonl",
        ),
        "cpu",
    ),
    "scenes score": CommandSpec(
        "altogether_rt.cli.commands.scenes:score_command",
        "Score captions of scenes against the known facts.",
        ("altogether-rt scenes score captions.jsonl examples/references.jsonl",),
        "cpu",
    ),
}

#: Package → the extra that installs it, whichever command needs it.
EXTRA_OF_PACKAGE = {
    "onnx": "export",
    "onnxruntime": "cpu",
    "onnxscript": "export",
    "open_clip": "train",
    "pillow_heif": "heic",
    "pyarrow": "parquet",
    "safetensors": "train",
    "tensorboard": "train",
    "spacy": "eval",
    "pycocoevalcap": "meteor",
    "cuda": "tensorrt",
    "tensorrt": "tensorrt",
    "tensorrt_rtx": "tensorrt",
    "torch": "train",
    "transformers": "train",
}
