"""Annotators for tests: they talk to the page's server over HTTP, as the page does."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from altogether_rt.annotation.session import Session
from altogether_rt.annotation.start import Start, Started, plan_start, start_work
from altogether_rt.annotation.work import Work
from altogether_rt.scenes.dataset import read_references
from altogether_rt.web.server import LoopbackServer

__all__ = ["Person", "answer_all", "begin", "serving", "truth"]

_open = urllib.request.build_opener(urllib.request.ProxyHandler({})).open


class Person:
    """Somebody at the page whose address is `url`."""

    def __init__(self, url: str) -> None:
        self.url = url

    def get(self, name: str) -> Any:
        with _open(self.url + name, timeout=20) as answer:
            return json.load(answer)

    def post(self, name: str, value: Any) -> tuple[int, Any]:
        """Status and JSON."""
        data, headers = json.dumps(value).encode(), {"Content-Type": "application/json"}
        try:
            with _open(
                urllib.request.Request(self.url + name, data, headers), timeout=20
            ) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)

    def save(self, index: int, text: str, *flags: str, seconds: float = 9.0) -> tuple[int, Any]:
        start = self.get(f"task/{index}")["from"]
        said = {"task": index, "text": text, "flags": list(flags), "seconds": seconds}
        return self.post("answer", said | {"from": start})

    def save_all(self, write: Callable[[dict[str, Any]], str]) -> int:
        """Answers every image with what `write` makes of its task; returns how many."""
        num = len(self.get("state")["statuses"])
        for index in range(num):
            status, said = self.save(index, write(self.get(f"task/{index}")))
            assert status == 200, said
        return num


def begin(images: Path, out: Path, **options: Any) -> tuple[Work, Started]:
    """A work folder; alts.jsonl of the folder unless told otherwise."""
    start = Start(images, out, **{"alts": Path("alts.jsonl"), **options})
    started = start_work(start, plan_start(start), lambda: None)
    return Work(out), started


@contextmanager
def serving(work: Work, name: str, instead_of: tuple[str, ...] = ()) -> Iterator[Person]:
    with Session(work, name, instead_of) as session, LoopbackServer(session.site()) as server:
        server.start()
        yield Person(server.url)
        server.shutdown()


def answer_all(work: Work, name: str, write: Callable[[dict[str, Any]], str]) -> int:
    with serving(work, name) as person:
        return person.save_all(write)


def truth(images: Path, round_number: int) -> Callable[[dict[str, Any]], str]:
    """What a perfect annotator of scenes writes in a round."""
    references = read_references(images / "references.jsonl")

    def write(task: dict[str, Any]) -> str:
        rounds = references[task["file_name"]]["rounds"]
        return str(rounds[min(round_number, len(rounds)) - 1])

    return write
