"""How carefully a shard is captioned after processes died over it.

A death says nothing about its cause: memory may have been short, or a sample may kill whoever
decodes it. So the next process takes a few samples at a time, each lot durable before the next one
is begun; if it dies too, its successor takes them one by one. A sample over which two processes
died that were given nothing else is answered with an error. A shard over which three processes died
without coming that far, while reading it, is given up.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from altogether_rt.data.sinks.shards.claims import ClaimRecord

__all__ = ["CAREFUL_ROWS", "Care", "care_after", "window_of"]

#: Samples that a process may have had in hand when it died, at most; so many are done carefully.
CAREFUL_ROWS: Final = 1024

#: Samples taken together, by level of care; None: as many as there are.
_WINDOWS: Final = (None, 32, 1)

_MAX_DEATHS: Final = 3

#: Deaths over a sample alone that condemn it: one may have had another cause at this moment.
_ALONE_DEATHS: Final = 2


@dataclass(frozen=True)
class Care:
    """What deaths teach the next process."""

    level: int = 0
    deaths: int = 0  # one after another, without a row made durable
    alone_deaths: int = 0  # of processes that had one sample, the same, and nothing before it
    crashed: int | None = None  # index of the sample over which they died

    @property
    def given_up(self) -> bool:
        """Whether the shard, and not a sample of it, is at fault."""
        return self.deaths >= _MAX_DEATHS


def window_of(level: int) -> int | None:
    """Samples that are captioned together; None: as many as there are."""
    return _WINDOWS[level]


def care_after(former: ClaimRecord | None, rows: int) -> Care:
    """How to go on after `former`'s owner died, if there was one, and left so many rows."""
    if former is None:
        return Care()
    progressed = rows > former.rows
    last_level = len(_WINDOWS) - 1
    if former.answered and not progressed:
        # It died while its only row was made durable: neither reading nor the sample did that.
        return Care(last_level, former.deaths, former.alone_deaths)
    if former.alone == rows:
        # It died over this sample and had no other; it counts if it began with it.
        alone_deaths = 0 if progressed else former.alone_deaths + 1
        crashed = rows if alone_deaths >= _ALONE_DEATHS else None
        return Care(last_level, alone_deaths=alone_deaths, crashed=crashed)
    deaths = 0 if progressed else former.deaths + 1
    return Care(min(former.care + 1, last_level), deaths)
