"""Sidecars: beside their images, never over or through what is not ours."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from altogether_rt.data.rows import encode_row
from altogether_rt.data.sinks.sidecars import Sidecars, count_own
from altogether_rt.errors import AltogetherError

pytestmark = pytest.mark.lean


def test_sidecars(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    sidecars = Sidecars(tmp_path, ".txt")
    sidecars.write("sub/a.b.JPG", "a boat")
    sidecars.write("noextension-6.64", "a tree")
    assert (tmp_path / "sub" / "a.b.txt").read_text() == "a boat\n"
    assert (tmp_path / "noextension-6.64.txt").read_text() == "a tree\n"
    sidecars.write("sub/a.b.JPG", "a boat")  # the same again: nothing to report
    assert not sidecars.kept
    sidecars.write("sub/a.b.png", "a shed")  # not known to be shared: `assign` was not called
    assert sidecars.kept.examples == [str(tmp_path / "sub" / "a.b.txt")]
    assert (tmp_path / "sub" / "a.b.txt").read_text() == "a boat\n"
    sidecars.write("sub/a.b.png", "a shed", former="a boat")
    assert (tmp_path / "sub" / "a.b.txt").read_text() == "a shed\n"
    assert len(list(tmp_path.rglob("*"))) == 3


@pytest.mark.parametrize("suffix", ["txt", ".", ".jpg", ".PNG", "./x", ""])
def test_sidecar_endings_that_would_do_harm(tmp_path: Path, suffix: str) -> None:
    with pytest.raises(AltogetherError, match="--sidecar"):
        Sidecars(tmp_path, suffix)


def test_the_first_of_two_images_has_the_sidecar(tmp_path: Path) -> None:
    sidecars = Sidecars(tmp_path, ".txt")
    sidecars.assign(["a.JPG", "a.b.jpg", "a.png", "b.png", "a.webp"])
    for name in ("a.webp", "a.png", "a.JPG", "b.png", "a.b.jpg"):  # in any order
        sidecars.write(name, f"of {name}")
    assert (tmp_path / "a.txt").read_text() == "of a.JPG\n"
    assert (tmp_path / "a.b.txt").read_text() == "of a.b.jpg\n"
    assert sidecars.shared.examples == [f"a.txt of a.{kind} is that of a.JPG" for kind in
                                        ("webp", "png")]  # fmt: skip
    assert not sidecars.kept


def test_a_name_that_is_too_long_is_counted(tmp_path: Path) -> None:
    sidecars = Sidecars(tmp_path, ".caption")
    longest = "a" * 247  # with .caption 255
    for name in (longest + ".png", "a" * 248 + ".png", "b.png"):
        sidecars.write(name, "c")
    assert sorted(os.listdir(tmp_path)) == [longest + ".caption", "b.caption"]
    assert sidecars.failed.count == 1
    assert sidecars.failed.examples[0].endswith(": File name too long")


def test_a_full_disk_ends_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="No space left"):
        Sidecars(tmp_path, ".txt").write("a.png", "c")
    assert os.listdir(tmp_path) == []


def test_huge_files_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.txt"
    with path.open("wb") as file:
        file.truncate(1 << 40)  # a terabyte, without a block on the disk
    monkeypatch.setattr(os, "open", lambda *_: pytest.fail("it was opened"))
    sidecars = Sidecars(tmp_path, ".txt")
    sidecars.write("a.png", "c", former="d")
    assert sidecars.kept.examples == [str(path)]


@pytest.mark.parametrize("former", [None, "mine"])
def test_links_and_fifos_are_left_alone(tmp_path: Path, former: str | None) -> None:
    root, victim = tmp_path / "photos", tmp_path / "outside" / "victim"
    root.mkdir()
    victim.parent.mkdir()
    victim.write_text("mine\n")
    (root / "a.txt").symlink_to(victim)
    (root / "b.txt").symlink_to(tmp_path / "outside" / "absent")
    os.mkfifo(root / "c.txt")
    (root / "d.txt").mkdir()
    (root / "sub").symlink_to(victim.parent)
    sidecars = Sidecars(root, ".txt")
    for name in ("a.png", "b.png", "c.png", "d.png", "sub/e.png"):
        sidecars.write(name, "caption", former)
    assert sidecars.kept.count == 4
    assert sidecars.failed.examples == [f"{root / 'sub' / 'e.txt'} is outside of {root}"]
    assert os.listdir(victim.parent) == ["victim"]
    assert victim.read_text() == "mine\n"


def test_links_within_the_folder_lead_to_sidecars(tmp_path: Path) -> None:
    (tmp_path / "real" / "sub").mkdir(parents=True)
    (tmp_path / "root").symlink_to(tmp_path / "real")
    (tmp_path / "real" / "link").symlink_to("sub")
    sidecars = Sidecars(tmp_path / "root", ".txt")
    sidecars.write("link/a.png", "c")
    assert (tmp_path / "real" / "sub" / "a.txt").read_text() == "c\n"


def test_files_that_the_run_uses_are_protected(tmp_path: Path) -> None:
    out = tmp_path / "captions.jsonl"
    sidecars = Sidecars(tmp_path, ".jsonl", frozenset([os.path.realpath(out)]))
    sidecars.write("captions.png", "c")
    assert sidecars.kept.examples == [str(out)]
    assert os.listdir(tmp_path) == []


def test_own_sidecars_are_known(tmp_path: Path) -> None:
    root, out = tmp_path / "photos", tmp_path / "c.jsonl"
    root.mkdir()
    names = ["a.png", "b.png", "c.png"]
    rows = [encode_row({"file_name": name, "alt": "", "caption": f"of {name}"}) for name in names]
    assert count_own(out, root, ".txt") == 0
    for name in names[:2]:
        Sidecars(root, ".txt").write(name, f"of {name}")
    (root / "c.txt").write_text("by hand\n")
    for path in (out, tmp_path / "c.jsonl.part", tmp_path / "other.jsonl"):
        path.write_bytes(b"".join(rows))
        assert count_own(out, root, ".txt") == 2
        assert count_own(out, root, ".caption") == 0
        path.unlink()
