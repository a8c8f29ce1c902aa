"""llama.cpp's server in this process, asked about an image.

    python -m vlm.llama_cpp FOLDER QUESTION TOKENS THREADS         (started by vlm/agreement.py)

Prints the tokens that it writes after the image, greedily, and the first one's log-probabilities.
"""

from __future__ import annotations

import base64
import json
import os
import pickle
import sys
import urllib.request
from pathlib import Path
from typing import Any

__all__ = ["Server"]

#: Stands for an image in a prompt.
_MARKER = "<__media__>"
_SLOTS, _SLOT_TOKENS = 8, 1024
_PROBABILITIES = 10


class Server:
    """The model of a folder of `gguf_files.py`."""

    def __init__(self, folder: Path, threads: int) -> None:
        os.environ["LLAMA_MEDIA_MARKER"] = _MARKER  # otherwise it is drawn
        import xllamacpp

        params = xllamacpp.CommonParams()
        params.model.path = str(folder.parent / "decoder.gguf")
        params.mmproj.path = str(folder / "mmproj.gguf")
        params.n_parallel, params.n_ctx = _SLOTS, _SLOTS * _SLOT_TOKENS
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
        params.fit_params = False  # take what it is given
        params.verbosity = 0
        self.version: str = xllamacpp.__version__
        self._server = xllamacpp.Server(params)

    def complete(
        self, around: tuple[str, str], pixels: Any, tokens: int, **options: Any
    ) -> dict[str, Any]:
        """Write `tokens` tokens after an image (H, W, 3) between two pieces of text."""
        height, width, _ = pixels.shape
        picture = b"P6\n%d %d\n255\n" % (width, height) + pixels.tobytes()  # decoded in no time
        body = {
            "prompt": {
                "prompt_string": f"{around[0]}{_MARKER}{around[1]}",
                "multimodal_data": [base64.b64encode(picture).decode()],
            },
            "n_predict": tokens,
            "ignore_eos": True,
            "temperature": 0.0,
            "cache_prompt": False,
            **options,
        }
        request = urllib.request.Request(
            f"{self._server.listening_address}/completion",
            json.dumps(body).encode(),
            {"Content-Type": "application/json"},  # of another type, only short ones are read
        )
        with urllib.request.urlopen(request) as reply:
            found: dict[str, Any] = json.load(reply)
        return found


def main() -> None:
    folder, question_path, tokens, threads = sys.argv[1:]
    question = pickle.loads(Path(question_path).read_bytes())
    server = Server(Path(folder), int(threads))
    found = server.complete(
        question["around"],
        question["pixels"],
        int(tokens),
        return_tokens=True,
        n_probs=_PROBABILITIES,
    )
    first = found["completion_probabilities"][0]["top_logprobs"]
    answer = {
        "prompt": found["prompt"],
        "prompt_tokens": found["tokens_evaluated"],
        "tokens": found["tokens"],
        "first": {one["id"]: one["logprob"] for one in first},
        "version": server.version,
    }
    print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
