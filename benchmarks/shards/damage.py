"""Tars with a fault, and how many samples of each can be read."""

from __future__ import annotations

import tarfile
from pathlib import Path

__all__ = ["FAULTS", "make_faulty"]

#: Of the samples of a shard: the one at which something is wrong.
_AT = 0.6

FAULTS = ("truncated tar", "tar cut between members", "damaged header", "broken sample")


def make_faulty(whole: Path, folder: Path, fault: str) -> set[str]:
    """Write `whole` with a fault into `folder`; returns the keys whose image can still be read.

    The middle of a member, or the header of one, or the bytes of an image are hit.
    """
    data = bytearray(whole.read_bytes())
    with tarfile.open(whole) as tar:
        images = [member for member in tar if member.name.endswith(".png")]
    keys = [image.name.partition(".")[0] for image in images]
    at = int(_AT * len(images))
    hit = images[at]
    if fault == "truncated tar":
        del data[hit.offset_data + hit.size // 2 :]
        left = keys[:at]
    elif fault == "tar cut between members":
        del data[hit.offset :]
        left = keys[:at]
    elif fault == "damaged header":
        data[hit.offset : hit.offset + 512] = b"\xa5" * 512
        left = keys[:at] + keys[at + 1 :]
    elif fault == "broken sample":
        data[hit.offset_data : hit.offset_data + hit.size] = b"\xa5" * hit.size
        left = keys[:at] + keys[at + 1 :]
    else:
        raise ValueError(fault)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / whole.name).write_bytes(data)
    return set(left)
