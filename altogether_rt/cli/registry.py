"""The table of commands: the module of each, the extra it needs, examples.

It imports nothing else of the package, so that `--help` is quick and a command whose extra is not
installed does not break the others.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["COMMANDS", "EXTRA_OF_PACKAGE", "GROUPS", "CommandSpec", "GroupSpec"]


@dataclass(frozen=True)
class CommandSpec:
    """One command of `altogether-rt`."""

    target: str  # "module:function"; the function's signature is the command's options
    summary: str  # one line, shown by `altogether-rt --help`
    examples: tuple[str, ...]  # shown under the command's own --help
    extra: str  # installs what the command needs beyond the base installation


@dataclass(frozen=True)
class GroupSpec:
    """A command with sub-commands, such as `altogether-rt scenes score`."""

    summary: str  # one line, shown by `altogether-rt --help`
    default: str = ""  # the sub-command to use if the first word names none


#: Their sub-commands are in COMMANDS under keys of two words ("scenes score").
GROUPS: dict[str, GroupSpec] = {
    "annotate": GroupSpec("Let people re-align texts with their images, in rounds."),
    "scenes": GroupSpec("Draw scenes whose facts are known, and score captions of them.", "draw"),
    "bundle": GroupSpec("Fetch a bundle by its name, or publish one."),
    "compare": GroupSpec("Let people judge, blind, which of two captions is better.", "start"),
}

COMMANDS: dict[str, CommandSpec] = {
    "caption": CommandSpec(
        "altogether_rt.cli.commands.caption.command:caption_command",
        "Caption a folder of images, or a dataset in shards, with their alt-texts.",
        (
            "altogether-rt caption photos/ --alt alts.jsonl",
            "altogether-rt caption photos/ --bundle smolvlm-500m --sheet captions.html",
            "altogether-rt caption photos/ --bundle my-bundle --out captions.jsonl --temperature 0",
            "altogether-rt caption photos/ --alt shop.csv --image-key Photo --alt-key Title",
            "altogether-rt caption photos/ --alt alts.jsonl --update",
            "altogether-rt caption photos/ --sidecar .txt --sheet captions.html --limit 100",
            "altogether-rt caption 'shards/{00000..00019}.tar' --out captions/ --workers 4",
            "altogether-rt caption s3://bucket/shards/ --alt-key 'txt;json:caption' "
            "--out s3://bucket/captions --engine ray",
            "altogether-rt caption photos/ --alt-embedded alt --write-alt captioned/",
            "altogether-rt caption photos/ --style alt --checks --sheet captions.html",
        ),
        "cpu",
    ),
    "caption-shard": CommandSpec(
        "altogether_rt.cli.commands.shards.caption_shard:caption_shard_command",
        "Caption one shard: the unit of work of a scheduler.",
        (
            "altogether-rt caption-shard shards/00003.tar captions/",
            "altogether-rt caption-shard 's3://bucket/{00000..00999}.tar' s3://bucket/captions "
            "--index $SLURM_ARRAY_TASK_ID",
        ),
        "shards",
    ),
    "status": CommandSpec(
        "altogether_rt.cli.commands.shards.status:status_command",
        "Show how far a run over shards has come.",
        ("altogether-rt status captions/", "altogether-rt status s3://bucket/captions --json"),
        "shards",
    ),
    "bench": CommandSpec(
        "altogether_rt.cli.commands.bench:bench_command",
        "Measure speed and memory, and compare them with the limits of this machine.",
        (
            "altogether-rt bench",
            "altogether-rt bench --bundle my-bundle --batch-sizes 1,8,32 --out bench.json",
            "altogether-rt bench --bundle my-bundle --plan 400M --price-per-hour 0.08",
        ),
        "cpu",
    ),
    "inspect": CommandSpec(
        "altogether_rt.cli.commands.inspect:inspect_command",
        "Describe a bundle: sizes, precision, parity, origin.",
        ("altogether-rt inspect my-bundle", "altogether-rt inspect starter --json"),
        "cpu",
    ),
    "models": CommandSpec(
        "altogether_rt.cli.commands.hub.models:models_command",
        "List the captioners that have a name, and what of them is on this machine.",
        (
            "altogether-rt models",
            "altogether-rt models --json",
            "altogether-rt models --remove smolvlm-500m",
        ),
        "cpu",
    ),
    "bundle pull": CommandSpec(
        "altogether_rt.cli.commands.hub.bundle:pull_command",
        "Fetch a captioner by its name, and make a bundle of it for this machine.",
        (
            "altogether-rt bundle pull smolvlm-500m",
            "altogether-rt bundle pull someone/their-captioner --out their-captioner",
        ),
        "hub",
    ),
    "bundle push": CommandSpec(
        "altogether_rt.cli.commands.hub.bundle:push_command",
        "Publish a bundle on the hub or in a folder, with a card that describes it.",
        (
            "altogether-rt bundle push my-bundle --hub someone/my-captioner --licence apache-2.0",
            "altogether-rt bundle push my-bundle --out /shared/my-captioner",
        ),
        "hub",
    ),
    "prepare": CommandSpec(
        "altogether_rt.cli.commands.prepare:prepare_command",
        "Make a bundle open faster on this machine, with weights shared by workers.",
        ("altogether-rt prepare my-bundle", "altogether-rt prepare my-bundle --remove"),
        "cpu",
    ),
    "check": CommandSpec(
        "altogether_rt.cli.commands.check:check_command",
        "Say what came of captions: words kept of the alt-texts, names added, refusals, loops.",
        (
            "altogether-rt check captions.jsonl",
            "altogether-rt check captions.jsonl --out checked.jsonl",
        ),
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
            "altogether-rt export --ckpt smolvlm-500m --target cuda-fp16",
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
            "altogether-rt train --recipe finetune --init my-captioner --data photos/train.jsonl "
            "--out tuned",
            "altogether-rt train --recipe finetune --init my-captioner --data photos/train.jsonl "
            "--out tuned --lora 16 --precision bf16 --device cuda",
            "altogether-rt train --recipe finetune --init my-captioner --data annotations.json "
            "--images images/ --skip-bad --out tuned",
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
    "export-captions": CommandSpec(
        "altogether_rt.cli.commands.shards.export_captions:export_captions_command",
        "Write the captions of a sharded run as MetaCLIP, WebDataset or datasets read them.",
        (
            "altogether-rt export-captions run/ tars/ --format webdataset --shards s3://bucket/in",
            "altogether-rt export-captions run/ tars/ --format webdataset --shards in/ --into txt "
            "--ratio 0.15",
            "altogether-rt export-captions run/ metaclip/ --format metaclip",
            "altogether-rt export-captions s3://bucket/run s3://bucket/data --format parquet",
            "altogether-rt export-captions run/ captions.jsonl --format jsonl",
        ),
        "parquet",
    ),
    "import": CommandSpec(
        "altogether_rt.cli.commands.import_:import_command",
        "Import published weights, or a bundle, as a checkpoint.",
        (
            "altogether-rt import coco_weights.pt --out clipcap",
            "altogether-rt import smolvlm-500m --out smolvlm",
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
        "Evaluate captions with references, alt-texts and images.",
        (
            "altogether-rt eval captions.jsonl references.jsonl",
            "altogether-rt eval captions.jsonl coco.json --against other.jsonl --html report.html",
            "altogether-rt eval made.jsonl --images made/ --clip ViT-B-32 --clip-weights openai",
        ),
        "eval",
    ),
    "annotate start": CommandSpec(
        "altogether_rt.cli.commands.annotate.rounds:start_command",
        "Start: round 1 is the alt-texts, round 2 is open.",
        (
            "altogether-rt annotate start photos/ --alt alts.jsonl --out work",
            "altogether-rt annotate start photos/ --alt alts.jsonl --out work "
            "--annotators anna,ben --overlap 0.1 --gold scenes/",
            "altogether-rt annotate start photos/ --from captions.jsonl --out work",
        ),
        "cpu",
    ),
    "annotate serve": CommandSpec(
        "altogether_rt.cli.commands.annotate.rounds:serve_command",
        "Serve the page on which one person answers.",
        (
            "altogether-rt annotate serve work --as anna",
            "altogether-rt annotate serve work --as anna --instead-of ben --port 8000",
        ),
        "cpu",
    ),
    "annotate next": CommandSpec(
        "altogether_rt.cli.commands.annotate.rounds:next_command",
        "Close the open round, and open the one that starts from its answers.",
        ("altogether-rt annotate next work", "altogether-rt annotate next work --partial"),
        "cpu",
    ),
    "annotate pack": CommandSpec(
        "altogether_rt.cli.commands.annotate.files:pack_command",
        "Pack one person's images into one HTML file, to answer without Python.",
        ("altogether-rt annotate pack work --as ben --out ben.html",),
        "cpu",
    ),
    "annotate import": CommandSpec(
        "altogether_rt.cli.commands.annotate.files:import_command",
        "Import answers from a packed page or from Label Studio.",
        (
            "altogether-rt annotate import work answers-ben-round2.jsonl",
            "altogether-rt annotate import work label-studio.json --as ben",
        ),
        "cpu",
    ),
    "annotate report": CommandSpec(
        "altogether_rt.cli.commands.annotate.files:report_command",
        "Report how much was changed, how carefully, and how far annotators agree.",
        ("altogether-rt annotate report work", "altogether-rt annotate report work --json"),
        "cpu",
    ),
    "annotate export": CommandSpec(
        "altogether_rt.cli.commands.annotate.files:export_command",
        "Export rows for train, or the open round for Label Studio.",
        (
            "altogether-rt annotate export work --out train.jsonl",
            "altogether-rt annotate export work --format label-studio --out tasks.json",
        ),
        "cpu",
    ),
    "scenes draw": CommandSpec(
        "altogether_rt.cli.commands.scenes:scenes_command",
        "Draw scenes with alt-texts, facts and reference captions.",
        (
            "altogether-rt scenes draw examples --num 24 --seed 7",
            "altogether-rt scenes examples --num 24 --seed 7",
        ),
        "cpu",
    ),
    "scenes score": CommandSpec(
        "altogether_rt.cli.commands.scenes:score_command",
        "Score captions of scenes against the known facts.",
        ("altogether-rt scenes score captions.jsonl examples/references.jsonl",),
        "cpu",
    ),
    "compare start": CommandSpec(
        "altogether_rt.cli.commands.compare:start_command",
        "Make a blind study of the captions of two or more systems.",
        (
            "altogether-rt compare start A.jsonl B.jsonl --images photos/ --out sxs/",
            "altogether-rt compare A.jsonl B.jsonl --images photos/ --out sxs/",
            "altogether-rt compare start A.jsonl B.jsonl C.jsonl --images photos/ --out sxs/ "
            "--limit 400 --annotators ann,ben --overlap 0.25",
        ),
        "cpu",
    ),
    "compare serve": CommandSpec(
        "altogether_rt.cli.commands.compare:serve_command",
        "Serve the page on which one annotator judges.",
        ("altogether-rt compare serve sxs/ --as ann",),
        "cpu",
    ),
    "compare report": CommandSpec(
        "altogether_rt.cli.commands.compare:report_command",
        "Report which system wins, how certain that is, how reliable the annotators are.",
        (
            "altogether-rt compare report sxs/ --plot sxs.svg",
            "altogether-rt compare report sxs/ --json",
        ),
        "cpu",
    ),
}

#: Package → the extra that installs it, whichever command needs it.
EXTRA_OF_PACKAGE = {
    "huggingface_hub": "hub",
    "onnx": "export",
    "onnxruntime": "cpu",
    "onnxscript": "export",
    "open_clip": "train",
    "peft": "lora",
    "pillow_heif": "heic",
    "py3langid": "lang",
    "pyarrow": "parquet",
    "ray": "ray",
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
