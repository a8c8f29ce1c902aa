"""Several processes write what one writes, and nothing is lost whoever dies."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from altogether_rt.captions import Caption, CaptionParams, CaptionRequest
from altogether_rt.data.alts import Alts
from altogether_rt.data.images import ImageLimits
from altogether_rt.data.sources.base import Sample
from altogether_rt.errors import AltogetherError
from altogether_rt.jobs.executor import LocalExecutor
from altogether_rt.jobs.folder import CaptionJob, caption_folder, open_folder
from altogether_rt.jobs.plan import CaptionPlan, ListedTasks, Task
from altogether_rt.jobs.processes import ProcessExecutor
from tests.fake_captioner import FakeCaptioner
from tests.jobs.watching import size_of

pytestmark = pytest.mark.lean

NUM_IMAGES = 40


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Pictures, some broken, some twice, with alt-texts."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    rng = np.random.default_rng(0)
    alts = []
    for i in range(NUM_IMAGES):
        path = folder / f"{i:02}.png"
        Image.fromarray(rng.integers(0, 255, (20, 30, 3), np.uint8)).save(path)
        if i % 7 == 3:
            path.write_text("404")
        if i % 9 == 5:
            path.write_bytes((folder / "00.png").read_bytes())
        alts.append(json.dumps({"file_name": path.name, "alt": f"alt {i % 9}"}) + "\n")
    (folder / "alts.jsonl").write_text("".join(alts))
    return folder


class Mortal(FakeCaptioner):
    """Kills its process when it has written some captions."""

    def stream(self, *arguments: Any, **options: Any) -> Iterator[Caption]:
        for number, caption in enumerate(super().stream(*arguments, **options)):
            if number == 4:
                os.kill(os.getpid(), signal.SIGKILL)
            yield caption


class KilledByAlt4(FakeCaptioner):
    """Kills its process over one of the alt-texts."""

    def stream(
        self,
        requests: Iterable[CaptionRequest],
        params: CaptionParams | None = None,
        **options: Any,
    ) -> Iterator[Caption]:
        def watched() -> Iterator[CaptionRequest]:
            for request in requests:
                if "alt 4" in request.alts:
                    os.kill(os.getpid(), signal.SIGKILL)
                yield request

        return super().stream(watched(), params, **options)


def dying_at_start() -> FakeCaptioner:
    os._exit(3)


def unopenable() -> FakeCaptioner:
    raise AltogetherError("there is no captioner here: bring one.")


def rows_of(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.read_text("utf-8").splitlines()]


def run(folder: Path, out: Path, pool: ProcessExecutor | None) -> None:
    fake = FakeCaptioner()
    job = CaptionJob(folder=folder, out=out, alts=Path("alts.jsonl"))
    caption_folder(job, open_folder(job), pool or LocalExecutor(fake), fake.params())


def pool_of(num: int, open_captioner: Any = FakeCaptioner, slots: int = 3) -> ProcessExecutor:
    return ProcessExecutor(num, open_captioner, "fake", slots=slots)


def test_same_bytes_as_one_process(folder: Path, tmp_path: Path) -> None:
    one, three = tmp_path / "1.jsonl", tmp_path / "3.jsonl"
    run(folder, one, None)
    assert one.read_bytes().count(b"\n") == NUM_IMAGES
    run(folder, three, pool_of(3, partial(FakeCaptioner, delay_s=0.001)))
    assert three.read_bytes() == one.read_bytes()


def test_a_worker_that_dies_is_started_again_and_its_samples_are_done_again(
    folder: Path, tmp_path: Path
) -> None:
    """Every worker dies after four captions, whatever they are of: no sample is to blame."""
    one, two = tmp_path / "1.jsonl", tmp_path / "2.jsonl"
    run(folder, one, None)
    deaths: list[str] = []
    executor = ProcessExecutor(
        2, partial(Mortal, batch_size=1), "fake", slots=3, on_restart=deaths.append
    )
    run(folder, two, executor)
    assert two.read_bytes() == one.read_bytes()
    assert len(deaths) >= 4
    assert re.match(r"worker [12] was killed by signal 9 \(Killed\), perhaps", deaths[0])


def test_a_sample_that_kills_every_worker_is_an_error_row(folder: Path, tmp_path: Path) -> None:
    one, two = tmp_path / "1.jsonl", tmp_path / "2.jsonl"
    run(folder, one, None)
    run(folder, two, pool_of(2, partial(KilledByAlt4, batch_size=1)))
    before, after = rows_of(one), rows_of(two)
    lethal = [row["file_name"] for row in before if row["alt"] == "alt 4" and "caption" in row]
    assert len(lethal) >= 3
    for row, other in zip(before, after, strict=True):
        if row["file_name"] in lethal:
            assert other["error"]["class"] == "crashed"
            assert "was killed by signal 9" in other["error"]["message"]
        else:
            assert other == row


def test_workers_that_die_before_they_are_ready_end_the_run(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(AltogetherError, match=r"ended with status 3, and so did those before it"):
        run(folder, tmp_path / "c.jsonl", pool_of(2, dying_at_start))
    run(folder, tmp_path / "c.jsonl", pool_of(2))
    assert len(rows_of(tmp_path / "c.jsonl")) == NUM_IMAGES


def test_why_a_worker_cannot_begin(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(AltogetherError, match=r"^there is no captioner here: bring one\.$"):
        run(folder, tmp_path / "c.jsonl", pool_of(2, unopenable))
    assert not (tmp_path / "c.jsonl").exists()


def test_tasks_are_not_handed_out_far_ahead(folder: Path) -> None:
    names = [f"{i:02}.png" for i in range(NUM_IMAGES)] * 25
    drawn = 0

    def tasks() -> Iterator[Task]:
        nonlocal drawn
        for index, name in enumerate(names):
            drawn += 1
            yield Task(index, Sample(name, Alts((str(index),)), folder / name))

    ahead: list[int] = []
    plan = CaptionPlan(CaptionParams(8, 0.0, 1.0), ImageLimits())
    pool = pool_of(2, partial(FakeCaptioner, delay_s=0.0005), slots=1)
    pool.run(ListedTasks(tasks()), plan, lambda index, answer: ahead.append(drawn - index))
    assert len(ahead) == len(names)
    most_tasks = 2 * (32 + 4)  # both workers full; what else was drawn waits for an older answer
    assert max(ahead) <= 5 * most_tasks < len(names)


@pytest.mark.usefixtures("uncovered")
def test_killed_at_any_moment(folder: Path, tmp_path: Path, root: Path) -> None:
    """SIGKILL of a worker, which is started again, and then of the process that writes."""
    rng = random.Random(3)
    undisturbed, out = tmp_path / "undisturbed.jsonl", tmp_path / "killed.jsonl"
    run(folder, undisturbed, None)
    command = [sys.executable, "-m", "tests.fake_captioner", str(folder), str(out), "alts.jsonl"]
    part = Path(f"{out}.part")
    codes = []
    for turn in range(20):
        process = subprocess.Popen([*command, ".txt", "workers"], cwd=root, stderr=subprocess.PIPE)
        start = size_of(part)
        wanted = start + rng.randrange(200, 2500)  # bytes of rows, then death
        deadline = time.monotonic() + 30
        children: list[int] = []
        while process.poll() is None and time.monotonic() < deadline:
            if size_of(part) > wanted:
                children = children_of(process.pid)
                if children and turn % 2:
                    kill(rng.choice(children))
                    time.sleep(rng.random() * 0.5)
                    children += children_of(process.pid)
                kill(process.pid)
                break
            time.sleep(0.001)
        process.communicate()
        codes.append(process.returncode)
        assert vanish(children), "a worker outlived its caller"
        if process.returncode == 0:
            break
    assert codes[-1] == 0
    assert set(codes[:-1]) <= {-signal.SIGKILL}
    assert len(codes) > 1
    assert out.read_bytes() == undisturbed.read_bytes()
    assert sorted(os.listdir(tmp_path)) == ["killed.jsonl", "pictures", "undisturbed.jsonl"]


def children_of(pid: int) -> list[int]:
    """The workers: not the tracker of resources that multiprocessing starts as well."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return [
            int(child)
            for child in children
            if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()
        ]
    except OSError:
        return []


def kill(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def vanish(pids: list[int]) -> bool:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        if not any(is_alive(pid) for pid in pids):
            return True
        time.sleep(0.01)
    return False


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_ctrl_c_ends_everybody_quietly(folder: Path, tmp_path: Path, root: Path) -> None:
    out = tmp_path / "c.jsonl"
    program = (
        "import signal, sys, functools; from altogether_rt.cli import main\n"
        "from altogether_rt.jobs import open as module\n"
        "from tests.fake_captioner import open_slowly\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "module.open_captioner = open_slowly\n"
        f"sys.argv[1:] = ['caption', {str(folder)!r}, '--out', {str(out)!r}, '--workers', '2']\n"
        "if __name__ == '__main__': main.run()\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program], stderr=subprocess.PIPE, text=True, cwd=root,
        start_new_session=True,
    )  # fmt: skip
    part = Path(f"{out}.part")
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and not (part.exists() and part.stat().st_size):
        time.sleep(0.01)
    children = children_of(process.pid)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    _, stderr = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "Interrupted: the captions so far are kept" in stderr
    assert "Traceback" not in stderr
    assert len(children) == 2
    assert vanish(children)
    assert part.read_bytes().endswith(b"\n")
