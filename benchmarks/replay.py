"""Speed of speculation on real alt-texts and captions, which are replayed.

    python benchmarks/replay.py --bundle starter --pictures
    python benchmarks/replay.py --bundle DIR --seen 1000
    python benchmarks/replay.py --bundle DIR --pairs coco     (captions from $ALTOGETHER_DATA)

Every decoder step is computed with the bundle's weights; then the token of the pair's caption
replaces the model's choice. Draft tokens are therefore accepted as often as in a captioner that
writes these captions, whatever the weights. `scenes`: alt-text and reference caption of scenes;
`coco`: one of an image's five human captions as the alt-text, another as the caption. Speculation
off and auto take turns on the same rows.

`--seen N`: N captions were written before and have taught the planner, as in the middle of a long
job; without it the measurement begins with the first captions of a new one. What the bundle has
learnt (`altogether-rt learn`) is used from the first caption on, unless `--unlearnt` is given.
`--pictures`: scenes are drawn and encoded, so that the picture prior is used; otherwise drafts come
from texts alone. Times are the decoder's, prompts included; `speedup_with_picture` adds the time of
encoder and mapper to both. Writes benchmarks/results/replay-NAME.json.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent))
from forced import ForcedRuntime
from pairs import SEED, SOURCES, token_pairs

from altogether_rt.artifacts.bundle import Bundle
from altogether_rt.bench.report import describe_machine
from altogether_rt.bench.timing import measure, percentile
from altogether_rt.errors import AltogetherError
from altogether_rt.generation.engine import Engine, EngineStats, SequenceRequest
from altogether_rt.preprocess.pixels import Preprocessor
from altogether_rt.runtime.base import Runtime
from altogether_rt.runtime.select import open_runtime
from altogether_rt.scenes.draw import render
from altogether_rt.scenes.text import make_sample
from altogether_rt.speculation.planner import DraftPlanner, Speculation
from altogether_rt.speculation.store import new_planner, teach

RESULTS = Path(__file__).parent / "results"
MODES: tuple[Speculation, ...] = ("off", "auto")


@dataclass(frozen=True)
class Pair:
    """Token ids of an alt-text and of the caption to write, EOS included."""

    alt_ids: tuple[int, ...]
    caption_ids: tuple[int, ...]
    embedding: NDArray[np.float32] | None = None


class Replay:
    """One bundle, and the pairs as its tokens."""

    def __init__(
        self,
        bundle: Bundle,
        texts: Sequence[tuple[str, str]],
        seen: int,
        threads: int,
        pictures: bool = False,
        unlearnt: bool = False,
    ) -> None:
        """texts: pairs, of which the first `seen` only teach. pictures: they are pairs of scenes,
        which are drawn and encoded. unlearnt: ignore what the bundle itself has learnt.
        """
        self._drafting_state_path = None if unlearnt else bundle.drafting_state_path
        config = bundle.config
        pairs = [Pair(alt, caption) for alt, caption in token_pairs(bundle, texts)]
        self._eos_id = config.decoder.eos_id
        self._bundle, self._threads = bundle, threads
        if pictures:
            pairs = self._with_pictures(pairs)
        self._seen, self.pairs = pairs[:seen], pairs[seen:]
        size = config.encoder.image_size
        with self._open(1) as runtime:  # times do not depend on the image
            pixels = np.zeros((1, size, size, 3), np.uint8)
            self._visual_tokens = runtime.map(runtime.encode(pixels))[0]
            timing = measure(lambda: runtime.map(runtime.encode(pixels)), budget_s=1.0)
            self.picture_s = timing.p50_s

    def _with_pictures(self, pairs: Sequence[Pair]) -> list[Pair]:
        preprocessor = Preprocessor(self._bundle.config.encoder)
        with self._open(1) as runtime:
            return [
                replace(
                    pair,
                    embedding=runtime.encode(
                        preprocessor.pixels(render(make_sample(SEED, index, "test").scene))[None]
                    )[0].copy(),
                )
                for index, pair in enumerate(pairs)
            ]

    def _open(self, num_slots: int) -> Runtime:
        return open_runtime(self._bundle, threads=self._threads, num_slots=num_slots)

    def alternated(self, batch: int, rounds: int) -> dict[str, Any]:
        """Seconds of the decoder with `batch` rows at once, off and auto in turn.

        At batch 1 each caption is timed by itself. `auto` keeps what it has learnt from round to
        round, and the first round counts too: the figures include a cold start.
        """
        planners = {"off": DraftPlanner(), "auto": self._taught()}
        stats = {mode: EngineStats() for mode in MODES}
        times: dict[str, list[float]] = {mode: [] for mode in MODES}
        with self._open(batch) as runtime:
            self._write(runtime, self.pairs[:batch], "off", DraftPlanner(), EngineStats())  # warm
            for index in range(rounds):
                # Other captions in every round, as the n-gram cache knows those of the last one.
                part = self.pairs[index::rounds]
                groups = [[pair] for pair in part] if batch == 1 else [part]
                for group in groups:
                    for mode in MODES if index % 2 == 0 else MODES[::-1]:
                        start = time.perf_counter()
                        self._write(runtime, group, mode, planners[mode], stats[mode])
                        times[mode].append(time.perf_counter() - start)
        return {
            mode: {**_figures(times[mode], batch, len(self.pairs)), **_drafts(stats[mode])}
            for mode in MODES
        }

    def _taught(self) -> DraftPlanner:
        """A planner with what the bundle has learnt and what the captions seen before teach."""
        planner = new_planner(self._drafting_state_path, self._bundle.config)
        for pair in self._seen:
            teach(planner, pair.alt_ids, pair.caption_ids, pair.embedding)
        return planner

    def _write(
        self,
        runtime: Runtime,
        pairs: Sequence[Pair],
        mode: Speculation,
        planner: DraftPlanner,
        stats: EngineStats,
    ) -> None:
        forced = ForcedRuntime(runtime)
        work = (
            (
                SequenceRequest(
                    key,
                    self._visual_tokens,
                    pair.alt_ids,
                    len(pair.caption_ids),
                    alt_ids=pair.alt_ids,
                    embedding=pair.embedding,
                ),
                pair.caption_ids,
            )
            for key, pair in enumerate(pairs)
        )
        engine = Engine(forced, self._eos_id, speculation=mode, planner=planner, stats=stats)
        for done in engine.run(forced.announce(work)):
            expected = pairs[done.key].caption_ids[:-1]
            assert done.ids == expected, "the replay left its caption"


def _figures(times_s: Sequence[float], batch: int, captions: int) -> dict[str, Any]:
    if batch == 1:
        return {
            "p50_ms": round(1000 * percentile(times_s, 50), 3),
            "p95_ms": round(1000 * percentile(times_s, 95), 3),
            "captions_per_s": round(captions / sum(times_s), 3),
            "runs": len(times_s),
        }
    rates = [captions / len(times_s) / seconds for seconds in times_s]
    return {
        "captions_per_s": round(median(rates), 3),
        "slowest": round(min(rates), 3),
        "fastest": round(max(rates), 3),
        "runs": len(times_s),
    }


def _drafts(stats: EngineStats) -> dict[str, Any]:
    return {
        "acceptance": None if stats.acceptance is None else round(stats.acceptance, 4),
        "tokens_per_step": round(stats.tokens_per_decode or 1.0, 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--bundle", default="starter")
    parser.add_argument("--pairs", choices=SOURCES, default="scenes")
    parser.add_argument("--name", help="name of the result; default: bundle and pairs")
    parser.add_argument("--num", type=int, default=96, help="number of pairs to measure")
    parser.add_argument("--seen", type=int, default=0, help="number of captions written before")
    parser.add_argument("--pictures", action="store_true", help="draw and encode the scenes")
    parser.add_argument("--unlearnt", action="store_true", help="ignore what the bundle has learnt")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batches", default="1,8,16")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    try:
        bundle = Bundle.load(arguments.bundle)
        texts = SOURCES[arguments.pairs](arguments.seen + arguments.num)
    except AltogetherError as error:
        raise SystemExit(str(error)) from error
    if arguments.pictures and arguments.pairs != "scenes":
        raise SystemExit("--pictures needs --pairs scenes: the other pairs have no images.")
    replay = Replay(
        bundle, texts, arguments.seen, arguments.threads, arguments.pictures, arguments.unlearnt
    )
    result: dict[str, Any] = {
        "command": shlex.join(["python", *sys.argv]),
        "machine": {**describe_machine(), "threads": arguments.threads},
        "bundle": bundle.config.name,
        "bundle_id": bundle.bundle_id,
        "pairs": arguments.pairs,
        "num": len(replay.pairs),
        "seen": arguments.seen,
        "pictures": arguments.pictures,
        "learnt": bundle.drafting_state_path is not None and not arguments.unlearnt,
        "picture_ms": round(1000 * replay.picture_s, 3),
        "mean_alt_tokens": round(float(np.mean([len(p.alt_ids) for p in replay.pairs])), 1),
        "mean_caption_tokens": round(float(np.mean([len(p.caption_ids) for p in replay.pairs])), 1),
        "decoder": {},
    }
    for batch in (int(part) for part in arguments.batches.split(",")):
        figures = replay.alternated(batch, arguments.rounds)
        off, auto = (figures[mode]["captions_per_s"] for mode in MODES)
        figures["speedup"] = round(auto / off, 3)
        if batch == 1:
            figures["speedup_p50"] = round(figures["off"]["p50_ms"] / figures["auto"]["p50_ms"], 3)
        figures["speedup_with_picture"] = round(
            (1 / off + replay.picture_s) / (1 / auto + replay.picture_s), 3
        )
        result["decoder"][f"batch {batch}"] = figures
        print(f"batch {batch}: {json.dumps(figures)}", file=sys.stderr, flush=True)
    name = arguments.name or f"{bundle.config.name}-{arguments.pairs}"
    out = RESULTS / f"replay-{name}.json"
    out.write_text(json.dumps(result, indent=1) + "\n", "utf-8")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
