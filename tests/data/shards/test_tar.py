"""Every oddity of what is in tars: one row or one named error a sample, nothing lost in silence."""

from __future__ import annotations

import json
import os
import pickle
import tarfile
from pathlib import Path

import pytest

from altogether_rt.data.images import ImageLimits, open_image
from altogether_rt.data.shards.base import Ending
from altogether_rt.data.shards.options import ShardOptions, parse_alt_keys
from altogether_rt.data.shards.tar import TarSource
from altogether_rt.errors import AltogetherError
from tests.data.shards.reading import Read, Reader, options, special
from tests.shards_fixtures import Member, png, tar_bytes, webdataset_shard

pytestmark = pytest.mark.lean


# -- what is in a sample


def test_a_shard_of_img2dataset(read: Reader) -> None:
    found = read(webdataset_shard(3))
    assert found.keys == ["000000000", "000000001", "000000002"]
    assert [s.image for s in found.samples] == [png(0), png(1), png(2)]
    assert [s.alts.texts for s in found.samples] == [("alt 0",), ("alt 1",), ("alt 2",)]
    assert found.ending == Ending("whole")
    assert not any(problems for problems in found.source.unused().values())


@pytest.mark.parametrize("suffix", ["jpg", "JPG", "Jpeg", "png", "webp", "TIFF"])
def test_suffixes_in_any_case(read: Reader, suffix: str) -> None:
    found = read([(f"a.{suffix}", png()), ("a.TXT", b"A Boat")])
    assert found.keys == ["a"] and found.alts("a") == ("A Boat",)
    assert found.by_key["a"].image == png()


def test_alt_keys(read: Reader) -> None:
    record = {"caption": "json caption", "alt": ["one", "two"], "deep": {"er": "three"}}
    members: list[Member] = [
        ("a.png", png()),
        ("a.txt", b"text"),
        ("a.caption", b"json caption"),
        ("a.json", json.dumps(record).encode()),
    ]
    assert read(members).alts("a") == ("text",), "the first that has any"
    assert read(members[:1] + members[3:]).alts("a") == ("one", "two")
    named = options("txt;json:caption;caption;alt;json:deep.er")
    assert read(members, named).alts("a") == ("text", "json caption", "one", "two", "three")
    blank = [("a.png", png()), ("a.txt", b" \n"), members[3]]
    assert read(blank).alts("a") == ("one", "two"), "an empty text is none"


@pytest.mark.parametrize("text", ["txt;;alt", "", "json:", ":caption"])
def test_alt_keys_with_empty_parts_are_refused(text: str) -> None:
    with pytest.raises(AltogetherError, match="--alt-key"):
        parse_alt_keys(text)


def test_image_keys(read: Reader) -> None:
    members: list[Member] = [("a.input.png", png(1)), ("a.seg.png", png(2)), ("a.txt", b"t")]
    found = read(members, options(image="seg.png;input.png"))
    assert found.keys == ["a"] and found.by_key["a"].image == png(2)
    found = read([("a.jpg", png(1)), ("a.txt", b"t")], options(image="webp"))
    assert found.error("a") == "missing"
    assert "image (webp)" in str(found.by_key["a"].image)


def test_fields_that_are_asked_for(read: Reader) -> None:
    found = read(webdataset_shard(1), ShardOptions(keep_fields=("url", "sha256")))
    assert found.samples[0].fields == {"url": "https://example.org/0"}


def test_metaclip_texts(read: Reader) -> None:
    first = json.dumps({"texts": [["alt", "a boat"], ["title", "Boats"]]}).encode()
    second = json.dumps({"texts": [["ein Boot", "de", [3, 4]], ["barco", None, []]]}).encode()
    found = read([("a.jpeg", png()), ("a.json", first), ("b.jpeg", png()), ("b.json", second)])
    assert found.alts("a") == ("a boat", "Boats")
    assert found.alts("b") == ("ein Boot", "barco")


# -- keys


def test_keys_with_dots_stay_two_samples(read: Reader) -> None:
    members: list[Member] = [
        *[("img.v1.jpg", png(1)), ("img.v1.txt", b"one"), ("img.v2.jpg", png(2))],
        *[("img.v2.txt", b"two"), ("img.txt", b"both")],
        *[("other.v1.jpg", png(3)), ("other.v1.txt", b"three")],
    ]
    found = read(members)
    assert found.keys == ["img.v1", "img.v2", "other"], "alone, a key is webdataset's"
    assert [found.by_key[key].image for key in found.keys] == [png(1), png(2), png(3)]
    assert found.alts("img.v1") == ("one",) and found.alts("img.v2") == ("two",)
    assert found.alts("other") == ("three",)


