"""How long a check takes: python -m tests.wording.speed CAPTIONS.json [ROUNDS]

CAPTIONS.json: COCO's captions. One of an image is the alt-text, two others together the caption.
"""

from __future__ import annotations

import json
import sys
import time
from collections import defaultdict
from pathlib import Path

from altogether_rt.importing.vision_language import CAPTION_INSTRUCTION
from altogether_rt.wording.checks import CaptionChecker


def main(path: Path, rounds: int) -> None:
    texts: dict[int, list[str]] = defaultdict(list)
    for annotation in json.loads(path.read_text("utf-8"))["annotations"]:
        texts[annotation["image_id"]].append(annotation["caption"])
    pairs = [(" ".join(some[2:4]), [" ".join(some[:1])]) for some in texts.values()]
    num_words = sum(len(caption.split()) for caption, _ in pairs) / len(pairs)
    checker = CaptionChecker(vars(CAPTION_INSTRUCTION).values())
    best = float("inf")
    for _ in range(rounds):
        start = time.process_time()
        for caption, alts in pairs:
            checker.check(caption, alts)
        best = min(best, time.process_time() - start)
    print(f"{1e6 * best / len(pairs):.1f} µs of CPU time a caption of {num_words:.0f} words")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 5)
