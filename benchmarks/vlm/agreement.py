"""Whether llama.cpp runs the same model: its float16 answer beside transformers' in float32.

python -m vlm.agreement ENVIRONMENT WORK/smolvlm-256m smolvlm-256m      (started by vlm_peers.py)
"""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer

from vlm.preparation import llama_cpp_folder, write_question
from vlm.reference import open_reference
from vlm.structures import STRUCTURES, Structure

__all__: list[str] = []

_ROOT = Path(__file__).resolve().parents[2]
_TOKENS = 16


def agreement(environment: Path, work: Path, structure: Structure) -> dict[str, Any]:
    """Equal greedy tokens, and the largest difference of the first token's log-probabilities."""
    folder = llama_cpp_folder(environment, work, "F16")
    assert folder is not None
    question = write_question(work)
    command = [environment / "bin" / "python", "-m", "vlm.llama_cpp", folder / "2", question]
    variables = {**os.environ, "PYTHONPATH": str(_ROOT / "benchmarks")}
    run = subprocess.run(
        [*map(str, command), str(_TOKENS), str(os.cpu_count())],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        env=variables,
    )
    found = json.loads(next(line for line in run.stdout.splitlines() if line.startswith("{")))
    reference = open_reference(structure, work / "published")
    asked = pickle.loads(question.read_bytes())
    tokenizer = Tokenizer.from_file(str(work / "published" / "tokenizer.json"))
    image = "<image>" * asked["ids"].count(structure.config["image_token_id"])
    # Two tiles: of this square image, the first and the whole are the same pixels.
    prompt = (
        f"{asked['around'][0]}<fake_token_around_image><row_1_col_1>{image}"
        f"\n\n<fake_token_around_image><global-img>{image}<fake_token_around_image>"
        f"{asked['around'][1]}"
    )
    ids = tokenizer.encode(prompt, add_special_tokens=False).ids
    pixels = torch.from_numpy(asked["pixels"][None].repeat(2, 0)).permute(0, 3, 1, 2).float()
    normalised = (pixels / 255 - 0.5) / 0.5
    with torch.no_grad():
        first = reference.logits(normalised, ids)[-1].log_softmax(-1)
        written = reference.write(normalised, ids, _TOKENS)
    pairs = [(first[int(token)].item(), value) for token, value in found["first"].items()]
    return {
        "prompt_tokens": [found["prompt_tokens"], len(ids)],
        "tokens_equal": sum(a == b for a, b in zip(found["tokens"], written, strict=False)),
        "tokens": _TOKENS,
        "first_logprob_difference": max(abs(a - b) for a, b in pairs),
        "version": found["version"],
    }


if __name__ == "__main__":
    environment, work, name = sys.argv[1:]
    print(json.dumps(agreement(Path(environment), Path(work), STRUCTURES[name])), flush=True)
