"""Captions in tars: what changes, and that nothing else does."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import pytest

from altogether_rt.data.shards.base import Ending
from altogether_rt.mixing.draw import MixDraw
from altogether_rt.mixing.table import SampleTable
from altogether_rt.publishing.counts import ExportCounts
from altogether_rt.publishing.tar_members import copy_bytes
from altogether_rt.publishing.tars import IntoJson, IntoText, Placement, merge_tar
from tests.publishing.examples import image_bytes, members_of, write_tar

pytestmark = pytest.mark.lean


def merge(
    tmp_path: Path,
    source: Path,
    rows: dict[str, str | None],
    placement: Placement | None = None,
    alts: tuple[str, ...] = (),
) -> tuple[Path, ExportCounts, Ending]:
    counts = ExportCounts()
    merged = tmp_path / "merged.tar"
    with SampleTable() as table, source.open("rb") as file, merged.open("w+b") as target:
        for key, caption in rows.items():
            table.add(key, alts, caption)
        ending = merge_tar(file, target, table, placement or IntoJson(), counts)
    return merged, counts, ending


def test_the_caption_stands_beside_the_old_text(tmp_path: Path) -> None:
    old = b'{"url": "http://x/1.png",  "score": 1.50, "width": NaN}\n'
    source = write_tar(
        tmp_path / "0.tar",
        [
            ("000.png", image_bytes(0)),
            ("000.txt", b"a boat"),
            ("000.json", old),
            ("001.png", image_bytes(1)),
            ("001.txt", b"a bell"),
        ],
    )
    merged, counts, ending = merge(
        tmp_path, source, {"000": 'the "Marigold"', "001": "ein Glöckchen"}
    )
    found = members_of(merged)
    assert list(found) == ["000.png", "000.txt", "000.json", "001.png", "001.txt", "001.json"]
    assert found["000.json"] == (
        b'{"url": "http://x/1.png",  "score": 1.50, "width": NaN, '
        b'"altogether": "the \\"Marigold\\""}\n'
    )
    assert found["001.json"].decode() == '{"altogether": "ein Glöckchen"}'
    assert found["001.txt"] == b"a bell"
    assert ending == Ending("whole")
    assert counts == ExportCounts(captions=2)


def test_what_does_not_change_is_copied_to_the_byte(tmp_path: Path) -> None:
    """Headers too: owner, time, long names, pax records, links and folders."""
    long = "very/" * 40 + "long"
    path = tmp_path / "0.tar"
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT, pax_headers={"comment": "all"}) as tar:
        for name, data in ((f"{long}.png", image_bytes(0)), ("b.png", image_bytes(1))):
            info = tarfile.TarInfo(name)
            info.size, info.mtime = len(data), 1_700_000_000.25
            tar.addfile(info, io.BytesIO(data))
        link = tarfile.TarInfo("c.png")
        link.type, link.linkname = tarfile.LNKTYPE, "b.png"
        tar.addfile(link)
        folder = tarfile.TarInfo("folder")
        folder.type = tarfile.DIRTYPE
        tar.addfile(folder)
        last = tarfile.TarInfo("d.json")
        last.size = 2
        tar.addfile(last, io.BytesIO(b"{}"))
    merged, counts, _ = merge(tmp_path, path, {})
    assert merged.read_bytes() == path.read_bytes()
    assert counts == ExportCounts(without_row=3)

    merged, counts, _ = merge(tmp_path, path, {long: "long", "c": "linked"})
    assert counts == ExportCounts(captions=2, without_row=1)
    with tarfile.open(merged) as tar:
        assert tar.pax_headers == {"comment": "all"}
        infos = {info.name: info for info in tar}
        json_names = (f"{long}.json", "c.json")
        assert list(infos) == [
            *(f"{long}.png", json_names[0], "b.png", "c.png", json_names[1], "folder", "d.json"),
        ]
        assert infos[f"{long}.png"].mtime == 1_700_000_000.25
        assert infos["c.png"].islnk() and infos["folder"].isdir()


def test_a_changed_member_keeps_its_owner_and_time(tmp_path: Path) -> None:
    for layout in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT, tarfile.USTAR_FORMAT):
        name = "ü" * 60 if layout != tarfile.USTAR_FORMAT else "a"
        source = write_tar(
            tmp_path / "0.tar", [(f"{name}.png", b"x"), (f"{name}.json", b"{}")], layout
        )
        merged, _, _ = merge(tmp_path, source, {name: "c"})
        with tarfile.open(merged) as archive:
            changed = archive.getmember(f"{name}.json")
        assert (changed.mode, changed.uid, changed.uname) == (0o640, 1000, "someone")
        assert changed.mtime == 1_700_000_001
        assert members_of(merged)[f"{name}.json"] == b'{"altogether": "c"}'


def test_a_changed_member_keeps_its_pax_records(tmp_path: Path) -> None:
    """All but those of the data that it had."""
    source = tmp_path / "0.tar"
    with tarfile.open(source, "w", format=tarfile.PAX_FORMAT) as archive:
        archive.addfile(tarfile.TarInfo("a.png"))
        info = tarfile.TarInfo("a.json")
        info.size, info.pax_headers = 2, {"SCHILY.xattr.user.note": "kept", "size": "2"}
        info.mtime = 1_700_000_000.25
        archive.addfile(info, io.BytesIO(b"{}"))
    merged, _, _ = merge(tmp_path, source, {"a": "c"})
    assert members_of(merged)["a.json"] == b'{"altogether": "c"}'
    with tarfile.open(merged) as archive:
        changed = archive.getmember("a.json")
    assert changed.pax_headers["SCHILY.xattr.user.note"] == "kept"
    assert changed.mtime == 1_700_000_000.25


def test_a_text_that_is_too_large_to_be_one_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_tar(tmp_path / "0.tar", [("a.png", b"x"), ("a.json", b'{"a": 1234}')])
    for limit, changed in ((11, True), (10, False)):
        monkeypatch.setattr("altogether_rt.publishing.tars._MAX_TEXT_BYTES", limit)
        merged, counts, _ = merge(tmp_path, source, {"a": "c"})
        assert (b"altogether" in members_of(merged)["a.json"]) == changed
        assert (counts.captions, counts.json_unusable) == (changed, not changed)


def test_a_file_that_becomes_shorter_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "short"
    path.write_bytes(bytes(50))
    copied = io.BytesIO()
    with path.open("rb") as file:
        copy_bytes(file, copied, 10, 50)
        assert copied.getvalue() == bytes(40)
        with pytest.raises(OSError, match="became shorter"):
            copy_bytes(file, copied, 10, 51)


def test_bytes_do_not_depend_on_time(tmp_path: Path) -> None:
    source = write_tar(tmp_path / "0.tar", [("a.png", b"x"), ("b.png", b"y")])
    first = merge(tmp_path, source, {"a": "one", "b": "two"})[0].read_bytes()
    assert merge(tmp_path, source, {"b": "two", "a": "one"})[0].read_bytes() == first
    assert len(first) % tarfile.RECORDSIZE == 0


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"{}", b'{"altogether": "c"}'),
        (b"\xef\xbb\xbf{ }\n", b'\xef\xbb\xbf{"altogether": "c"}\n'),
        (b'{"a": {"b": 1}}', b'{"a": {"b": 1}, "altogether": "c"}'),
        (b'{\n  "a": "}"\n}\n', b'{\n  "a": "}", "altogether": "c"}\n'),
        (b'{"altogether": "before", "a": 1.50}', b'{"altogether": "c", "a": 1.5}'),
        (b'{"altogether": "\\ud800"}', b'{"altogether": "c"}'),
        (b"[1]", None),
        (b"", None),
        (b"{broken", None),
        (b'{"a": "\xff"}', None),
        (b"[" * 100_000, None),
    ],
)
def test_every_kind_of_json_member(tmp_path: Path, old: bytes, new: bytes | None) -> None:
    source = write_tar(tmp_path / "0.tar", [("a.png", b"x"), ("a.JSON", old)])
    merged, counts, _ = merge(tmp_path, source, {"a": "c"})
    assert members_of(merged)["a.JSON"] == (old if new is None else new)
    assert counts == (ExportCounts(json_unusable=1) if new is None else ExportCounts(captions=1))


def test_keys_are_told_apart_at_the_right_dot(tmp_path: Path) -> None:
    names = ("img.v1.png", "img.v1.json", "img.v2.png", "img.png", "dir.x/a.png", "dir.x/b.c.PNG")
    source = write_tar(tmp_path / "0.tar", [(name, b"{}") for name in names])
    rows: dict[str, str | None] = {"img.v1": "1", "img.v2": "2", "img": "0", "dir.x/a": "a"}
    merged, counts, _ = merge(tmp_path, source, rows | {"dir.x/b.c": "b"})
    texts = {
        name: json.loads(data)["altogether"]
        for name, data in members_of(merged).items()
        if name.endswith(".json")
    }
    assert texts == {
        "img.v1.json": "1",
        "img.v2.json": "2",
        "img.json": "0",
        "dir.x/a.json": "a",
        "dir.x/b.c.json": "b",
    }
    assert counts == ExportCounts(captions=5, dotted_keys=3)


def test_a_dot_before_the_suffix_need_not_belong_to_the_key(tmp_path: Path) -> None:
    source = write_tar(tmp_path / "0.tar", [("img.v1.png", b"x"), ("img.v1.json", b"{}")])
    merged, _, _ = merge(tmp_path, source, {"img": "c"})
    assert members_of(merged)["img.v1.json"] == b'{"altogether": "c"}'
    names = ("img.cls", "img.v1.png", "img.v1.json")  # the image need not come first
    source = write_tar(tmp_path / "0.tar", [(name, b"{}") for name in names])
    merged, _, _ = merge(tmp_path, source, {"img": "c"})
    assert tuple(members_of(merged)) == names
    assert members_of(merged)["img.v1.json"] == b'{"altogether": "c"}'
    source = write_tar(tmp_path / "0.tar", [("img.v1.png", b"x")])
    merged, _, _ = merge(tmp_path, source, {"img": "c"})
    assert list(members_of(merged)) == ["img.v1.png", "img.json"]


def test_samples_without_a_row_are_told_apart_as_webdataset_does(tmp_path: Path) -> None:
    """By what precedes the first dot of the last part of a name."""
    names = ("x.png", "x.seg.png", "y.v1.png", "y.v2.png", "d/e.f/a.png", "d/e.f/b.png", "README")
    source = write_tar(tmp_path / "0.tar", [(name, b"{}") for name in names])
    merged, counts, _ = merge(tmp_path, source, {})
    assert merged.read_bytes() == source.read_bytes()
    assert counts == ExportCounts(without_row=4)


def test_members_of_a_sample_may_be_written_in_capitals(tmp_path: Path) -> None:
    source = write_tar(tmp_path / "0.tar", [("IMG_1.JPG", b"x"), ("IMG_1.Json", b"{}")])
    merged, counts, _ = merge(tmp_path, source, {"IMG_1": "c"})
    assert members_of(merged) == {"IMG_1.JPG": b"x", "IMG_1.Json": b'{"altogether": "c"}'}
    assert counts == ExportCounts(captions=1)


def test_a_caption_waits_for_its_image(tmp_path: Path) -> None:
    """Texts alone, under the key of a row, are not the sample that was captioned."""
    source = write_tar(
        tmp_path / "0.tar", [("a.txt", b"t"), ("b.png", b"x"), ("a.png", b"y"), ("a.json", b"{}")]
    )
    merged, counts, _ = merge(tmp_path, source, {"a": "an a"})
    found = members_of(merged)
    assert list(found) == ["a.txt", "b.png", "a.png", "a.json"]
    assert found["a.json"] == b'{"altogether": "an a"}'
    assert counts == ExportCounts(captions=1, without_row=1)


def test_a_link_in_the_place_of_the_text_stays(tmp_path: Path) -> None:
    source = tmp_path / "0.tar"
    with tarfile.open(source, "w") as archive:
        image = tarfile.TarInfo("a.png")
        archive.addfile(image)
        link = tarfile.TarInfo("a.json")
        link.type, link.linkname = tarfile.SYMTYPE, "../elsewhere.json"
        archive.addfile(link)
    merged, counts, _ = merge(tmp_path, source, {"a": "c"})
    assert merged.read_bytes() == source.read_bytes()
    assert counts == ExportCounts(json_unusable=1)


def test_a_caption_is_used_once(tmp_path: Path) -> None:
    """Of two samples with one key the second gets no caption: it is another image."""
    source = tmp_path / "0.tar"
    with tarfile.open(source, "w") as archive:
        for name, data in (("a.png", b"1"), ("b.png", b"2"), ("a.png", b"3"), ("a.txt", b"t")):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    merged, counts, _ = merge(tmp_path, source, {"a": "one", "b": "two", "z": "nowhere"})
    with tarfile.open(merged) as archive:
        assert archive.getnames() == ["a.png", "a.json", "b.png", "b.json", "a.png", "a.txt"]
    assert counts == ExportCounts(captions=2, without_row=1)


@pytest.mark.parametrize("key", ["../../evil", "/abs/olute", "a b", "ünïcödé", "con\nol"])
def test_hostile_keys_are_only_names(tmp_path: Path, key: str) -> None:
    source = write_tar(tmp_path / "0.tar", [(f"{key}.png", b"x")])
    merged, counts, _ = merge(tmp_path, source, {key: "c"})
    with tarfile.open(merged) as archive:
        assert archive.getnames() == [f"{key}.png", f"{key}.json"]
    assert counts.captions == 1
    assert {path.name for path in tmp_path.iterdir()} == {"0.tar", "merged.tar"}


def test_names_that_are_not_utf8(tmp_path: Path) -> None:
    """A row has them as text; a new member has the name of its image."""
    key = b"caf\xe9".decode("utf-8", "surrogateescape")
    source = tmp_path / "0.tar"
    with tarfile.open(source, "w", format=tarfile.GNU_FORMAT, errors="surrogateescape") as archive:
        archive.addfile(tarfile.TarInfo(f"{key}.png"))
    merged, counts, _ = merge(tmp_path, source, {"caf\\xe9": "c"})
    with tarfile.open(merged, errors="surrogateescape") as archive:
        assert archive.getnames() == [f"{key}.png", f"{key}.json"]
    assert counts.captions == 1
    # Behind the key, before the suffix: not part of the new member's name.
    for middle in (key, "ü", "v1"):
        for start, row in (("img", "img"), (key, "caf\\xe9")):
            name = f"{start}.{middle}.png"
            with tarfile.open(
                source, "w", format=tarfile.GNU_FORMAT, errors="surrogateescape"
            ) as archive:
                archive.addfile(tarfile.TarInfo(name))
            merged, counts, _ = merge(tmp_path, source, {row: "c"})
            with tarfile.open(merged, errors="surrogateescape") as archive:
                assert archive.getnames() == [name, f"{start}.json"]
            assert counts.captions == 1


def test_the_share_of_captions_among_texts_is_that_of_mix(tmp_path: Path) -> None:
    keys = [f"{number:04d}" for number in range(400)]
    source = write_tar(
        tmp_path / "0.tar",
        [
            (f"{k}.{suffix}", data)
            for k in keys
            for suffix, data in (("png", b"x"), ("txt", b"old"))
        ],
    )
    rows: dict[str, str | None] = {key: f"caption {key}" for key in keys}
    draw = MixDraw(0.25, seed=3)
    merged, counts, _ = merge(tmp_path, source, rows, IntoText(draw, epoch=2))
    expected = {key: f"caption {key}" if draw.wants_caption(key, 2) else "old" for key in keys}
    found = members_of(merged)
    assert {key: found[f"{key}.txt"].decode() for key in keys} == expected
    assert counts.captions == sum(text != "old" for text in expected.values())
    assert counts.captions + counts.alts == 400
    # Binomial: 100 expected, standard deviation 8.7.
    assert 70 <= counts.captions <= 130


def test_texts_that_are_missing(tmp_path: Path) -> None:
    source = write_tar(
        tmp_path / "0.tar", [(f"{key}.png", b"x") for key in ("a", "b")] + [("c.txt", b"old")]
    )
    always, never = IntoText(MixDraw(1)), IntoText(MixDraw(0))
    merged, counts, _ = merge(tmp_path, source, {"a": "c", "b": None}, always)
    assert list(members_of(merged)) == ["a.png", "a.txt", "b.png", "c.txt"]
    assert counts == ExportCounts(captions=1, without_text=1)
    merged, counts, _ = merge(tmp_path, source, {"a": "c", "b": None}, never, alts=("an alt",))
    assert members_of(merged)["a.txt"] == members_of(merged)["b.txt"] == b"an alt"
    assert counts == ExportCounts(alts=2)


def test_what_can_be_read_of_a_damaged_tar_is_written(tmp_path: Path) -> None:
    source = write_tar(tmp_path / "0.tar", [(f"{n}.png", bytes(600)) for n in range(4)])
    whole = source.read_bytes()
    rows: dict[str, str | None] = {str(number): "c" for number in range(4)}
    member = 512 + 1024  # its header and 600 bytes of data, padded

    def merged_numbers(data: bytes) -> tuple[str, str, int]:
        source.write_bytes(data)
        merged, counts, ending = merge(tmp_path, source, rows)
        names = list(members_of(merged))
        assert names[1::2] == [name.replace("png", "json") for name in names[::2]]
        assert counts.captions == len(names) / 2
        return ending.kind, "".join(name[0] for name in names[::2]), ending.offset or 0

    cut = 2 * member + 700  # within the third one's content
    assert merged_numbers(whole[:cut]) == ("truncated", "01", cut)
    cut = 2 * member + 100  # within its header
    assert merged_numbers(whole[:cut]) == ("truncated", "01", cut)
    assert merged_numbers(whole[: 4 * member]) == ("unmarked", "0123", 4 * member)
    damaged = whole[: 2 * member] + b"?" * 512 + whole[2 * member + 512 :]
    assert merged_numbers(damaged)[:2] == ("damaged", "013")
    assert merged_numbers(b"") == ("truncated", "", 0)


def test_a_second_tar_behind_the_end_mark(tmp_path: Path) -> None:
    first = write_tar(tmp_path / "0.tar", [("a.png", b"x")]).read_bytes()
    second = write_tar(tmp_path / "1.tar", [("b.png", b"y")]).read_bytes()
    source = tmp_path / "both.tar"
    source.write_bytes(first + second)
    merged, counts, ending = merge(tmp_path, source, {"a": "one", "b": "two"})
    assert list(members_of(merged)) == ["a.png", "a.json", "b.png", "b.json"]
    assert (counts.captions, ending.kind) == (2, "appended")


def test_a_folder_at_the_end(tmp_path: Path) -> None:
    source = tmp_path / "0.tar"
    with tarfile.open(source, "w") as archive:
        for name in ("first", "last"):
            folder = tarfile.TarInfo(name)
            folder.type = tarfile.DIRTYPE
            archive.addfile(folder)
            if name == "first":
                archive.addfile(tarfile.TarInfo("a.txt"))
    assert merge(tmp_path, source, {})[0].read_bytes() == source.read_bytes()


def test_a_header_that_promises_gigabytes(tmp_path: Path) -> None:
    source = tmp_path / "0.tar"
    first = tarfile.TarInfo("a.png").tobuf()
    header = tarfile.TarInfo("x")
    header.type, header.size = tarfile.XHDTYPE, 1 << 40
    source.write_bytes(first + header.tobuf(tarfile.GNU_FORMAT))
    merged, counts, ending = merge(tmp_path, source, {"a": "c"})
    assert ending.kind != "whole"
    assert list(members_of(merged)) == ["a.png", "a.json"]
    assert counts.captions == 1
