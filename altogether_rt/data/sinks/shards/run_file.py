"""What all captions below a folder have in common, and which shards they are of.

`_run.json` holds the bundle, the parameters and the options of reading: another run is refused.
`_shards.json` holds the names of the shards, for `status` to know which are missing; runs with
further shards add files, `_shards.0123456789ab.json`.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from altogether_rt.data.shards.base import Shard
from altogether_rt.data.sinks.shards.store import OutputStore
from altogether_rt.errors import AltogetherError

__all__ = ["RUN_FILE", "join_run", "read_run", "read_shards", "record_shards", "run_id_of"]

RUN_FILE = "_run.json"
_SHARDS_FILE = "_shards.json"
_SHARDS = re.compile(r"_shards(\.[0-9a-f]{12})?\.json")

_FORMAT = 1


def join_run(store: OutputStore, run: Mapping[str, Any], *, overwrite: bool = False) -> None:
    """Make `store` the folder of a run, or check that it already is.

    run: JSON data, all of which must be the same. overwrite: it becomes the folder of this run;
    what there is of another one counts as missing. Raises AltogetherError, which names what
    differs.
    """
    run = {"format": _FORMAT, **json.loads(json.dumps(run))}
    data = json.dumps(run, indent=1).encode() + b"\n"
    if store.create(RUN_FILE, data):
        return
    there = read_run(store)
    if there == run:
        return
    if overwrite:
        store.write(RUN_FILE, data)
        return
    if there is None:
        raise AltogetherError(
            f"{store.url}/{RUN_FILE} cannot be understood: remove it, or name another folder."
        )
    raise AltogetherError(
        f"{store.url} holds captions of another run ({'; '.join(_differences('', there, run))}): "
        "name another folder, give the options of that run, or --overwrite it."
    )


def read_run(store: OutputStore) -> dict[str, Any] | None:
    """What `join_run` wrote; None if there is nothing, or something else."""
    found = _read_json(store, RUN_FILE)
    return found if isinstance(found, dict) else None


def run_id_of(run: Mapping[str, Any]) -> str:
    """12 hex digits of what `join_run` was given, or of what `read_run` has found of it."""
    text = json.dumps({name: run[name] for name in run if name != "format"}, sort_keys=True)
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=6).hexdigest()


def record_shards(store: OutputStore, shards: Iterable[Shard], there: Iterable[str]) -> None:
    """Add shards to those that the folder is known to be for.

    there: names of the files in it. Runs that begin at once with different shards each write a file
    of their own, since of two that change the same file one would lose what the other added.
    """
    known = read_shards(store, there)
    new = {shard.name: shard.num_expected for shard in shards if _is_news(shard, known)}
    if not new:
        return
    data = json.dumps(new, indent=0).encode() + b"\n"
    if (not known and store.create(_SHARDS_FILE, data)) or store.read(_SHARDS_FILE) == data:
        return
    digest = hashlib.blake2b(data, digest_size=6).hexdigest()
    store.write(f"_shards.{digest}.json", data)


def _is_news(shard: Shard, known: Mapping[str, int | None]) -> bool:
    expected = known.get(shard.name)
    return shard.name not in known or (shard.num_expected or 0) > (expected or 0)


def read_shards(store: OutputStore, there: Iterable[str]) -> dict[str, int | None]:
    """Shards that the folder is for, and the rows that are expected of each where they are known.

    there: names of the files in it. Empty where shards were captioned one by one.
    """
    shards: dict[str, int | None] = {}
    for name in sorted(filter(_SHARDS.fullmatch, there)):
        found = _read_json(store, name)
        for shard, expected in found.items() if isinstance(found, dict) else ():
            if (expected or 0) >= (shards.get(shard) or 0):
                shards[shard] = expected
    return shards


def _read_json(store: OutputStore, name: str) -> Any:
    data = store.read(name)
    try:
        return None if data is None else json.loads(data)
    except ValueError:
        return None


def _differences(prefix: str, there: Any, here: Any) -> list[str]:
    """`temperature is 0.0 there and 0.2 here`, for each value that differs."""
    if isinstance(there, dict) and isinstance(here, dict):
        found = []
        for key in sorted({*there, *here}):
            found += _differences(key, there.get(key), here.get(key))
        return found
    if there == here:
        return []
    return [f"{prefix} is {_shown(there)} there and {_shown(here)} here"]


def _shown(value: Any) -> str:
    return "not set" if value is None else json.dumps(value, ensure_ascii=False)[:80]