def test_keys_are_webdatasets(read: Reader) -> None:
    """Joins with what others made of the same shard: webdataset itself is asked."""
    names = ["a/b.c/img.jpg", "./x/y.png", "/abs.webp", "../../evil.jpg", "ä/ö 1.jpeg", "-.jpg"]
    found = read([(name, png(index)) for index, name in enumerate(names)])
    tariterators = pytest.importorskip("webdataset.tariterators")
    assert found.keys == [tariterators.base_plus_ext(name)[0] for name in names]


def test_names_without_a_key(read: Reader) -> None:
    """webdataset leaves these out without a word."""
    found = read([("folder/img001", png(1)), (".hidden.jpg", png(2)), ("LICENSE", b"text")])
    assert found.keys == ["folder/img001", ".hidden"]
    assert [s.image for s in found.samples] == [png(1), png(2)]
    assert found.unused("members_left_out") == 1


def test_names_that_are_not_utf8(read: Reader) -> None:
    raw = tar_bytes([("a\udcff.jpg", png(1)), ("a\udcfe.jpg", png(2)), ("ok.jpg", png(3))])
    found = read(raw)
    assert found.keys == ["a\\xff", "a\\xfe", "ok"]
    for key in found.keys:
        key.encode("utf-8")


@pytest.mark.parametrize(
    "tar_format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]
)
def test_long_names(read: Reader, tar_format: int) -> None:
    name = "/".join(["folder" * 10] * (3 if tar_format == tarfile.USTAR_FORMAT else 30))
    members: list[Member] = [(f"{name}/img.jpg", png()), (f"{name}/img.txt", b"long")]
    found = read(tar_bytes(members, tar_format=tar_format))
    assert found.keys == [f"{name}/img"] and found.alts(f"{name}/img") == ("long",)


# -- what is missing, doubled or in another order


def test_missing_members(read: Reader) -> None:
    found = read([("a.jpg", png(1)), ("b.txt", b"b"), ("c.json", b"{}"), ("d.npy", b"x")])
    assert found.keys == ["a", "b", "c"]
    assert found.alts("a") == () and found.by_key["a"].image == png(1)
    assert found.error("b") == found.error("c") == "missing"
    assert "b.txt" in str(found.by_key["b"].image)
    assert found.unused("members_left_out") == 1


def test_members_apart_come_together(read: Reader) -> None:
    members = webdataset_shard(3)
    found = read(sorted(members, key=lambda member: str(member[0])[-3:]))
    assert [s.image for s in found.samples] == [png(0), png(1), png(2)]
    assert [s.alts.texts for s in found.samples] == [("alt 0",), ("alt 1",), ("alt 2",)]
    assert found.unused("samples_with_members_apart") == 3


def test_duplicate_keys(read: Reader) -> None:
    found = read([("a.jpg", png(1)), ("a.txt", b"1"), ("a.JPG", png(2)), ("a.txt", b"2")])
    assert found.keys == ["a", "a#2"]
    assert found.by_key["a"].image == png(1) and found.alts("a") == ("1",)
    assert found.error("a#2") == "duplicate" and found.alts("a#2") == ("2",)
    found = read([("a.jpg", png(1)), ("a.jpg", png(2)), ("a#2.jpg", png(3))])
    assert found.keys == ["a", "a#3", "a#2"] and found.error("a#2") == ""
    found = read([("a.jpg", png(1)), ("a.txt", b"1"), ("a.txt", b"2")])
    assert found.alts("a") == ("1",) and found.unused("members_given_twice") == 1


def test_two_formats_of_one_image(read: Reader) -> None:
    found = read([("a.webp", png(1)), ("a.jpg", png(2)), ("a.txt", b"t")])
    assert found.keys == ["a"] and found.by_key["a"].image == png(2)
    assert found.unused("images_not_chosen") == 1


def test_what_systems_leave(read: Reader) -> None:
    members: list[Member] = [("__MACOSX/._a.jpg", b"x"), ("._a.jpg", b"x"), ("d/.DS_Store", b"x")]
    found = read([*members, ("a.jpg", png()), ("__meta__/x.jpg", b"")])
    assert found.keys == ["a"] and found.unused("system_litter") == 3
    assert found.unused("members_left_out") == 1


def test_litter_is_told_by_the_parts_of_a_name(read: Reader) -> None:
    """The whole of this one looks like a temporary of ours, and no part of it does."""
    found = read([(".d/a.0123456789abcdef.tmp", png())])
    assert found.keys == [".d/a"] and found.unused("system_litter") == 0


# -- links, devices, folders, holes


