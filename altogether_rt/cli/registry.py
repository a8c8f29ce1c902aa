"""The table of commands: the module of each, and the extra it needs; `examples` has their examples.

It imports nothing else of the package, so that `--help` is quick and a command whose extra is not
installed does not break the others.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["COMMANDS", "EXTRA_OF_PACKAGE", "GROUPS", "PANELS", "CommandSpec", "GroupSpec"]


@dataclass(frozen=True)
class CommandSpec:
    """One command of `altogether-rt`."""

    target: str  # "module:function"; the function's signature is the command's options
    summary: str  # one line, shown by `altogether-rt --help`
    extra: str  # installs what the command needs beyond the base installation


@dataclass(frozen=True)
class GroupSpec:
    """A command with sub-commands, such as `altogether-rt scenes score`."""

    summary: str  # one line, shown by `altogether-rt --help`
    default: str = ""  # the sub-command to use if the first word names none


#: Their sub-commands are in COMMANDS under keys of two words ("scenes score").
GROUPS: dict[str, GroupSpec] = {
    "annotate": GroupSpec("Re-align texts with their images by hand, in rounds."),
    "scenes": GroupSpec("Draw scenes with known facts, and score captions of them.", "draw"),
    "bundle": GroupSpec("Download a bundle by name, or publish one."),
    "compare": GroupSpec(
        "Compare captions side by side: a blind study with human judges.", "start"
    ),
}

#: Headings of `altogether-rt --help`, with the commands and groups below each.
PANELS: dict[str, tuple[str, ...]] = {
    "Caption": ("caption", "caption-shard", "status", "check", "export-captions"),
    "Captioners": ("models", "bundle", "inspect", "prepare", "learn"),
    "This machine": ("doctor", "bench"),
    "Train and export": ("import", "train", "export", "init"),
    "Data and evaluation": ("annotate", "eval", "compare", "mix", "scenes"),
}

COMMANDS: dict[str, CommandSpec] = {
    "caption": CommandSpec(
        "altogether_rt.cli.commands.caption.command:caption_command",
        "Caption a folder of images, or a dataset in shards, using their alt-texts.",
        "cpu",
    ),
    "caption-shard": CommandSpec(
        "altogether_rt.cli.commands.shards.caption_shard:caption_shard_command",
        "Caption one shard, as a scheduler's unit of work.",
        "shards",
    ),
    "status": CommandSpec(
        "altogether_rt.cli.commands.shards.status:status_command",
        "Show the progress of a run over shards.",
        "shards",
    ),
    "bench": CommandSpec(
        "altogether_rt.cli.commands.bench:bench_command",
        "Measure speed and memory, and compare them with the limits of this machine.",
        "cpu",
    ),
    "inspect": CommandSpec(
        "altogether_rt.cli.commands.inspect:inspect_command",
        "Describe a bundle: sizes, precision, parity, origin.",
        "cpu",
    ),
    "models": CommandSpec(
        "altogether_rt.cli.commands.hub.models:models_command",
        "List captioners by name, and what is on this machine.",
        "cpu",
    ),
    "bundle pull": CommandSpec(
        "altogether_rt.cli.commands.hub.bundle:pull_command",
        "Download a captioner by name, and make a bundle of it for this machine.",
        "hub",
    ),
    "bundle push": CommandSpec(
        "altogether_rt.cli.commands.hub.bundle:push_command",
        "Publish a bundle on the hub or in a folder, with a card that describes it.",
        "hub",
    ),
    "prepare": CommandSpec(
        "altogether_rt.cli.commands.prepare:prepare_command",
        "Make a bundle open faster on this machine, and share its weights between workers.",
        "cpu",
    ),
    "check": CommandSpec(
        "altogether_rt.cli.commands.check:check_command",
        "Check captions: words kept from alt-texts, names added, refusals, loops.",
        "cpu",
    ),
    "learn": CommandSpec(
        "altogether_rt.cli.commands.learn:learn_command",
        "Learn from captions which tokens to draft, so that speculation is fast from the start.",
        "cpu",
    ),
    "doctor": CommandSpec(
        "altogether_rt.cli.commands.doctor:doctor_command",
        "Show what this machine can run, and what to install for the rest.",
        "cpu",
    ),
    "export": CommandSpec(
        "altogether_rt.cli.commands.export:export_command",
        "Export a checkpoint as a bundle for a target.",
        "export",
    ),
    "train": CommandSpec(
        "altogether_rt.cli.commands.train:train_command",
        "Train a captioner.",
        "train",
    ),
    "mix": CommandSpec(
        "altogether_rt.cli.commands.mix:mix_command",
        "Mix captions into alt-texts, to train CLIP or an image generator.",
        "cpu",
    ),
    "export-captions": CommandSpec(
        "altogether_rt.cli.commands.shards.export_captions:export_captions_command",
        "Write a sharded run's captions for MetaCLIP, WebDataset or datasets.",
        "parquet",
    ),
    "import": CommandSpec(
        "altogether_rt.cli.commands.import_:import_command",
        "Import published weights, or a bundle, as a checkpoint.",
        "train",
    ),
    "init": CommandSpec(
        "altogether_rt.cli.commands.init:init_command",
        "Create a checkpoint with random weights, to try things out.",
        "train",
    ),
    "eval": CommandSpec(
        "altogether_rt.cli.commands.eval:eval_command",
        "Evaluate captions against references, alt-texts and images.",
        "eval",
    ),
    "annotate start": CommandSpec(
        "altogether_rt.cli.commands.annotate.rounds:start_command",
        "Start: round 1 is the alt-texts; round 2 opens for answers.",
        "cpu",
    ),
    "annotate serve": CommandSpec(
        "altogether_rt.cli.commands.annotate.rounds:serve_command",
        "Serve the page on which one annotator works.",
        "cpu",
    ),
    "annotate next": CommandSpec(
        "altogether_rt.cli.commands.annotate.rounds:next_command",
        "Close the open round, and open the one that starts from its answers.",
        "cpu",
    ),
    "annotate pack": CommandSpec(
        "altogether_rt.cli.commands.annotate.files:pack_command",
        "Pack one annotator's images into one HTML file, to work without Python.",
        "cpu",
    ),
    "annotate import": CommandSpec(
        "altogether_rt.cli.commands.annotate.files:import_command",
        "Import answers from a packed page or from Label Studio.",
        "cpu",
    ),
    "annotate report": CommandSpec(
        "altogether_rt.cli.commands.annotate.files:report_command",
        "Report how much was changed, how carefully, and how well annotators agree.",
        "cpu",
    ),
    "annotate export": CommandSpec(
        "altogether_rt.cli.commands.annotate.files:export_command",
        "Export rows for train, or the open round for Label Studio.",
        "cpu",
    ),
    "scenes draw": CommandSpec(
        "altogether_rt.cli.commands.scenes:scenes_command",
        "Draw scenes with alt-texts, facts and reference captions.",
        "cpu",
    ),
    "scenes score": CommandSpec(
        "altogether_rt.cli.commands.scenes:score_command",
        "Score captions of scenes against the known facts.",
        "cpu",
    ),
    "compare start": CommandSpec(
        "altogether_rt.cli.commands.compare:start_command",
        "Set up a blind study of two or more systems' captions.",
        "cpu",
    ),
    "compare serve": CommandSpec(
        "altogether_rt.cli.commands.compare:serve_command",
        "Serve the page on which one annotator judges.",
        "cpu",
    ),
    "compare report": CommandSpec(
        "altogether_rt.cli.commands.compare:report_command",
        "Report which system wins, how certain that is, and how reliable the annotators are.",
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
