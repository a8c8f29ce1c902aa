"""Reading and decoding alone, no caption, nothing written: the plain loop and ours.

    python -m benchmarks.shards.reading loop|ours|ours-checked IN [OUT]

`ours` decodes with Pillow as the plain loop does; `ours-checked` as captioning does: the structure
of each file checked before a decoder sees it, alpha and orientation applied.
"""

from __future__ import annotations

import io
import sys
from pathlib import Path

from PIL import Image

__all__ = ["main", "read"]


def read(kind: str, inputs: Path) -> int:
    """Read and decode every sample; returns their number."""
    if kind == "loop":
        return _loop(inputs)
    return _ours(inputs, checked=kind == "ours-checked")


def _loop(inputs: Path) -> int:
    from benchmarks.shards.naive import read_tar

    number = 0
    for path in sorted(inputs.glob("*.tar")):
        for _key, content, _alt in read_tar(path):
            Image.open(io.BytesIO(content)).convert("RGB")
            number += 1
    return number


def _ours(inputs: Path, *, checked: bool) -> int:
    from altogether_rt.data.images import ImageLimits, open_image
    from altogether_rt.data.memory import PixelGate
    from altogether_rt.data.shards.listing import list_shards
    from altogether_rt.data.shards.opening import open_shard

    number, limits = 0, ImageLimits()
    gate = PixelGate(limits.max_pixels)
    for shard in list_shards([str(inputs)]):
        with open_shard(shard) as source:
            for sample in source.samples():
                assert isinstance(sample.image, bytes)
                if checked:
                    with open_image(sample.image, limits, gate, name=sample.key):
                        pass
                else:
                    Image.open(io.BytesIO(sample.image)).convert("RGB")
                number += 1
    return number


def main() -> None:
    print(read(sys.argv[1], Path(sys.argv[2])))


if __name__ == "__main__":
    main()
