"""datatrove with a task a shard: a step of its own reads and captions a tar, as in `naive`.

python -m benchmarks.shards.datatrove_shards IN OUT [--workers N]
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from datatrove.data import Document
from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.base import PipelineStep
from datatrove.pipeline.writers import ParquetWriter

from benchmarks.shards.naive import decoded_captions

__all__ = ["main"]


class ReadAndCaption(PipelineStep):
    """Yields a document a sample, its text the caption."""

    name = "captions"

    def __init__(self, inputs: Path) -> None:
        super().__init__()
        self._inputs = inputs

    def run(self, data: Any, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        """The samples of every `world_size`-th tar."""
        for path in sorted(self._inputs.glob("*.tar"))[rank::world_size]:
            for row in decoded_captions(path):
                yield Document(text=row["caption"], id=row["key"], metadata={"alt": row["alt"]})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("inputs", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--workers", type=int, default=1)
    given = parser.parse_args()
    LocalPipelineExecutor(
        pipeline=[ReadAndCaption(given.inputs), ParquetWriter(str(given.out))],
        tasks=len(list(given.inputs.glob("*.tar"))),
        workers=given.workers,
        logging_dir=str(given.out / "logs"),
    ).run()


if __name__ == "__main__":
    main()