def test_links(read: Reader) -> None:
    found = read(
        [
            ("d/a.jpg", png(1)),
            (special("b.jpg", tarfile.LNKTYPE, "d/a.jpg"), b""),
            (special("d/c.jpg", tarfile.SYMTYPE, "a.jpg"), b""),
            (special("d/e.jpg", tarfile.SYMTYPE, "../b.jpg"), b""),
            (special("f.jpg", tarfile.SYMTYPE, "/etc/hostname"), b""),
            (special("g.jpg", tarfile.SYMTYPE, "h.jpg"), b""),
            (special("h.jpg", tarfile.SYMTYPE, "g.jpg"), b""),
        ]
    )
    images = {key: found.by_key[key].image for key in ("d/a", "b", "d/c", "d/e")}
    assert set(images.values()) == {png(1)}
    assert [found.error(key) for key in ("f", "g", "h")] == ["not_a_file"] * 3


def test_devices_and_folders(read: Reader) -> None:
    found = read(
        [
            (special("folder.jpg", tarfile.DIRTYPE), b""),
            (special("fifo.jpg", tarfile.FIFOTYPE), b""),
            (special("device.jpg", tarfile.CHRTYPE), b""),
        ]
    )
    assert found.keys == ["fifo", "device"] and found.error("fifo") == "not_a_file"


def test_sparse_members(tmp_path: Path) -> None:
    content = png(1) + bytes(1 << 20) + b"end"
    path = tmp_path / "a.jpg"
    with path.open("wb") as file:
        file.write(png(1))
        file.seek(len(content) - 3)
        file.write(b"end")
    for sparse_format in ("gnu", "posix --sparse-version=0.0", "posix --sparse-version=1.0"):
        shard = tmp_path / "sparse.tar"
        command = f"tar -C {tmp_path} --format={sparse_format} -S -cf {shard} a.jpg"
        assert os.system(command) == 0
        found = Read(shard)
        assert found.keys == ["a"] and found.by_key["a"].image == content, sparse_format
        assert found.ending.kind == "whole"


# -- bytes that are not what they should be


def test_texts_in_other_encodings(read: Reader) -> None:
    found = read(
        [
            *[("a.jpg", png()), ("a.txt", "Zoë".encode("cp1252"))],
            *[("b.jpg", png()), ("b.txt", b"\xff\xfe" + "Zoë".encode("utf-16-le"))],
            *[("c.jpg", png()), ("c.txt", "Zoë".encode() + b"\xff")],
            *[("d.jpg", png()), ("d.json", b'{"caption": "a')],
            *[("e.jpg", png()), ("e.json", b"[" * 100_000)],
            *[("f.jpg", png()), ("f.txt", b"x" * (1 << 20) + b"x")],
        ]
    )
    assert found.alts("a") == found.alts("b") == ("Zoë",)
    assert found.alts("c") == ("Zoë\N{REPLACEMENT CHARACTER}",)
    assert found.alts("d") == found.alts("e") == found.alts("f") == ()
    counts = ("alt_texts_windows_1252", "alt_texts_not_utf8", "alt_texts_unusable")
    assert [found.unused(name) for name in counts] == [1, 1, 3]
    assert all(isinstance(sample.image, bytes) for sample in found.samples)


def test_images_beyond_the_limit_are_not_read(read: Reader) -> None:
    limits = ImageLimits(max_bytes=1000)
    found = read([("a.jpg", bytes(1001)), ("b.jpg", png())], ShardOptions(limits=limits))
    assert found.error("a") == "too_large" and found.by_key["b"].image == png()


class _Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch pickle-was-run",)


def test_no_pickle_is_decoded_and_no_path_made(
    read: Reader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    evil = pickle.dumps(_Evil())
    names = [f"../../evil.{suffix}" for suffix in ("jpg", "txt", "json", "pyd", "pkl", "pickle")]
    before = set(tmp_path.parent.rglob("*"))
    found = read([(name, evil) for name in names], options("txt;json;pyd;pkl;pickle:alt"))
    assert found.keys == ["../../evil"]
    after = set(tmp_path.parent.rglob("*"))
    assert after - before == {tmp_path / "shard.tar"}


def test_only_wanted_samples_are_read(read: Reader, monkeypatch: pytest.MonkeyPatch) -> None:
    source = read(webdataset_shard(5)).source
    num_read = 0
    original = TarSource._bytes

    def counted(self: TarSource, name: str, offset: int, size: int) -> bytes:
        nonlocal num_read
        num_read += 1
        return original(self, name, offset, size)

    monkeypatch.setattr(TarSource, "_bytes", counted)
    found = list(source.samples_where(lambda index, key: index == 3))
    assert [sample.key for sample in found] == ["000000003"] and num_read == 2


def test_samples_open_under_the_image_limits(read: Reader) -> None:
    found = read([("a.png", png())])
    with open_image(found.samples[0].image) as image:  # type: ignore[arg-type]
        assert image.size == (16, 16)
