"""Walking folders, the hostile ones included."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest
from PIL import Image

from altogether_rt.data.sources.scan import order_key, scan_folder
from altogether_rt.errors import AltogetherError

pytestmark = pytest.mark.lean


def touch(path: Path, content: bytes = b"x") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def save(path: Path, image_format: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8)).save(path, image_format)


def test_order_is_stable_and_by_part(tmp_path: Path) -> None:
    for name in ("b.jpg", "a/z.PNG", "a.jpg", "a/b/c.webp", "a-b.gif", "B.jpeg", "é.jpg"):
        touch(tmp_path / name)
    names = scan_folder(tmp_path).names
    assert names == ["B.jpeg", "a/b/c.webp", "a/z.PNG", "a-b.gif", "a.jpg", "b.jpg", "é.jpg"]
    assert names == sorted(names, key=order_key)
    assert scan_folder(tmp_path, recursive=False).names == [
        "B.jpeg", "a-b.gif", "a.jpg", "b.jpg", "é.jpg",
    ]  # fmt: skip


def test_images_by_content(tmp_path: Path) -> None:
    for image_format in ("JPEG", "PNG", "GIF", "WEBP", "AVIF", "BMP", "TIFF", "PPM", "JPEG2000"):
        save(tmp_path / f"blob-{image_format}", image_format)
    for name, content in (
        ("alts.jsonl", b'{"file_name": "a.jpg", "alt": "x"}'),
        ("README", b"BMW cars and P6 engines are not pictures."),
        ("P6.txt", b"P6 engines, all of them in one long text"),
        ("empty", b""),
        ("short", b"GIF89a"),
        ("movie.mp4", b"\x00\x00\x00\x18ftypisom\x00\x00\x00\x00isommp42" + bytes(40)),
    ):
        touch(tmp_path / name, content)
    scan = scan_folder(tmp_path)
    assert len(scan.names) == 9
    assert all(name.startswith("blob-") for name in scan.names)
    assert scan.num_other == 6


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        (
            "alts.jsonl",
            r"alts\.jsonl is not an image \(alt-texts are given by --alt\): name an image",
        ),
        ("notes.md", r"notes\.md is not an image: name an image, or a folder of images\."),
    ],
)
def test_one_file_that_is_no_image(tmp_path: Path, name: str, sentence: str) -> None:
    with pytest.raises(AltogetherError, match=sentence):
        scan_folder(touch(tmp_path / name, b'{"file_name": "a.jpg", "alt": "x"}'))
    save(tmp_path / "blob", "PNG")
    assert scan_folder(tmp_path / "blob").names == ["blob"]
    assert scan_folder(touch(tmp_path / "page.jpg", b"<html>")).names == ["page.jpg"]


def test_links_to_folders(tmp_path: Path) -> None:
    root = tmp_path / "root"
    touch(root / "z" / "a.jpg")
    touch(tmp_path / "elsewhere" / "b.jpg")
    (tmp_path / "elsewhere" / "back").symlink_to(root)
    (root / "loop").symlink_to(root)
    (root / "z" / "up").symlink_to("..")
    (root / "twice").symlink_to("z")
    (root / "outside").symlink_to(tmp_path / "elsewhere")
    (root / "outside2").symlink_to(tmp_path / "elsewhere")
    (root / "parent").symlink_to(tmp_path)
    (root / "self").symlink_to("self")
    (root / "link.jpg").symlink_to("z/a.jpg")
    (root / "broken.jpg").symlink_to("nowhere.jpg")
    scan = scan_folder(root)
    assert scan.names == ["broken.jpg", "link.jpg", "outside/b.jpg", "z/a.jpg"]
    assert scan.problems.count == 6


def test_pipes_and_sockets_are_never_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    os.mkfifo(tmp_path / "pipe.jpg")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket"))
        scan = scan_folder(tmp_path)  # would wait for ever
    assert scan.names == ["pipe.jpg"]  # gets its row, which says what it is
    assert scan.num_other == 2


def test_names_that_are_not_text(tmp_path: Path) -> None:
    raw = os.fsencode(tmp_path) + b"/caf\xe9.jpg"
    with open(raw, "wb") as file:
        file.write(b"x")
    touch(tmp_path / "new\nline.jpg")
    names = scan_folder(tmp_path).names
    assert names == ["caf\udce9.jpg", "new\nline.jpg"]
    assert (tmp_path / names[0]).exists()


def test_hidden_folders_are_not_entered(tmp_path: Path) -> None:
    touch(tmp_path / ".git" / "a.jpg")
    touch(tmp_path / ".b.jpg")
    assert scan_folder(tmp_path).names == [".b.jpg"]


def test_deep_folders(tmp_path: Path) -> None:
    folder = tmp_path
    for _ in range(400):
        folder /= "d"
    touch(folder / "a.jpg")
    assert scan_folder(tmp_path).names == ["d/" * 400 + "a.jpg"]


def test_one_file(tmp_path: Path) -> None:
    touch(tmp_path / "a.jpg")
    scan = scan_folder(tmp_path / "a.jpg")
    assert (scan.root, scan.names) == (tmp_path, ["a.jpg"])


def test_no_such_folder(tmp_path: Path) -> None:
    with pytest.raises(AltogetherError, match="cannot be read"):
        scan_folder(tmp_path / "absent")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_unreadable_folder_is_reported(tmp_path: Path) -> None:
    touch(tmp_path / "shut" / "a.jpg")
    touch(tmp_path / "b.jpg")
    (tmp_path / "shut").chmod(0)
    try:
        scan = scan_folder(tmp_path)
    finally:
        (tmp_path / "shut").chmod(0o700)
    assert scan.names == ["b.jpg"]
    assert "shut" in scan.problems.examples[0]


def test_shared_folders(shared_data: Path) -> None:
    odd = scan_folder(shared_data / "odd")
    assert len(odd.names) == 63
    assert odd.num_other == 1
    assert len(scan_folder(shared_data / "alts").names) == 93
