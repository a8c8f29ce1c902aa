"""Compares the starter with and without alt-texts side by side, judged by the scenes' facts.

    python benchmarks/side_by_side.py

Two annotators of a program answer every question over HTTP, as the page does: they know what each
scene shows, and answer one question in ten by a draw. So this shows what a study looks like and
that its commands work together, not what people prefer. Writes
benchmarks/results/side-by-side-scenes.json and .svg, and prints the report.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import shlex
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from altogether_rt.bench.report import describe_machine
from altogether_rt.scenes.dataset import read_references
from altogether_rt.scenes.score import Scores

RESULTS = Path(__file__).parent / "results" / "side-by-side-scenes.json"

ANNOTATORS = ("ann", "ben")
CARELESS = 0.1  # share of the questions answered by a draw


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "altogether_rt.cli.main", *map(str, arguments)]


def run(*arguments: object) -> str:
    """What the command prints; its notes go to the terminal."""
    done = subprocess.run(command(*arguments), check=True, stdout=subprocess.PIPE, text=True)
    return done.stdout


def merits(caption: str, reference: Mapping[str, Any]) -> dict[str, float]:
    """How well a caption does, by question."""
    scores = Scores()
    scores.add(caption, reference)
    names = scores.names_kept
    return {
        "alignment": scores.visual - scores.with_invention,
        "named-entities": names,
        "alt-text": names,  # what else an alt-text says right, the image shows
    }


def judge(task: Mapping[str, Any], reference: Mapping[str, Any], rng: random.Random) -> Any:
    """The choices of an annotator who knows the facts, most of the time."""
    left, right = merits(task["left"], reference), merits(task["right"], reference)
    choices = {}
    for question in task["questions"]:
        difference = left[question] - right[question]
        choice = "left" if difference > 0 else "right" if difference < 0 else "tie"
        drawn = rng.choice(["left", "tie", "right"])
        choices[question] = drawn if rng.random() < CARELESS else choice
    return choices


class Page:
    """An annotator's page, as it is served."""

    def __init__(self, study: Path, annotator: str) -> None:
        self._server = subprocess.Popen(
            command("compare", "serve", study, "--as", annotator, "-q"),
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._server.stdout is not None
        self._url = self._server.stdout.readline().strip()
        self._open = urllib.request.build_opener(urllib.request.ProxyHandler({})).open

    def get(self, name: str) -> bytes:
        with self._open(self._url + name) as answer:
            return bytes(answer.read())

    def post(self, name: str, value: Any) -> None:
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(self._url + name, json.dumps(value).encode(), headers)
        with self._open(request):
            pass

    def close(self) -> None:
        self._server.terminate()
        self._server.wait()


def answer_all(page: Page, references: Mapping[str, Mapping[str, Any]], seed: int) -> None:
    """Answers every pair. `references` are by the SHA-256 of their images: the page sends no
    file name."""
    rng = random.Random(seed)
    for entry in json.loads(page.get("state"))["tasks"]:
        begin = time.monotonic()
        task = json.loads(page.get(f"task/{entry['id']}"))
        image = hashlib.sha256(page.get(f"image/{entry['id']}")).hexdigest()
        choices = judge(task, references[image], rng)
        seconds = time.monotonic() - begin
        page.post("answer", {"task": task["id"], "choices": choices, "seconds": seconds})


def study(folder: Path, num: int, seed: int, plot: Path) -> tuple[str, dict[str, Any]]:
    """The whole study in `folder`: the report as it is shown, and as data."""
    scenes, sxs = folder / "scenes", folder / "sxs"
    run("scenes", scenes, "--num", num, "--seed", seed, "-q")
    files = [folder / "with-alt.jsonl", folder / "without-alt.jsonl"]
    run("caption", scenes, "--alt", "alts.jsonl", "--out", files[0], "-q")
    run("caption", scenes, "--out", files[1], "-q")
    options = ["--images", scenes, "--out", sxs, "--seed", seed]
    options += ["--annotators", ",".join(ANNOTATORS)]
    print(run("compare", *files, *options), end="")
    references = {
        hashlib.sha256((scenes / name).read_bytes()).hexdigest(): row
        for name, row in read_references(scenes / "references.jsonl").items()
    }
    for index, annotator in enumerate(ANNOTATORS):
        page = Page(sxs, annotator)
        try:
            answer_all(page, references, seed + index)
        finally:
            page.close()
    shown = run("compare", "report", sxs, "--plot", plot)
    data: dict[str, Any] = json.loads(run("compare", "report", sxs, "--json"))
    for system in data["systems"]:
        system["file"] = Path(system["file"]).name  # the folder is gone by then
    return shown, data


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--num", type=int, default=400)
    parser.add_argument("--seed", type=int, default=2026)
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        plot = arguments.out.with_suffix(".svg")
        shown, data = study(Path(folder), arguments.num, arguments.seed, plot)
    result = {
        "command": shlex.join(["python", *sys.argv]),
        "machine": describe_machine(),
        "scenes": {"num": arguments.num, "seed": arguments.seed, "split": "test"},
        "annotators": f"programs that know the facts; {CARELESS:.0%} of the answers are drawn",
        "report": data,
    }
    arguments.out.write_text(json.dumps(result, indent=2, ensure_ascii=False) + "\n", "utf-8")
    print(shown, end="")


if __name__ == "__main__":
    main()
