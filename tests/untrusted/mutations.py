"""Random changes to bytes, JSON values and NumPy files, reproducible from a seed."""

from __future__ import annotations

import io
import json
import struct
import zipfile
from collections.abc import Callable, Iterator
from random import Random
from typing import Any

import numpy as np

__all__ = ["mutate_bytes", "mutate_json", "mutate_npy", "mutate_npz", "mutate_safetensors"]

_NUMBERS = (0, -1, 1, 2, 127, 255, 65_536, 2**31 - 1, 2**31, 2**32, 2**53, 2**63, 10**30, -(2**63))
_TEXTS = ("", "a", "\x00", "\ud800", "../x", "/etc/passwd", "a" * 70_000, "é☃\u202e", "(a+)+$")


def mutate_bytes(data: bytes, random: Random) -> bytes:
    """A few bytes flipped, removed, repeated, overwritten or cut off."""
    changed = bytearray(data)
    for _ in range(random.choice((1, 1, 1, 2, 4, 16))):
        at = random.randrange(len(changed) + 1)
        kind = random.randrange(7)
        if kind == 0 and at < len(changed):
            changed[at] ^= 1 << random.randrange(8)
        elif kind == 1:
            del changed[at : at + random.choice((1, 2, 4, 8, 64, 4096))]
        elif kind == 2:
            changed[at:at] = random.randbytes(random.choice((1, 2, 4, 8, 64)))
        elif kind == 3:
            value = random.choice(_NUMBERS) & (2**64 - 1)
            packed = struct.pack("<Q", value)[: random.choice((1, 2, 4, 8))]
            changed[at : at + len(packed)] = packed
        elif kind == 4:
            source = random.randrange(len(changed) + 1)
            size = random.choice((4, 16, 256))
            changed[at : at + size] = changed[source : source + size]
        elif kind == 5:
            changed[at:at] = changed[at : at + random.choice((8, 64, 1024))]
        elif random.random() < 0.3:
            del changed[at:]
    return bytes(changed)


def mutate_json(value: Any, random: Random, grow: Callable[[Random], Any] | None = None) -> bytes:
    """The value's JSON after a few of its parts were replaced, removed, added or exchanged.

    grow: makes values that are likely to be understood where they land.
    """
    try:
        return _mutated(value, random, grow)
    except RecursionError:  # deep values in deep values: too deep to be written
        return b"[" * 1000


def _mutated(value: Any, random: Random, grow: Callable[[Random], Any] | None) -> bytes:
    value = json.loads(json.dumps(value))
    for _ in range(random.choice((1, 1, 1, 2, 3))):
        parts = list(_parts(value))
        if not parts:
            break
        # Long lists, such as vocabularies, would otherwise take nearly all of the changes.
        depths = sorted({depth for depth, _, _ in parts})
        depth = random.choice(depths)
        _, holder, key = random.choice([part for part in parts if part[0] == depth])
        kind = random.randrange(6)
        if kind == 0:
            del holder[key]
        elif kind == 1 and isinstance(holder, dict):
            holder[random.choice((*_TEXTS, "type"))] = holder[key]
        elif kind == 2:
            _, other, other_key = random.choice(parts)
            holder[key] = json.loads(json.dumps(other[other_key]))
        elif grow is not None and kind in (3, 4):
            holder[key] = grow(random)
        else:
            holder[key] = _any_value(random, holder[key])
    return json.dumps(value).encode()


def _parts(value: Any, depth: int = 0) -> Iterator[tuple[int, Any, Any]]:
    """Every value inside, as its depth, the container that holds it, and its key there."""
    if isinstance(value, dict | list):
        items = list(value.items() if isinstance(value, dict) else enumerate(value))
        for key, inner in items if len(items) < 400 else items[:200] + items[-200:]:
            yield depth, value, key
            yield from _parts(inner, depth + 1)


def _any_value(random: Random, old: Any) -> Any:
    deep: Any = 0
    for _ in range(random.choice((10, 150, 900))):
        deep = [deep] if random.random() < 0.5 else {"a": deep}
    if isinstance(old, int) and random.random() < 0.5:
        return old * random.choice((-1, 2, 1000, 10**6, 10**9)) + random.choice((-1, 0, 1))
    return random.choice(
        (
            *(None, True, False, [], {}, deep, [1] * 1000, {"type": "x"}, 1.5, -0.0),
            *(1e308, float("nan"), float("inf")),
            *_NUMBERS,
            *_TEXTS,
        )
    )


def mutate_npy(data: bytes, random: Random) -> bytes:
    """A .npy file whose header says something else than its data, or whose data are others."""
    kind = random.randrange(4)
    array = np.load(io.BytesIO(data))
    if kind == 0:
        return mutate_bytes(data, random)
    if kind == 1:  # a header that lies
        sizes = [random.choice(_NUMBERS) for _ in range(random.randrange(4))]
        dtype = random.choice(("<f4", "<i4", "|O", "<f8", "|S100", "|V0", "<U1000000", "garbage"))
        shape = random.choice((tuple(sizes), array.shape, (2**40,), (2**62, 4), (1,) * 40))
        header = f"{{'descr': '{dtype}', 'fortran_order': {random.random() < 0.2}, "
        text = (header + f"'shape': {shape}, }}").encode()
        if random.random() < 0.1:
            text = b"(" * random.choice((100, 5000)) + text
        body = data[10 + struct.unpack("<H", data[8:10])[0] :]
        return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text) + 1) + text + b"\n" + body
    changed = np.array(array)
    if kind == 2 and changed.size:  # values out of range
        flat = changed.reshape(-1)
        for _ in range(random.choice((1, 10))):
            with np.errstate(all="ignore"):
                value = np.float64(random.choice((*_NUMBERS, 1e300, np.nan, np.inf)))
                whole = int(random.choice(_NUMBERS)) % 2**31 - random.choice((0, 2**31))
                flat[random.randrange(flat.size)] = value if flat.dtype.kind == "f" else whole
    else:
        with np.errstate(all="ignore"):
            changed = random.choice(
                (
                    changed[:-1] if changed.ndim else changed,
                    changed.astype(np.float64),
                    changed[None],
                    changed.astype(np.int8),
                    changed.astype(bool),
                    changed[..., :0],
                )
                if changed.ndim
                else (changed[None], changed.astype(np.float16))
            )
    out = io.BytesIO()
    np.save(out, changed, allow_pickle=False)
    return out.getvalue()


def mutate_npz(data: bytes, random: Random) -> bytes:
    """A .npz file with a changed, missing, doubled or exploding member."""
    if random.random() < 0.3:
        return mutate_bytes(data, random)
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    name = random.choice(sorted(members))
    kind = random.randrange(8)
    if kind == 0:
        del members[name]
    elif kind == 1:
        members[name] = members[random.choice(sorted(members))]
    elif kind == 2:
        members[name] = members[name] + bytes(random.choice((1, 10**6, 10**8)))
    else:
        members[name] = mutate_npy(members[name], random)
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for member, content in members.items():
            archive.writestr(member, content)
    return out.getvalue()


def mutate_safetensors(data: bytes, random: Random) -> bytes:
    """A safetensors file with a changed header or changed bytes."""
    if random.random() < 0.5:
        return mutate_bytes(data, random)
    size = struct.unpack("<Q", data[:8])[0]
    header = mutate_json(json.loads(data[8 : 8 + size]), random)
    length = random.choice((len(header), len(header), len(header), *_NUMBERS)) & (2**64 - 1)
    return struct.pack("<Q", length) + header + data[8 + size :]
