"""A dataset in shards without a reader of its own: what engines and outputs are tested with."""

from __future__ import annotations

import io
import os
import signal
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from PIL import Image

from altogether_rt.captions import Caption, CaptionParams, CaptionRequest
from altogether_rt.data.alts import Alts
from altogether_rt.data.images import ImageLimits
from altogether_rt.data.shards.base import Ending, Shard, ShardSource
from altogether_rt.data.sources.base import Sample
from altogether_rt.errors import AltogetherError, ImageError
from altogether_rt.jobs.plan import CaptionPlan
from altogether_rt.jobs.shards.plan import ShardJob
from tests.fake_captioner import FakeCaptioner

PARAMS = CaptionParams(8, 0.0, 1.0)


def png(number: int) -> bytes:
    """A small picture unlike those of other numbers."""
    pixels = np.random.default_rng(number).integers(0, 255, (4, 4, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def make_tars(folder: Path, num_shards: int, num_samples: int) -> list[Shard]:
    """Tars of pictures with a text each; every seventh picture is broken, every ninth lacks."""
    folder.mkdir(parents=True, exist_ok=True)
    shards = []
    for index in range(num_shards):
        path = folder / f"{index:05}.tar"
        with tarfile.open(path, "w") as tar:
            for number in range(num_samples):
                key = f"{index:05}{number:04}"
                if number % 9 != 8:
                    image = b"404" if number % 7 == 3 else png(1000 * index + number)
                    _add(tar, f"{key}.png", image)
                _add(tar, f"{key}.txt", f"alt {number}".encode())
        shards.append(shard_of(path))
    return shards


def shard_of(path: Path, num_expected: int | None = None) -> Shard:
    size = path.stat().st_size
    return Shard(path.stem, str(path), size, f"{size}-{path.stat().st_mtime_ns}", num_expected)


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))


@dataclass
class PlainTar(ShardSource):
    """The samples of a tar that `make_tars` made; a text ends each. Opened by its name alone."""

    shard: Shard

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def samples(self) -> Iterator[Sample]:
        self._ending = Ending("whole")
        if not Path(self.shard.url).is_file():
            raise AltogetherError(f"there is no file {self.shard.url}.")
        try:
            with tarfile.open(self.shard.url) as tar:
                image: bytes | ImageError | None = None
                for member in tar:
                    file = tar.extractfile(member)
                    content = b"" if file is None else file.read()
                    key, _, suffix = member.name.partition(".")
                    if suffix == "png":
                        image = content
                        continue
                    image = image or ImageError("missing", f"{key} has no image.")
                    yield Sample(key, Alts((content.decode(),)), image)
                    image = None
        except tarfile.ReadError:
            pass
        if Path(self.shard.url).stat().st_size % tarfile.RECORDSIZE:
            self._ending = Ending("truncated", message="The tar is cut off.")

    @property
    def ending(self) -> Ending:
        return self._ending


def job_for(out: str | Path, **options: Any) -> ShardJob:
    return ShardJob(
        **{
            "out": str(out),
            "open_shard": PlainTar,
            "bundle_id": "fake",
            "plan": CaptionPlan(PARAMS, ImageLimits()),
            "part_rows": 8,
            **options,
        }
    )


class KilledBy(FakeCaptioner):
    """Kills its process over one of the alt-texts."""

    def __init__(self, alt: str = "alt 4") -> None:
        super().__init__()
        self.alt = alt

    def stream(
        self,
        requests: Iterable[CaptionRequest],
        params: CaptionParams | None = None,
        **options: Any,
    ) -> Iterator[Caption]:
        def watched() -> Iterator[CaptionRequest]:
            for request in requests:
                if self.alt in request.alts:
                    os.kill(os.getpid(), signal.SIGKILL)
                yield request

        return super().stream(watched(), params, **options)


class Faded(PlainTar):
    """Every fifth sample has lost its image."""

    def samples(self) -> Iterator[Sample]:
        for number, sample in enumerate(super().samples()):
            is_fine = isinstance(sample.image, bytes) and sample.image != b"404"
            if number % 5 == 2 and is_fine:
                sample = Sample(sample.key, sample.alts, ImageError("gone", "It is gone."))
            yield sample
