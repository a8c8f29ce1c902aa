"""The same decoder in llama.cpp's 4-bit formats, on the alt-texts of `real_decoder.py`.

    python benchmarks/real_decoder_llama.py --alts alts.jsonl --work /tmp/real

Run `real_decoder.py` with the same --work first: it writes the checkpoint. The package gguf rounds
the weights of the decoder's layers as llama.cpp's files of that type hold them, and the embedding,
which is the head too, to Q8_0; then torch computes in float32. So this is what the weights lose:
llama.cpp also rounds activations to int8, which is not in these figures, and its default file of
type Q4_0 has a coarser head. Writes benchmarks/results/real-decoder-llama.json and .md.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch

sys.path[:0] = [str(Path(__file__).resolve().parent.parent), str(Path(__file__).parent)]

from real_decoder import RESULTS, ROWS, read_prompts, read_with  # noqa: E402

from altogether_rt.artifacts.checkpoint import Checkpoint  # noqa: E402
from altogether_rt.bench.report import describe_machine  # noqa: E402
from altogether_rt.export.samples import Samples  # noqa: E402
from altogether_rt.export.verify import logit_agreement  # noqa: E402
from altogether_rt.runtime.torch.runtime import TorchRuntime  # noqa: E402

#: Bytes of a weight in each type, with its scales.
BYTES = {"Q4_0": 18 / 32}


def rounded(weight: torch.Tensor, kind: str) -> torch.Tensor:
    """A matrix as a file of this type holds it."""
    quant = gguf.GGMLQuantizationType[kind]
    packed = gguf.quants.quantize(weight.numpy().astype(np.float32), quant)
    return torch.from_numpy(gguf.quants.dequantize(packed, quant).reshape(weight.shape))


def logits_with(
    checkpoint: Checkpoint, kind: str | None, samples: Samples, visual: np.ndarray
) -> np.ndarray:
    """Logits of the checkpoint with its decoder's weights in this type; None: as they are."""
    model = checkpoint.captioner()
    if kind is not None:
        with torch.no_grad():
            for name, tensor in model.decoder.named_parameters():
                if tensor.ndim == 2:
                    tensor.copy_(rounded(tensor, kind if name.startswith("layers.") else "Q8_0"))
    with TorchRuntime(model, num_slots=ROWS) as runtime:
        return read_with(runtime, samples, visual)


def document(result: dict[str, Any]) -> str:
    machine = result["machine"]
    lines = [
        "# The same decoder in llama.cpp's formats",
        "",
        f"SmolLM2-135M-Instruct; the {result['tokens']:,} tokens of alt-texts of "
        "[real-decoder.md](real-decoder.md), where ours stand.",
        "",
        f"`{result['command']}`, {machine['date']}; {machine['processor']}; gguf "
        f"{result['gguf']}, torch {machine['versions']['torch']}.",
        "",
        "| weights of the layers | bits a weight | NLL difference | KL | worst KL | same token |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for kind, row in result["types"].items():
        lines.append(
            f"| {kind} | {8 * BYTES[kind]:.1f} | {row['nll_difference']:+.4f} | {row['kl']:.4f} | "
            f"{row['worst_kl']:.3f} | {100 * row['greedy']:.1f} % |"
        )
    lines += [
        "",
        "Computed in float32 by torch, with the embedding in Q8_0: the loss of the weights alone, "
        "without llama.cpp's rounding of activations. Ours has the costliest products in int8, so "
        "it has more bits a weight. The weights in the package are Q4_1 already, so Q4_1 would "
        "lose nothing here; K-quants are not in the package gguf.",
        "",
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--alts", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--tokens", type=int, default=1000)
    arguments = parser.parse_args()
    checkpoint = Checkpoint.load(arguments.work / "captioner")
    samples = read_prompts(checkpoint, arguments.alts, arguments.tokens)
    with TorchRuntime(checkpoint.captioner(), num_slots=ROWS) as reference:
        visual = reference.map(reference.encode(samples.pixels)).repeat(ROWS, axis=0)
    wanted = logits_with(checkpoint, None, samples, visual)
    types = {}
    for kind in BYTES:
        logits = logits_with(checkpoint, kind, samples, visual)
        types[kind] = asdict(logit_agreement(wanted, logits, samples.targets()))
        print(kind, types[kind], flush=True)
    result = {
        "command": f"python benchmarks/real_decoder_llama.py --alts {arguments.alts.name} "
        f"--work WORK --tokens {arguments.tokens}",
        "machine": describe_machine(),
        "gguf": version("gguf"),
        "tokens": int((samples.targets() >= 0).sum()),
        "types": types,
    }
    path = RESULTS / "real-decoder-llama.json"
    path.write_text(json.dumps(result, indent=2) + "\n", "utf-8")
    path.with_suffix(".md").write_text(document(result), "utf-8")


if __name__ == "__main__":
    main()
