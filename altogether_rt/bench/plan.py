"""What a dataset takes: hours, machines, cost and bytes, from what was measured on this machine."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any, Final

from altogether_rt.bench.reading import JPEG_SIZE
from altogether_rt.bench.report import BenchReport
from altogether_rt.errors import AltogetherError

__all__ = ["PLAN_COLUMNS", "RunPlan", "parse_count", "plan_run"]

#: A row of a shard's Parquet file: 19 bytes, and 0.35 of each character of alt-text and caption.
#: Fitted to 8,000 rows of COCO's captions of one, two and four sentences, with Zstandard
#: (pyarrow 26.0.1, 2026-11-26): 55.8, 74.4 and 111.7 bytes for 105, 158 and 264 characters.
_ROW_BYTES: Final = 19
_BYTES_PER_CHAR: Final = 0.35
_CHARS_PER_TOKEN: Final = 4.5
_ALT_CHARS: Final = 60

_UNITS: Final = {"": 1, "k": 10**3, "m": 10**6, "b": 10**9}
_COUNT: Final = re.compile(r"(\d{1,15}(?:\.\d{1,9})?) ?([kmb]?)", re.IGNORECASE)

#: Days in which the images are to be captioned, one row of the table each.
_DEADLINES: Final = (1, 7, 30)
PLAN_COLUMNS = ("done in", "machines", "cores or GPUs", "cost")


def parse_count(text: str) -> int:
    """`400M`, `1.5B`, `250k` or `250,000` as a number. Raises AltogetherError for anything else."""
    found = _COUNT.fullmatch(text.replace(",", "").replace("_", "").strip())
    count = round(float(found[1]) * _UNITS[found[2].lower()]) if found else 0
    if count < 1:
        raise AltogetherError(f"--plan is {text!r}: give a number of images such as 400M.")
    return count


@dataclass(frozen=True)
class RunPlan:
    """A dataset on machines like this one."""

    num_images: int
    seconds_per_image: float  # of the machine, all that it has at work
    units: int  # cores of the machine, or its GPUs
    unit: str  # "cores" or "GPUs"
    tokens_per_caption: float
    shard_size: int
    price_per_hour: float | None = None  # of the machine

    @property
    def machine_hours(self) -> float:
        return self.num_images * self.seconds_per_image / 3600

    @property
    def cost(self) -> float | None:
        return None if self.price_per_hour is None else self.machine_hours * self.price_per_hour

    @property
    def num_shards(self) -> int:
        return math.ceil(self.num_images / self.shard_size)

    @property
    def row_bytes(self) -> float:
        """Bytes of a row in a shard's Parquet file."""
        chars = _ALT_CHARS + _CHARS_PER_TOKEN * self.tokens_per_caption
        return _ROW_BYTES + _BYTES_PER_CHAR * chars

    @property
    def output_bytes(self) -> float:
        return self.num_images * self.row_bytes

    def machines(self, days: float) -> int:
        """Machines that are done within so many days; a shard is not divided among them."""
        return min(self.num_shards, math.ceil(self.machine_hours / (24 * days)))

    def rows(self) -> list[list[str]]:
        """The table, under PLAN_COLUMNS."""
        cost = "–" if self.cost is None else f"{self.cost:,.2f}"
        hours = self.machine_hours
        took = f"{hours / 24:,.1f} days" if hours > 48 else f"{hours:,.1f} hours"
        rows = [[took, "1", f"{self.units}", cost]]
        for days in _DEADLINES:
            if self.machine_hours > 24 * days:
                count = self.machines(days)
                name = "1 day" if days == 1 else f"{days} days"
                rows.append([name, f"{count:,}", f"{count * self.units:,}", cost])
        return rows

    def assumptions(self) -> list[str]:
        """What the figures assume, a sentence each."""
        return [
            "Machines are like this one, and each captions shards of its own; images are read from "
            "the disk or store as quickly as they are captioned.",
            f"Each image is a JPEG of {JPEG_SIZE[0]} × {JPEG_SIZE[1]} pixels; captions are as long "
            f"as those of the benchmark's scenes, {self.tokens_per_caption:.0f} tokens on average.",
            f"Output: {_ROW_BYTES} bytes a row, and {_BYTES_PER_CHAR} of each character of the "
            f"caption ({_CHARS_PER_TOKEN} a token) and of an alt-text of {_ALT_CHARS}.",
        ]

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "images": self.num_images,
            "seconds_per_image": round(self.seconds_per_image, 6),
            "machine_hours": round(self.machine_hours, 3),
            self.unit.lower(): self.units,
            "price_per_hour": self.price_per_hour,
            "cost": None if self.cost is None else round(self.cost, 2),
            "machines": {f"{days}d": self.machines(days) for days in _DEADLINES},
            "shards": self.num_shards,
            "shard_size": self.shard_size,
            "bytes_per_row": round(self.row_bytes, 1),
            "output_bytes": round(self.output_bytes),
            "assumes": self.assumptions(),
        }


def plan_run(
    report: BenchReport,
    num_images: int,
    *,
    shard_size: int = 10_000,
    price_per_hour: float | None = None,
) -> RunPlan:
    """The plan for a dataset, from the best batch size that was measured.

    On a processor images are read by the cores that caption them; beside a GPU, while it captions.
    """
    reading, whole = report.reading, report.best_whole
    read_s = reading.read_s / reading.cores
    return RunPlan(
        num_images,
        reading.caption_s + read_s if reading.on_cpu else max(reading.caption_s, read_s),
        reading.cores if reading.on_cpu else 1,
        "cores" if reading.on_cpu else "GPUs",
        whole.tokens / whole.batch,
        shard_size,
        price_per_hour,
    )
