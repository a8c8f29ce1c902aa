"""Tells a shard that cannot be read from a captioner, or an output, that fails."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from altogether_rt.errors import MissingDependencyError

__all__ = ["LimitReached", "ReadError", "ShardChanged", "reading"]


class ReadError(Exception):
    """Wraps what a source raises."""


class ShardChanged(Exception):
    """The durable rows are not those of the shard's samples."""


class LimitReached(Exception):
    """No more samples are asked for."""


@contextmanager
def reading() -> Iterator[None]:
    """What fails in this block is the shard: it is raised as ReadError.

    A package that is missing is raised as it is: no other shard can be read either.
    """
    try:
        yield
    except (LimitReached, ShardChanged, MissingDependencyError):
        raise
    except Exception as error:
        raise ReadError from error
