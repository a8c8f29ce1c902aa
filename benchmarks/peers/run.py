"""Our captioner beside its peers: the same weights, images, alt-texts and caption lengths.

    python benchmarks/peers/run.py --size small --work DIR
    python benchmarks/peers/run.py --size published --work DIR --pairs scenes

Makes an environment for each contestant and converts one random checkpoint for each (both kept in
DIR), then measures them in turns, one process at a time, until all are measured `--rounds` times or
the budget is spent. Writes benchmarks/results/peers-SIZE.json, .md and .svg. Needs Python 3.11 and
nothing installed; README.md here says how to read the figures.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

BENCHMARKS = Path(__file__).resolve().parent.parent
sys.path[0:1] = [str(BENCHMARKS), str(BENCHMARKS.parent)]  # benchmarks/ and the package

from harness.contestant import Contestant, choose  # noqa: E402
from harness.protocol import WorkerError  # noqa: E402

from peers.contestants import CONTESTANTS, PAIRS  # noqa: E402
from peers.preparation import CONFIGS  # noqa: E402
from peers.suite import PeerSuite  # noqa: E402

RESULTS = BENCHMARKS / "results"


def _numbers(text: str) -> list[int]:
    return sorted({int(part) for part in text.split(",") if part})


def parse_arguments(given: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", choices=CONFIGS, required=True)
    parser.add_argument("--work", type=Path, required=True, help="environments and files are kept")
    names = ",".join(contestant.name for contestant in CONTESTANTS)
    parser.add_argument("--only", "--contestants", metavar="A,B", help=f"some of {names}")
    parser.add_argument(
        "--pairs", choices=PAIRS, help="real alt-texts and captions instead of lengths alone"
    )
    parser.add_argument("--images", type=int, help="rows of a measurement (16; published: 8)")
    parser.add_argument("--single-images", type=int, help="rows one by one (8; published: 4)")
    parser.add_argument("--batches", type=_numbers, default=[1, 8, 16, 32], metavar="1,8,16,32")
    parser.add_argument("--growth", type=_numbers, default=[64, 256], metavar="64,256")
    parser.add_argument("--largest-first", action="store_true", help="the largest batches first")
    parser.add_argument("--rounds", type=int, default=3, help="maximum turns of each contestant")
    budget = parser.add_mutually_exclusive_group()
    budget.add_argument("--seconds", type=float, default=1800.0, help="for measuring alone")
    budget.add_argument("--budget-min", type=float, help="the same in minutes")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--prepare-only", action="store_true", help="make environments and files, measure nothing"
    )
    parser.add_argument("--out", type=Path, help="default: benchmarks/results/peers-SIZE.json")
    arguments = parser.parse_args(given)
    if arguments.budget_min is not None:
        arguments.seconds = 60 * arguments.budget_min
    small = arguments.size == "small"
    arguments.images = arguments.images or (16 if small else 8)
    arguments.single_images = arguments.single_images or (8 if small else 4)
    name = "-".join(filter(None, ("peers", arguments.size, arguments.pairs)))
    arguments.out = arguments.out or RESULTS / f"{name}.json"
    return arguments


def chosen(names: str | None, pairs: str | None) -> list[Contestant]:
    """Those of `names`, or all; some can take part only where there are real pairs."""
    return choose({c.name: c for c in CONTESTANTS if pairs or not c.needs_pairs}, names)


def main() -> None:
    arguments = parse_arguments()
    suite = PeerSuite(arguments, chosen(arguments.only, arguments.pairs))
    try:
        suite.prepare()
    except WorkerError as error:
        raise SystemExit(f"the reference tokens could not be made: {error}.") from error
    if arguments.prepare_only:
        return
    suite.measure()
    print(suite.write())


if __name__ == "__main__":
    main()
