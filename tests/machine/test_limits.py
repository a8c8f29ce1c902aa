"""Quota and memory of control groups, read from trees that stand in for /sys/fs/cgroup."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from altogether_rt.machine.limits import (
    MachineLimits,
    available_cores,
    available_memory,
    read_limits,
)

pytestmark = pytest.mark.lean

MB = 1024 * 1024


@pytest.fixture(autouse=True)
def eight_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)


class Tree:
    """A /proc and a hierarchy of groups."""

    def __init__(self, folder: Path) -> None:
        self.proc, self.groups = folder / "proc", folder / "cgroup dir"
        (self.proc / "self").mkdir(parents=True)
        (self.proc / "meminfo").write_text("MemTotal:       16000 kB\nMemFree:  1 kB\n")
        self.groups.mkdir()
        self._mounts: list[str] = ["22 1 0:20 / /proc rw - proc proc rw"]

    def belongs(self, *lines: str) -> None:
        (self.proc / "self" / "cgroup").write_text("".join(line + "\n" for line in lines))

    def mount(self, folder: str, root: str, kind: str, options: str = "rw") -> None:
        where = str(self.groups / folder).replace(" ", r"\040")
        self._mounts.append(
            f"31 23 0:28 {root} {where} rw,nosuid shared:9 - {kind} cgroup {options}"
        )
        (self.proc / "self" / "mountinfo").write_text("\n".join(self._mounts) + "\n")

    def write(self, **files: str) -> None:
        """Files by path, with `__` for `/` and `_DOT_` for `.`."""
        for name, text in files.items():
            path = self.groups / name.replace("__", "/").replace("_DOT_", ".")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)

    def read(self) -> MachineLimits:
        return read_limits(self.proc, self.groups)


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path)


def test_a_machine_without_groups_is_all_ours(tree: Tree) -> None:
    limits = tree.read()
    assert limits == MachineLimits(8, 8, None, 16000 * 1024, None)
    assert (limits.cores, limits.memory_bytes) == (8, 16000 * 1024)


@pytest.mark.parametrize(
    ("cpu", "memory", "cores", "num_bytes"),
    [
        ("max 100000\n", "max\n", 8, None),
        ("200000 100000\n", f"{4 * MB}\n", 2, 4 * MB),
        ("150000 100000\n", "0\n", 2, None),  # a part of a processor counts as one
        ("50000 100000\n", "9223372036854771712\n", 1, None),
        ("6400000 100000\n", str(1 << 40), 8, 1 << 40),  # more than there is
        ("", "", 8, None),
        ("what\n", "-1\n", 8, None),
        ("100000 0\n", "four\n", 8, None),
        ("1 2 3", "1 2", 8, None),
    ],
)
def test_version_2(tree: Tree, cpu: str, memory: str, cores: int, num_bytes: int | None) -> None:
    tree.belongs("0::/")
    tree.mount("", "/", "cgroup2")
    tree.write(cpu_DOT_max=cpu, memory_DOT_max=memory)
    limits = tree.read()
    assert (limits.cores, limits.memory_limit_bytes) == (cores, num_bytes)


def test_of_nested_groups_the_tightest_counts(tree: Tree) -> None:
    tree.belongs("0::/pods/one/container")
    tree.mount("", "/", "cgroup2")
    tree.write(
        pods__cpu_DOT_max="300000 100000",
        pods__one__cpu_DOT_max="max 100000",
        pods__one__container__cpu_DOT_max="800000 100000",
        pods__other__cpu_DOT_max="100000 100000",  # not ours
        pods__memory_DOT_max="max",
        pods__one__memory_DOT_max=str(12 * MB),
        pods__one__memory_DOT_high=str(9 * MB),
        pods__one__container__memory_DOT_max=str(10 * MB),
        pods__one__container__child__memory_DOT_max=str(1 * MB),  # not ours
    )
    limits = tree.read()
    assert (limits.quota, limits.memory_limit_bytes) == (3.0, 9 * MB)
    assert limits.cores == 3


def test_version_1_has_a_hierarchy_for_each_controller(tree: Tree) -> None:
    tree.belongs("4:memory:/docker/abc", "3:cpuset:/", "1:cpu,cpuacct:/docker/abc", "0::/system")
    tree.mount("memory", "/", "cgroup", "rw,memory")
    tree.mount("cpu,cpuacct", "/", "cgroup", "rw,cpu,cpuacct")
    tree.write(
        memory__memory_DOT_limit_in_bytes="9223372036854771712",  # none
        memory__docker__memory_DOT_limit_in_bytes=str(7 * MB),
        memory__docker__abc__memory_DOT_limit_in_bytes=str(5 * MB),
    )
    tree.write(
        **{
            "cpu,cpuacct__cpu_DOT_cfs_quota_us": "-1",
            "cpu,cpuacct__cpu_DOT_cfs_period_us": "100000",
            "cpu,cpuacct__docker__cpu_DOT_cfs_quota_us": "400000",
            "cpu,cpuacct__docker__cpu_DOT_cfs_period_us": "100000",
            "cpu,cpuacct__docker__abc__cpu_DOT_cfs_quota_us": "-1",
            "cpu,cpuacct__docker__abc__cpu_DOT_cfs_period_us": "100000",
        }
    )
    limits = tree.read()
    assert (limits.quota, limits.memory_limit_bytes) == (4.0, 5 * MB)


def test_a_container_sees_its_own_group_as_the_root(tree: Tree) -> None:
    """Without a namespace its path is the host's, and only its group is mounted."""
    tree.belongs("4:memory:/docker/abc", "1:cpu:/docker/abc")
    tree.mount("memory", "/docker/abc", "cgroup", "rw,memory")
    tree.mount("cpu", "/elsewhere", "cgroup", "rw,cpu")
    tree.write(
        memory__memory_DOT_limit_in_bytes=str(5 * MB),
        cpu__cpu_DOT_cfs_quota_us="200000",
        cpu__cpu_DOT_cfs_period_us="100000",
    )
    assert (tree.read().cores, tree.read().memory_limit_bytes) == (2, 5 * MB)


