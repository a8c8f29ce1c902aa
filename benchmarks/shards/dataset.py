"""Tars in the layout of img2dataset to measure with: small PNGs, alt-texts and JSON."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

__all__ = ["make_shards", "shard_members", "tar_info"]

#: Different images: more would only take longer to draw.
NUM_IMAGES = 256


def make_shards(folder: Path, num_shards: int, num_samples: int, side: int) -> list[Path]:
    """Tars of `num_samples` PNGs of `side` pixels each, with `_stats.json` beside them.

    Those that are there already are used again.
    """
    folder.mkdir(parents=True, exist_ok=True)
    images = [_png(number, side) for number in range(min(NUM_IMAGES, num_samples))]
    paths = []
    for shard in range(num_shards):
        path = folder / f"{shard:05}.tar"
        paths.append(path)
        if path.exists():
            continue
        unfinished = path.with_suffix(".tmp")
        with tarfile.open(unfinished, "w", format=tarfile.GNU_FORMAT) as tar:
            for name, content in shard_members(shard, num_samples, images):
                tar.addfile(tar_info(name, len(content)), io.BytesIO(content))
        stats = {"count": num_samples, "successes": num_samples, "failed_to_download": 0}
        path.with_name(f"{shard:05}_stats.json").write_text(json.dumps(stats))
        unfinished.rename(path)
    return paths


def shard_members(shard: int, num_samples: int, images: list[bytes]) -> Iterator[tuple[str, bytes]]:
    """Names and contents of a shard's members, in the order of img2dataset."""
    for number in range(num_samples):
        key = f"{shard:05}{number:04}"
        alt = f"a small boat, number {number} of shard {shard}"
        record = {"key": key, "caption": alt, "url": f"https://example.org/{key}.png"}
        yield f"{key}.png", images[number % len(images)]
        yield f"{key}.txt", alt.encode()
        yield f"{key}.json", json.dumps(record).encode()


def tar_info(name: str, size: int) -> tarfile.TarInfo:
    """The header of a member."""
    info = tarfile.TarInfo(name)
    info.size = size
    return info


def _png(number: int, side: int) -> bytes:
    colours = np.random.default_rng(number).integers(0, 256, (4, 4, 3), np.uint8)
    image = Image.fromarray(colours).resize((side, side), Image.Resampling.BICUBIC)
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()
