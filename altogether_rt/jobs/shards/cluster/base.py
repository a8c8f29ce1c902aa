"""The contract of a cluster: what the engine needs of whatever runs its workers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from altogether_rt.jobs.shards.cluster.room import Node, WorkerSize
from altogether_rt.jobs.shards.cluster.worker import Message
from altogether_rt.jobs.shards.plan import ShardJob, ShardTask
from altogether_rt.jobs.worker import OpenCaptioner

__all__ = ["Cluster", "RemoteWorker", "WorkerDied"]


class WorkerDied(Exception):
    """A worker, or its machine, is gone. Its text is part of a sentence, and may be empty."""


class RemoteWorker(ABC):
    """A `ClusterWorker` on some machine. Its methods return at once."""

    @abstractmethod
    def give(self, task: ShardTask) -> None:
        """Let it caption a shard. That it is dead is found by asking for its news."""

    @abstractmethod
    def stop(self) -> None:
        """Ask it to make durable what it has, and to end."""

    @abstractmethod
    def kill(self) -> None:
        """End it, whatever it does."""


class Cluster(ABC):
    """Machines that run workers."""

    @abstractmethod
    def nodes(self) -> list[Node]:
        """The machines that are there now."""

    @abstractmethod
    def start(self, open_captioner: OpenCaptioner, job: ShardJob, size: WorkerSize) -> RemoteWorker:
        """A new worker; it begins when there is room for it."""

    @abstractmethod
    def wait(
        self, workers: Sequence[RemoteWorker], timeout_s: float
    ) -> list[tuple[RemoteWorker, list[Message] | WorkerDied]]:
        """What at least one of them tells, or how it died; nothing after `timeout_s` seconds."""

    @abstractmethod
    def wait_for_stop(self, workers: Sequence[RemoteWorker], timeout_s: float) -> None:
        """Until all that were asked to stop have ended, or the time is over."""