@pytest.mark.parametrize("path", ["/../../other", "/gone", "/a\\b", "relative"])
def test_a_group_that_is_not_visible_limits_nothing(tree: Tree, path: str) -> None:
    tree.belongs(f"0::{path}", "nonsense", "")
    tree.mount("", "/", "cgroup2")
    tree.write(memory_DOT_max=str(3 * MB))
    assert tree.read().memory_limit_bytes == 3 * MB
    assert tree.read().quota is None


@pytest.mark.parametrize("version", [1, 2])
def test_without_a_list_of_mounts_the_usual_folder_is_read(tree: Tree, version: int) -> None:
    if version == 2:
        tree.write(cpu_DOT_max="200000 100000", memory_DOT_max=str(3 * MB))
    else:
        tree.write(
            cpu__cpu_DOT_cfs_quota_us="200000",
            cpu__cpu_DOT_cfs_period_us="100000",
            memory__memory_DOT_limit_in_bytes=str(3 * MB),
        )
    assert (tree.read().cores, tree.read().memory_limit_bytes) == (2, 3 * MB)


def test_files_that_cannot_be_read_limit_nothing(tree: Tree, tmp_path: Path) -> None:
    (tree.groups / "cpu.max").mkdir()
    (tree.groups / "memory.max").write_bytes(b"\xff\xfe\x00")
    (tree.proc / "meminfo").write_text("nothing")
    assert tree.read() == MachineLimits(8, 8, None, None, None)
    assert tree.read().memory_bytes is None
    assert read_limits(tmp_path / "no", tmp_path / "where").cores == 8


def test_affinity_counts_whatever_the_quota(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    tree.write(cpu_DOT_max="400000 100000")
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {3, 5, 7})
    assert tree.read().cores == 3
    tree.write(cpu_DOT_max="200000 100000")
    assert tree.read().cores == 2
    monkeypatch.delattr(os, "sched_getaffinity")  # macOS has none
    assert tree.read().cores == 2
    tree.write(cpu_DOT_max="max 100000")
    assert tree.read().cores == 8


def test_this_machine_has_a_core_and_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    assert 1 <= available_cores() <= 8
    memory = available_memory()
    assert memory is None or memory > 64 * MB
