"""One piece of software in a process of its own: a line with a batch size in, seconds out.

    python -m vlm.contestant KIND FOLDER QUESTION TOKENS THREADS        (started by vlm_peers.py)

QUESTION is a pickle of `pixels` (H, W, 3), `ids` (a whole prompt, with a token for each visual
token; after the visual tokens alone for a captioner without them), `around` (the prompt's words
before and after the image) and `alt`. Only what every environment has is imported at the top.
"""

from __future__ import annotations

import json
import pickle
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

__all__: list[str] = []

#: From pixels (N, H, W, 3) to the number of tokens that were written.
Turn = Callable[[Any], int]


def ours(folder: Path, question: dict[str, Any], tokens: int, threads: int) -> Turn:
    from altogether_rt.captioner import Captioner
    from altogether_rt.captions import CaptionRequest

    captioner = Captioner.load(folder, threads=threads, num_slots=8, speculation="off")
    # A loop, which random weights like to write, must not end a caption before the others end.
    params = captioner.params(max_new_tokens=tokens, temperature=0.0, loop_repeats=0)

    def turn(pixels: Any) -> int:
        requests = [CaptionRequest(image, (question["alt"],)) for image in pixels]
        return sum(caption.tokens for caption in captioner.stream(requests, params))

    return turn


def transformers(
    folder: Path, question: dict[str, Any], tokens: int, threads: int, dtype: str = "float32"
) -> Turn:
    import torch

    from altogether_rt.model._torchvision import make_torchvision_importable

    torch.set_num_threads(threads)
    make_torchvision_importable()
    about = json.loads((folder / "config.json").read_text("utf-8"))
    if about["model_type"] == "prefix_conditioning_vlm":
        from vlm.reference import DistilVit

        reference = DistilVit(folder)
        reference.merge()
        for part in (reference.tower, reference.projection, reference.language):
            part.to(getattr(torch, dtype))

        @torch.no_grad()
        def prefix_turn(pixels: Any) -> int:
            embedded = reference.stages(_normalised(pixels, dtype))[1]
            found = reference.language.generate(
                inputs_embeds=embedded,
                attention_mask=torch.ones(embedded.shape[:2], dtype=torch.int64),
                max_new_tokens=tokens,
                min_new_tokens=tokens,
                do_sample=False,
            )
            return int(found.numel())

        return prefix_turn
    from transformers import AutoModelForImageTextToText

    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=getattr(torch, dtype))
    return _generating(model.eval(), question, tokens, dtype)


def bfloat16(folder: Path, question: dict[str, Any], tokens: int, threads: int) -> Turn:
    return transformers(folder, question, tokens, threads, "bfloat16")


def openvino(folder: Path, question: dict[str, Any], tokens: int, threads: int) -> Turn:
    from altogether_rt.model._torchvision import make_torchvision_importable

    make_torchvision_importable()
    from optimum.intel import OVModelForVisualCausalLM

    settings = {"INFERENCE_NUM_THREADS": str(threads), "PERFORMANCE_HINT": "LATENCY"}
    model = OVModelForVisualCausalLM.from_pretrained(folder, ov_config=settings)
    return _generating(model, question, tokens, "float32")


def llama_cpp(folder: Path, question: dict[str, Any], tokens: int, threads: int) -> Turn:
    from concurrent.futures import ThreadPoolExecutor

    from vlm.llama_cpp import Server

    server = Server(folder, threads)

    def one(image: Any) -> int:
        return int(server.complete(question["around"], image, tokens)["tokens_predicted"])

    def turn(pixels: Any) -> int:
        with ThreadPoolExecutor(len(pixels)) as pool:
            return sum(pool.map(one, pixels))

    return turn


def _normalised(pixels: Any, dtype: str) -> Any:
    import torch

    image = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
    return ((image - 0.5) / 0.5).to(getattr(torch, dtype))


def _generating(model: Any, question: dict[str, Any], tokens: int, dtype: str) -> Turn:
    import torch

    @torch.no_grad()
    def turn(pixels: Any) -> int:
        ids = torch.tensor([question["ids"]] * len(pixels))
        image = _normalised(pixels, dtype)[:, None]  # a tile an image
        found = model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            pixel_values=image,
            pixel_attention_mask=torch.ones(*image.shape[:2], *image.shape[-2:], dtype=torch.int64),
            max_new_tokens=tokens,
            min_new_tokens=tokens,
            do_sample=False,
        )
        return int(found.numel() - ids.numel())

    return turn


def main() -> None:
    kind, folder, question_path, tokens, threads = sys.argv[1:]
    question = pickle.loads(Path(question_path).read_bytes())
    kinds = {one.__name__: one for one in (ours, transformers, bfloat16, openvino, llama_cpp)}
    turn = kinds[kind](Path(folder), question, int(tokens), int(threads))
    rng = np.random.default_rng(0)
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        noise = rng.integers(0, 2, (int(line), *question["pixels"].shape), np.uint8)
        pixels = question["pixels"] ^ noise  # no image comes twice
        start = time.perf_counter()
        written = turn(pixels)
        seconds = time.perf_counter() - start
        print(json.dumps({"seconds": seconds, "tokens": written}), flush=True)


if __name__ == "__main__":
    main()
