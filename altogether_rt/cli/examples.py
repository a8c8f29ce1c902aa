"""Examples of every command, shown under its own --help; that of a group shows the first of each.

The keys are those of `registry.COMMANDS`. It is imported only for a command or a group.
"""

from __future__ import annotations

__all__ = ["EXAMPLES"]

EXAMPLES: dict[str, tuple[str, ...]] = {
    "caption": (
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
        "altogether-rt caption photos/ --bundle my-checkpoint --device cuda --kv-cache int8",
        "altogether-rt caption photos/ --style alt --checks --sheet captions.html",
    ),
    "caption-shard": (
        "altogether-rt caption-shard shards/00003.tar captions/",
        "altogether-rt caption-shard 's3://bucket/{00000..00999}.tar' s3://bucket/captions "
        "--index $SLURM_ARRAY_TASK_ID",
    ),
    "status": (
        "altogether-rt status captions/",
        "altogether-rt status s3://bucket/captions --json",
    ),
    "bench": (
        "altogether-rt bench",
        "altogether-rt bench --bundle my-bundle --batch-sizes 1,8,32 --out bench.json",
        "altogether-rt bench --bundle my-bundle --plan 400M --price-per-hour 0.08",
    ),
    "inspect": ("altogether-rt inspect my-bundle", "altogether-rt inspect starter --json"),
    "models": (
        "altogether-rt models",
        "altogether-rt models --json",
        "altogether-rt models --remove smolvlm-500m",
    ),
    "bundle pull": (
        "altogether-rt bundle pull smolvlm-500m",
        "altogether-rt bundle pull someone/their-captioner --out their-captioner",
    ),
    "bundle push": (
        "altogether-rt bundle push my-bundle --hub someone/my-captioner --licence apache-2.0",
        "altogether-rt bundle push my-bundle --out /shared/my-captioner",
    ),
    "prepare": ("altogether-rt prepare my-bundle", "altogether-rt prepare my-bundle --remove"),
    "check": (
        "altogether-rt check captions.jsonl",
        "altogether-rt check captions.jsonl --out checked.jsonl",
    ),
    "learn": (
        "altogether-rt learn captions.jsonl --bundle my-bundle",
        "altogether-rt learn captions.jsonl --bundle my-bundle --embeddings emb.npy",
    ),
    "doctor": ("altogether-rt doctor", "altogether-rt doctor --json"),
    "export": (
        "altogether-rt export --ckpt my-checkpoint",
        "altogether-rt export --ckpt my-checkpoint --target cpu-fp32 --out my-bundle",
        "altogether-rt export --ckpt starter --target cpu-fp32",
        "altogether-rt export --ckpt smolvlm-500m --target cuda-fp16",
        "altogether-rt export --ckpt my-checkpoint --target tensorrt-fp16 --sm 80,89,120",
        "altogether-rt export --list-targets",
    ),
    "train": (
        "altogether-rt train --recipe starter --out runs/starter",
        "altogether-rt train --recipe starter --out runs/starter --resume",
        "altogether-rt train --recipe finetune --init my-captioner --data photos/train.jsonl "
        "--out tuned",
        "altogether-rt train --recipe finetune --init my-captioner --data photos/train.jsonl "
        "--out tuned --lora 16 --precision bf16 --device cuda",
        "altogether-rt train --recipe finetune --init my-captioner --data annotations.json "
        "--images images/ --skip-bad --out tuned",
    ),
    "mix": (
        "altogether-rt mix captions.jsonl --ratio 0.15 --seed 0 --epochs 8",
        "altogether-rt mix captions.jsonl --format open-clip --images photos --out train.tsv",
        "altogether-rt mix captions.jsonl --format imagefolder --only-captions "
        "--out photos/metadata.jsonl",
        "altogether-rt mix captions/ --format metaclip --ratio 1 --out plain/",
    ),
    "export-captions": (
        "altogether-rt export-captions run/ tars/ --format webdataset --shards s3://bucket/in",
        "altogether-rt export-captions run/ tars/ --format webdataset --shards in/ --into txt "
        "--ratio 0.15",
        "altogether-rt export-captions run/ metaclip/ --format metaclip",
        "altogether-rt export-captions s3://bucket/run s3://bucket/data --format parquet",
        "altogether-rt export-captions run/ captions.jsonl --format jsonl",
    ),
    "import": (
        "altogether-rt import coco_weights.pt --out clipcap",
        "altogether-rt import smolvlm-500m --out smolvlm",
        "altogether-rt import starter --out starter",
    ),
    "init": ("altogether-rt init --config altogether-opt-125m --random-weights --out random-125m",),
    "eval": (
        "altogether-rt eval captions.jsonl references.jsonl",
        "altogether-rt eval captions.jsonl coco.json --against other.jsonl --html report.html",
        "altogether-rt eval captions.jsonl references.jsonl --scores scores.jsonl",
        "altogether-rt eval made.jsonl --images made/ --clip ViT-B-32 --clip-weights openai",
    ),
    "annotate start": (
        "altogether-rt annotate start photos/ --alt alts.jsonl --out work",
        "altogether-rt annotate start photos/ --alt alts.jsonl --out work "
        "--annotators anna,ben --overlap 0.1 --gold scenes/",
        "altogether-rt annotate start photos/ --from captions.jsonl --out work",
    ),
    "annotate serve": (
        "altogether-rt annotate serve work --as anna",
        "altogether-rt annotate serve work --as anna --instead-of ben --port 8000",
    ),
    "annotate next": (
        "altogether-rt annotate next work",
        "altogether-rt annotate next work --partial",
    ),
    "annotate pack": ("altogether-rt annotate pack work --as ben --out ben.html",),
    "annotate import": (
        "altogether-rt annotate import work answers-ben-round2.jsonl",
        "altogether-rt annotate import work label-studio.json --as ben",
    ),
    "annotate report": (
        "altogether-rt annotate report work",
        "altogether-rt annotate report work --json",
    ),
    "annotate export": (
        "altogether-rt annotate export work --out train.jsonl",
        "altogether-rt annotate export work --format label-studio --out tasks.json",
    ),
    "scenes draw": (
        "altogether-rt scenes draw examples --num 24 --seed 7",
        "altogether-rt scenes examples --num 24 --seed 7",
    ),
    "scenes score": ("altogether-rt scenes score captions.jsonl examples/references.jsonl",),
    "compare start": (
        "altogether-rt compare start A.jsonl B.jsonl --images photos/ --out sxs/",
        "altogether-rt compare A.jsonl B.jsonl --images photos/ --out sxs/",
        "altogether-rt compare start A.jsonl B.jsonl C.jsonl --images photos/ --out sxs/ "
        "--limit 400 --annotators ann,ben --overlap 0.25",
    ),
    "compare serve": ("altogether-rt compare serve sxs/ --as ann",),
    "compare report": (
        "altogether-rt compare report sxs/ --plot sxs.svg",
        "altogether-rt compare report sxs/ --judgments judgments.jsonl",
        "altogether-rt compare report sxs/ --json",
    ),
}
