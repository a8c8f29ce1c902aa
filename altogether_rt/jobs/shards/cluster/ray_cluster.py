"""Workers as actors of Ray: on a cluster that runs, or on one of this machine for this run alone.

Ray starts processes and tells that they died, and nothing else: no data passes through its object
store, and nothing is restarted by it. It prints nothing here, keeps no files after the run, and
sends no statistics about its use.
"""

from __future__ import annotations

import fcntl
import importlib
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, Final

from altogether_rt.errors import AltogetherError, MissingDependencyError, reason
from altogether_rt.jobs.shards.cluster.base import Cluster, RemoteWorker, WorkerDied
from altogether_rt.jobs.shards.cluster.room import Node, WorkerSize
from altogether_rt.jobs.shards.cluster.worker import ClusterWorker, Message
from altogether_rt.jobs.shards.plan import ShardJob, ShardTask
from altogether_rt.jobs.worker import OpenCaptioner

__all__ = ["RayCluster", "connect"]

#: Of the object store, which stays empty: Ray's minimum is 75 MiB.
_OBJECT_STORE_BYTES: Final = 80 << 20

#: Bytes of the path of a folder of sessions, at most: names of sockets in it have a limit of 107.
_MAX_FOLDER_BYTES: Final = 40

_FOLDER_PREFIX: Final = "altogether-ray-"
_CONNECT_S: Final = 10.0
_END_S: Final = 3.0

#: While Ray is imported and started.
_ENVIRONMENT: Final = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_USAGE_STATS_PROMPT_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # or it warns that this will be the default
}


@contextmanager
def connect(address: str | None = None, *, num_cpus: int) -> Iterator[Cluster]:
    """The cluster at `address`, or at RAY_ADDRESS; else one on this machine, with `num_cpus`.

    Where this process is connected already, that cluster. Raises MissingDependencyError without
    Ray, AltogetherError if the cluster does not answer.
    """
    with ExitStack() as stack:
        with _environment(_ENVIRONMENT):
            ray = _import_ray()
            if not ray.is_initialized():
                address = address or os.environ.get("RAY_ADDRESS") or "local"
                options = _common_options()
                if address == "local":
                    folder = stack.enter_context(_session_folder())
                    options |= _local_options(folder, num_cpus)
                else:
                    _check_reachable(address)
                stack.enter_context(_silence())
                stack.callback(ray.shutdown)
                _start(ray, address, options)
        yield RayCluster(ray)


def _common_options() -> dict[str, Any]:
    return {"log_to_driver": False, "logging_level": "ERROR", "namespace": "altogether-rt"}


def _local_options(folder: Path, num_cpus: int) -> dict[str, Any]:
    return {
        "num_cpus": num_cpus,
        "include_dashboard": False,
        "object_store_memory": _OBJECT_STORE_BYTES,
        "_temp_dir": str(folder),
        "_node_ip_address": "127.0.0.1",
    }


def _start(ray: Any, address: str, options: Mapping[str, Any]) -> None:
    try:
        ray.init(address=address, **options)
    except (ConnectionError, OSError, RuntimeError, ValueError) as error:
        where = "on this machine" if address == "local" else f"at {address}"
        message = f"the Ray cluster {where} cannot be used: {reason(error)}."
        raise AltogetherError(message) from error


def _import_ray() -> Any:
    try:
        return importlib.import_module("ray")
    except ModuleNotFoundError as error:
        raise MissingDependencyError("ray", "ray", "--engine ray") from error


@contextmanager
def _silence() -> Iterator[None]:
    """Ray prints what becomes of its machines and workers on standard output: not here.

    A run's results are there, a line of JSON perhaps, and deaths are told by the engine. No option
    of Ray turns it off; were the function called otherwise some day, Ray would be heard again.
    """
    module = importlib.import_module("ray._private.worker")
    name = "print_to_stdstream"
    printing = getattr(module, name, None)
    setattr(module, name, lambda *data, **options: None)
    try:
        yield
    finally:
        setattr(module, name, printing)


def _check_reachable(address: str) -> None:
    """Raise AltogetherError if nothing answers there: Ray would wait, then end the process."""
    host, _, port = address.rpartition("://")[2].partition("/")[0].rpartition(":")
    if not port.isdigit():
        return  # `auto`
    try:
        socket.create_connection((host.strip("[]"), int(port)), _CONNECT_S).close()
    except (OSError, OverflowError) as error:
        raise AltogetherError(
            f"no Ray cluster answers at {address} ({reason(error)}): name another by "
            "--ray-address or RAY_ADDRESS, or neither to start one on this machine."
        ) from error


@contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextmanager
def _session_folder() -> Iterator[Path]:
    """A new folder for Ray's files, removed at the end. Those that killed runs left go as well."""
    parent = Path(tempfile.gettempdir())
    too_long = len(os.fsencode(parent / f"{_FOLDER_PREFIX}12345678")) > _MAX_FOLDER_BYTES
    if too_long or not str(parent).isascii():  # Ray reads paths as ASCII
        parent = Path("/tmp")
    _remove_left_folders(parent)
    folder = Path(tempfile.mkdtemp(prefix=_FOLDER_PREFIX, dir=parent))
    try:
        with (folder / "lock").open("wb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _remove_left_folders(parent: Path) -> None:
    for folder in parent.glob(f"{_FOLDER_PREFIX}*"):
        with suppress(OSError), (folder / "lock").open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)


class RayCluster(Cluster):
    """The cluster that this process is connected to."""

    def __init__(self, ray: Any) -> None:
        self._ray = ray
        self._actor_class = ray.remote(ClusterWorker)

    def nodes(self) -> list[Node]:
        resources = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        return [Node(float(has.get("CPU", 0)), float(has.get("GPU", 0))) for has in resources]

    def start(self, open_captioner: OpenCaptioner, job: ShardJob, size: WorkerSize) -> RemoteWorker:
        # Three calls at a time: news may be waited for while a shard is given, or it is stopped.
        options = {
            "num_cpus": size.threads,
            "num_gpus": size.num_gpus,
            "max_restarts": 0,
            "max_concurrency": 3,
            "scheduling_strategy": "SPREAD",
        }
        actor_class = self._actor_class.options(**options)
        return _RayWorker(self._ray, actor_class.remote(open_captioner, job, size.threads))

    def wait(
        self, workers: Sequence[RemoteWorker], timeout_s: float
    ) -> list[tuple[RemoteWorker, list[Message] | WorkerDied]]:
        asked = {worker.asked(): worker for worker in _own(workers)}
        told, _ = self._ray.wait(list(asked), timeout=timeout_s)
        return [(asked[reference], asked[reference].answer()) for reference in told]

    def wait_for_stop(self, workers: Sequence[RemoteWorker], timeout_s: float) -> None:
        asked = [worker.stopping for worker in _own(workers) if worker.stopping is not None]
        self._wait_for_all(asked, timeout_s)
        # A process that is killed would not remove its spool.
        self._wait_for_all([worker.end() for worker in _own(workers)], _END_S)
        for worker in _own(workers):
            worker.kill()

    def _wait_for_all(self, references: Sequence[Any], timeout_s: float) -> None:
        if references:
            self._ray.wait(references, num_returns=len(references), timeout=timeout_s)


class _RayWorker(RemoteWorker):
    """An actor, and what it was asked and has not answered."""

    def __init__(self, ray: Any, actor: Any) -> None:
        self._ray = ray
        self._actor = actor
        self._asked: Any = None
        self.stopping: Any = None

    def give(self, task: ShardTask) -> None:
        self._actor.give.remote(task)

    def stop(self) -> None:
        self.stopping = self._actor.stop.remote()

    def end(self) -> Any:
        """Let its process exit as usual, now that it is stopped."""
        return self._actor.__ray_terminate__.remote()

    def kill(self) -> None:
        self._ray.kill(self._actor)

    def asked(self) -> Any:
        """The answer to come to the question for news."""
        if self._asked is None:
            self._asked = self._actor.news.remote()
        return self._asked

    def answer(self) -> list[Message] | WorkerDied:
        """What it answered to the question for news."""
        reference, self._asked = self._asked, None
        try:
            messages: list[Message] = self._ray.get(reference)
        except self._ray.exceptions.ActorUnavailableError:
            with suppress(self._ray.exceptions.RayError):  # it may live
                self.kill()
            return WorkerDied("the connection to it was lost")
        except self._ray.exceptions.RayError as error:
            return WorkerDied(_cause(error))
        return messages


def _cause(error: Exception) -> str:
    """Ray's reason for a death: the first sentence of the last line of what it says."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return reason(Exception(lines[-1].partition(". ")[0])) if lines else ""


def _own(workers: Sequence[RemoteWorker]) -> list[_RayWorker]:
    return [worker for worker in workers if isinstance(worker, _RayWorker)]
