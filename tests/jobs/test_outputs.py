"""Outputs that disappear, that lie elsewhere, or are no files; and two writers without locks."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from altogether_rt.data.sinks import stream
from altogether_rt.data.sinks.jsonl import JsonlSink
from altogether_rt.data.sinks.stream import is_standard_output, is_stream
from altogether_rt.errors import AltogetherError
from altogether_rt.jobs.executor import LocalExecutor
from altogether_rt.jobs.folder import CaptionJob, caption_folder, open_folder
from altogether_rt.jobs.watch import watched
from tests.fake_captioner import FakeCaptioner

pytestmark = pytest.mark.lean


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for index in range(4):
        Image.new("RGB", (9, 9), (index, 0, 0)).save(folder / f"{index}.png")
    return folder


def run(folder: Path, out: Path, fake: FakeCaptioner | None = None, **options: Any) -> int:
    fake = fake or FakeCaptioner()
    job = CaptionJob(folder=folder, out=out, **options)
    return caption_folder(job, open_folder(job), LocalExecutor(fake), fake.params()).captioned


def num_rows(text: bytes) -> int:
    rows = [json.loads(line) for line in text.splitlines()]
    return sum("caption" in row for row in rows)


class Slow(FakeCaptioner):
    """Gives one caption, then takes longer than anybody waits."""

    goes_on = False

    def stream(self, requests: Any, params: Any = None, **options: Any) -> Any:
        captions = super().stream(requests, params, **options)
        yield next(captions)
        time.sleep(60)
        self.goes_on = True


@pytest.mark.parametrize("harm", ["journal", "folder", "output"])
def test_an_output_that_disappears_is_noticed_while_nothing_is_written(
    folder: Path, tmp_path: Path, harm: str
) -> None:
    out = tmp_path / "out" / "c.jsonl"
    if harm == "output":
        run(folder, out, limit=1)

    def disturb() -> None:
        part = Path(f"{out}.part")
        while not (part.exists() and part.stat().st_size):
            time.sleep(0.01)
        if harm == "folder":
            out.parent.rename(tmp_path / "moved")
        else:
            (part if harm == "journal" else out).unlink()

    thread = threading.Thread(target=disturb)
    thread.start()
    slow = Slow(batch_size=1)
    with pytest.raises(AltogetherError, match="was removed"):
        run(folder, out, slow)
    assert not slow.goes_on
    thread.join()
    assert signal.getsignal(signal.SIGUSR1) is signal.SIG_DFL
    if harm == "folder":
        os.rename(tmp_path / "moved", out.parent)
        assert run(folder, out) == 3


def test_nothing_is_watched_where_the_signal_is_taken() -> None:
    def fail() -> None:
        raise AltogetherError("gone")

    before = signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    try:
        with watched(fail):
            assert signal.getsignal(signal.SIGUSR1) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_rows_that_are_written_notice_it_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "c.jsonl"
    clock = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    with JsonlSink(out) as sink:
        sink.write({"file_name": "a", "caption": ""})
        os.unlink(f"{out}.part")
        clock[0] = 2.0
        with pytest.raises(AltogetherError, match="was removed"):
            sink.write({"file_name": "b", "caption": ""})


@pytest.fixture
def no_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr(fcntl, "flock", fail)


@pytest.mark.usefixtures("no_locks")
def test_two_writers_where_there_are_no_locks(tmp_path: Path) -> None:
    out = tmp_path / "c.jsonl"
    with JsonlSink(out), pytest.raises(AltogetherError, match=r"another run is writing .*process"):
        JsonlSink(out)
    assert os.listdir(tmp_path) == []
    with JsonlSink(out) as sink:
        sink.recover(lambda row: None)
        sink.write({"file_name": "a", "caption": ""})
        sink.finish()
    assert os.listdir(tmp_path) == ["c.jsonl"]


@pytest.mark.usefixtures("no_locks")
def test_the_lock_of_a_writer_that_was_killed_is_taken_over(tmp_path: Path) -> None:
    out, lock = tmp_path / "c.jsonl", tmp_path / "c.jsonl.lock"
    with JsonlSink(out):
        held = json.loads(lock.read_text())
    for dead in ({"started": "1"}, {"pid": 2**22 + 1}):  # its number was given to another, or free
        lock.write_text(json.dumps({**held, **dead}))
        with JsonlSink(out):
            assert json.loads(lock.read_text())["started"] == held["started"]
        assert os.listdir(tmp_path) == []
    lock.write_text(json.dumps({**held, "host": "elsewhere"}))
    with pytest.raises(AltogetherError, match=r"on elsewhere.*remove .*c.jsonl.lock if it is gone"):
        JsonlSink(out)


@pytest.mark.usefixtures("no_locks")
@pytest.mark.parametrize("kind", ["text", "link", "fifo"])
def test_a_lock_of_others_is_left_alone(tmp_path: Path, kind: str) -> None:
    lock, victim = tmp_path / "c.jsonl.lock", tmp_path / "victim"
    victim.write_text("mine")
    if kind == "text":
        lock.write_text("mine")
    elif kind == "link":
        lock.symlink_to(victim)
    else:
        os.mkfifo(lock)
    with pytest.raises(AltogetherError, match="no run of altogether-rt left it"):
        JsonlSink(tmp_path / "c.jsonl")
    assert victim.read_text() == "mine"
    assert os.path.lexists(lock)


def test_a_link_is_followed_and_continued(folder: Path, tmp_path: Path) -> None:
    real, link = tmp_path / "disk" / "rows.jsonl", tmp_path / "c.jsonl"
    real.parent.mkdir()
    link.symlink_to(Path("disk") / "rows.jsonl")
    with pytest.raises(AltogetherError, match=r"is a link to .*, which does not exist"):
        run(folder, link)
    real.touch()
    assert run(folder, link, limit=2) == 2
    assert run(folder, link) == 2
    assert link.is_symlink()
    assert num_rows(real.read_bytes()) == 4
    assert os.listdir(real.parent) == ["rows.jsonl"]
    real.write_text("mine\n")
    for overwrite in (False, True):
        with pytest.raises(AltogetherError, match="is not a row of captions"):
            run(folder, link, overwrite=overwrite)
    assert real.read_text() == "mine\n"


def test_a_fifo_is_written_to_in_order(folder: Path, tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    with subprocess.Popen(["cat", str(fifo)], stdout=subprocess.PIPE) as reader:
        assert run(folder, fifo) == 4
        assert reader.stdout is not None
        names = [json.loads(line)["file_name"] for line in reader.stdout]
    assert names == [f"{index}.png" for index in range(4)]
    assert stat.S_ISFIFO(os.lstat(fifo).st_mode)


def test_a_fifo_without_a_reader_does_not_hang(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "OPEN_S", 0.1)
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(AltogetherError, match="cannot be written to"):
        run(folder, tmp_path / "fifo")


def test_what_is_a_stream(tmp_path: Path) -> None:
    for name, target in (("a", "/dev/stdout"), ("b", "a"), ("c", "/proc/self/fd/1")):
        (tmp_path / name).symlink_to(target)
        assert is_standard_output(tmp_path / name)
    (tmp_path / "loop").symlink_to("loop")
    for path in ("-", "/dev/stdout", "/dev/null", "/dev/fd/7"):
        assert is_stream(Path(path))
    for path in ("c.jsonl", str(tmp_path / "loop"), str(tmp_path)):
        assert not is_stream(Path(path))
    assert not is_standard_output(Path("/dev/stderr"))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make devices")
def test_block_devices_are_refused(folder: Path, tmp_path: Path) -> None:
    device = tmp_path / "disk"
    try:
        os.mknod(device, stat.S_IFBLK | 0o600, os.makedev(7, 200))
    except PermissionError:
        pytest.skip("no devices can be made here")
    for overwrite in (False, True):
        with pytest.raises(AltogetherError, match="is not a regular file"):
            run(folder, device, overwrite=overwrite)
    assert stat.S_ISBLK(os.lstat(device).st_mode)


COMMAND = (
    "import sys; from altogether_rt.cli import main\n"
    "from altogether_rt.jobs import open as module\n"
    "from tests.fake_captioner import FakeCaptioner\n"
    "module.open_captioner = lambda *_, **options: FakeCaptioner()\n"
    "sys.argv[1:] = ['caption', *sys.argv[1:]]; main.run()\n"
)


@pytest.mark.parametrize("out", ["-", "/dev/stdout", "link"])
@pytest.mark.parametrize("to", ["pipe", "file"])
def test_standard_output_holds_rows_alone(
    folder: Path, tmp_path: Path, root: Path, out: str, to: str
) -> None:
    (tmp_path / "link").symlink_to("/proc/self/fd/1")
    got = tmp_path / "got"
    with got.open("wb") as file:
        done = subprocess.run(
            [sys.executable, "-c", COMMAND, str(folder), "--out", out, "--json"],
            stdout=file if to == "file" else subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(root)},
            timeout=60,
        )
    assert done.returncode == 0, done.stderr
    assert num_rows(got.read_bytes() if to == "file" else done.stdout) == 4
    messages = done.stderr.decode().splitlines()
    assert json.loads(messages[-1])["captioned"] == 4
    assert any("cannot be continued" in line for line in messages)
    assert sorted(os.listdir(tmp_path)) == ["got", "link", "photos"]
    assert (tmp_path / "link").is_symlink()


def test_other_files_at_the_names_of_set_aside_lines(folder: Path, tmp_path: Path) -> None:
    out, victim = tmp_path / "c.jsonl", tmp_path / "victim"
    victim.write_text("mine")
    run(folder, out)
    rows = out.read_bytes()
    for place in (Path.symlink_to, Path.hardlink_to):
        out.write_bytes(rows + b"garbage\n")
        place(Path(f"{out}.set-aside"), victim)
        with pytest.raises(AltogetherError, match=r"c.jsonl.set-aside .* is not written to"):
            run(folder, out, update=True)
        os.unlink(f"{out}.set-aside")
        assert b"garbage" in out.read_bytes()
    assert victim.read_text() == "mine"
