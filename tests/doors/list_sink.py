"""A stand-in sink: captions in memory, complete only once it is finished."""

from __future__ import annotations

from altogether_rt.captions import Answer, Caption
from altogether_rt.data.alts import Alts
from altogether_rt.data.sinks.base import Sink


class ListSink(Sink):
    def __init__(self) -> None:
        self.rows: list[tuple[str, str]] = []
        self.output: list[tuple[str, str]] | None = None

    def write(self, key: str, alts: Alts, answer: Answer) -> None:
        self.rows.append((key, answer.text if isinstance(answer, Caption) else str(answer)))

    def finish(self) -> None:
        self.output = self.rows
