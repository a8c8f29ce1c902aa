"""Whatever lies at a name that a command writes, nothing outside the output is changed.

Links, FIFOs, devices and other people's files are laid, one at a time, at every name: a data set
may ship them. The command may refuse or go on; it neither hangs nor writes through them.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import pytest
from PIL import Image
from typer.testing import CliRunner

from altogether_rt.artifacts.bundle import find_bundle
from altogether_rt.artifacts.files import open_to_append
from altogether_rt.cli.main import app
from altogether_rt.data.sinks import stream
from altogether_rt.errors import AltogetherError
from altogether_rt.jobs import open as open_module
from altogether_rt.web.answers import AnswerFile
from tests.comparison.studies import answer_all, start_small, write_answers
from tests.fake_captioner import FakeCaptioner

pytestmark = pytest.mark.lean

TIMEOUT_S = 60

VICTIM = b"somebody's\n"


@dataclass(frozen=True)
class Case:
    """A command, and the names that it writes, in the working directory."""

    command: str
    names: tuple[str, ...]


CAPTION = "caption photos --out c.jsonl"
CASES = (
    Case(CAPTION, ("c.jsonl", "c.jsonl.part")),
    Case("caption photos --out photos/c.jsonl", ("photos/c.jsonl", "photos/c.jsonl.part")),
    Case(f"{CAPTION} --overwrite", ("c.jsonl",)),
    Case(f"{CAPTION} --sidecar .txt", ("photos/a.txt",)),
    Case(f"{CAPTION} --sidecar .txt --overwrite", ("photos/a.txt",)),
    Case(f"{CAPTION} --sheet s.html", ("s.html",)),
    Case(
        f"{CAPTION} --save-embeddings e.npy",
        ("e.npy", "e.names.jsonl", "e.npy.part"),
    ),
    Case(f"{CAPTION} --write-alt copies", ("copies/a.png",)),
    Case(f"{CAPTION} --write-alt in-place", ("photos/a.png",)),
    Case("caption photos --out garbled.jsonl", ("garbled.jsonl.set-aside",)),
    Case("check rows.jsonl --out c.jsonl", ("c.jsonl",)),
    Case("mix rows.jsonl --out m.jsonl", ("m.jsonl",)),
    Case("mix rows.jsonl --out m.jsonl --overwrite", ("m.jsonl",)),
    Case(
        "eval rows.jsonl refs.jsonl --no-meteor --no-phrases --resamples 50 --report r.html",
        ("r.html",),
    ),
    Case("compare start rows.jsonl other.jsonl --images photos --out new", ("new",)),
    Case("compare report study/sxs --plot p.svg", ("p.svg",)),
    Case("annotate start photos --alt alts.jsonl --out new", ("new",)),
    Case("annotate pack work --as anna --out p.html", ("p.html",)),
    Case("annotate export work --out t.jsonl", ("t.jsonl",)),
    Case("annotate export work --format label-studio --out t.json", ("t.json", "t.xml")),
    Case("scenes draw new --num 2", ("new", "new/0000.png", "new/alts.jsonl")),
    Case("learn rows.jsonl --bundle bundle", ("bundle/drafting.npz", "bundle/bundle.json")),
)

OBSTACLES = ("link", "dangling", "folder", "fifo", "device", "file")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the commands read."""
    home = tmp_path_factory.mktemp("prepared")
    (home / "photos").mkdir()
    for index, name in enumerate(("a.png", "b.png")):
        Image.new("RGB", (20, 20), (index * 90, 80, 120)).save(home / "photos" / name)
    rows = [{"file_name": name, "caption": f"a boat {name}", "alt": "x"} for name in "ab"]
    for path, caption in (("rows.jsonl", "a boat"), ("other.jsonl", "a ship")):
        lines = [
            {**row, "file_name": f"{row['file_name']}.png", "caption": caption} for row in rows
        ]
        (home / path).write_text("".join(json.dumps(line) + "\n" for line in lines))
    refs = [{"file_name": f"{name}.png", "references": ["a boat"]} for name in "ab"]
    (home / "refs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in refs))
    (home / "alts.jsonl").write_text('{"file_name": "a.png", "alt": "a boat"}\n')
    garbled = {"file_name": "zz.png", "alt": "", "error": {"class": "empty", "message": ""}}
    (home / "garbled.jsonl").write_text(json.dumps(garbled) + "\ngarbage\n")
    (home / "study").mkdir()
    study = start_small(home / "study", 2).study
    write_answers(study, {"ann": answer_all(study, "ann", lambda id_, _: "tie")})
    done = CliRunner().invoke(
        app,
        ["annotate", "start", str(home / "photos"), "--alt", str(home / "alts.jsonl"),
         "--out", str(home / "work"), "--annotators", "anna"],
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    shutil.copytree(find_bundle("starter"), home / "bundle")
    return home


@pytest.fixture
def home(prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of what the commands read, as the working directory; and a captioner of no model."""
    home = Path(shutil.copytree(prepared, tmp_path / "home"))
    monkeypatch.chdir(home)
    monkeypatch.setattr(open_module, "open_captioner", lambda *_, **options: FakeCaptioner())
    monkeypatch.setattr(stream, "OPEN_S", 0.2)
    return home


def lay(kind: str, path: Path, outside: Path) -> None:
    """Put an obstacle at `path`, whatever is there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "device":
        try:
            os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 3))  # as /dev/null
        except PermissionError:
            pytest.skip("only root can make devices")
    elif kind == "file":
        path.write_bytes(VICTIM)
    else:
        name = {"link": "victim", "dangling": "absent", "folder": "folder"}[kind]
        path.symlink_to(outside / name)


def snapshot(folder: Path) -> dict[str, tuple[int, bytes]]:
    return {
        str(path.relative_to(folder)): (
            path.lstat().st_mode,
            path.read_bytes() if path.is_file() else b"",
        )
        for path in sorted(folder.rglob("*"))
    }


@contextmanager
def no_hang() -> Iterator[None]:
    def fail(number: int, frame: FrameType | None) -> None:
        raise AssertionError(f"it still waits after {TIMEOUT_S} seconds")

    before = signal.signal(signal.SIGALRM, fail)
    signal.alarm(TIMEOUT_S)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("obstacle", OBSTACLES)
@pytest.mark.parametrize(
    ("command", "name"), [(case.command, name) for case in CASES for name in case.names]
)
def test_nothing_outside_is_changed(
    home: Path, tmp_path: Path, command: str, name: str, obstacle: str
) -> None:
    outside = tmp_path / "outside"
    (outside / "folder").mkdir(parents=True)
    for victim in (outside / "victim", outside / "folder" / "a.png", outside / "folder" / "x"):
        victim.write_bytes(VICTIM)
    lay(obstacle, home / name, outside)
    before = snapshot(outside)
    with no_hang():
        done = CliRunner().invoke(app, command.split())
    assert isinstance(done.exception, SystemExit | None), done.exception
    assert done.exit_code in (0, 1, 2)
    assert snapshot(outside) == before
    mode = (home / name).lstat().st_mode
    if obstacle in ("fifo", "device"):
        assert stat.S_ISFIFO(mode) if obstacle == "fifo" else stat.S_ISCHR(mode)


@pytest.mark.parametrize("folder", [".", "..", "/"])
@pytest.mark.parametrize(
    "command",
    [
        "caption photos --out",
        "caption photos --out new.jsonl --sheet",
        "annotate export work --out",
        "annotate export work --format label-studio --out",
        "train --recipe finetune --init starter --data rows.jsonl --out",
        "train --recipe finetune --out new --data rows.jsonl --init",
    ],
)
def test_folders_without_a_name_are_refused(home: Path, command: str, folder: str) -> None:
    if command.startswith("train"):
        pytest.importorskip("torch", reason="needs the extra train")
    before = snapshot(home.parent)
    done = CliRunner().invoke(app, [*command.split(), folder])
    assert isinstance(done.exception, SystemExit) and done.exit_code == 1, done.exception
    assert snapshot(home.parent) == before


@pytest.mark.parametrize("obstacle", OBSTACLES)
@pytest.mark.parametrize(
    "open_it",
    [lambda path: os.close(open_to_append(path)), lambda path: AnswerFile(path).close()],
    ids=["log", "answers"],
)
def test_files_that_are_appended_to(
    tmp_path: Path, obstacle: str, open_it: Callable[[Path], None]
) -> None:
    outside = tmp_path / "outside"
    (outside / "folder").mkdir(parents=True)
    (outside / "victim").write_bytes(b"{}\n")
    lay(obstacle, tmp_path / "answers" / "anna.jsonl", outside)
    before = snapshot(outside)
    with no_hang():
        if obstacle == "file":
            (tmp_path / "answers" / "anna.jsonl").write_bytes(b"{}\n")
            open_it(tmp_path / "answers" / "anna.jsonl")
        else:
            with pytest.raises(AltogetherError, match=r"name another|name a file"):
                open_it(tmp_path / "answers" / "anna.jsonl")
    assert snapshot(outside) == before
    (tmp_path / "answers" / "ben.jsonl").hardlink_to(outside / "victim")
    with pytest.raises(AltogetherError, match="has another name too"):
        open_it(tmp_path / "answers" / "ben.jsonl")


def test_locks_of_file_systems_without_locks(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr(fcntl, "flock", fail)
    for obstacle in OBSTACLES:
        outside = tmp_path / obstacle
        (outside / "folder").mkdir(parents=True)
        (outside / "victim").write_bytes(VICTIM)
        lay(obstacle, home / "c.jsonl.lock", outside)
        before = snapshot(outside)
        with no_hang():
            done = CliRunner().invoke(app, CAPTION.split())
        assert done.exit_code == 1
        assert "c.jsonl.lock is there, and no run of altogether-rt left it" in done.stderr
        assert snapshot(outside) == before
