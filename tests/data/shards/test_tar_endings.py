"""How tars end, and that what can be read before, behind and between damage is read."""

from __future__ import annotations

import io
import tarfile

import pytest

from altogether_rt.data.shards.base import Ending, Shard
from altogether_rt.data.shards.tar import TarSource
from altogether_rt.errors import AltogetherError
from tests.data.shards.reading import Reader, special
from tests.shards_fixtures import Member, png, tar_bytes, webdataset_shard

pytestmark = pytest.mark.lean


#: (bytes kept, ending, images) of a tar of three samples of two members of one block each.
CUTS = (
    (0, "truncated", 0),
    (100, "truncated", 0),  # in the first header
    (512, "truncated", 0),  # before its content
    (560, "truncated", 0),
    (1024, "unmarked", 1),  # exactly between members
    (2048, "unmarked", 1),
    (2048 + 200, "truncated", 1),
    (6144, "unmarked", 3),
    (6144 + 512, "whole", 3),  # one block of zeros
    (6144 + 100, "unmarked", 3),  # within the end mark
)


@pytest.mark.parametrize(("kept", "kind", "images"), CUTS)
def test_cut_off(read: Reader, kept: int, kind: str, images: int) -> None:
    members: list[Member] = []
    for number in range(3):
        members += [(f"{number}.png", png(number)), (f"{number}.txt", b"t")]
    raw = tar_bytes(members)
    assert all(len(content) <= 512 for _, content in members)
    found = read(raw[:kept])
    assert found.ending.kind == kind
    assert sum(isinstance(sample.image, bytes) for sample in found.samples) == images
    if kind == "truncated":
        assert found.ending.offset == kept and not found.ending.is_complete
    if kept == 560:
        assert found.error("0") == "truncated"
        assert "within 0.png, of which 48 of" in found.ending.message


def test_a_tar_appended_to_a_tar(read: Reader) -> None:
    first, second = tar_bytes(webdataset_shard(2)), tar_bytes(webdataset_shard(2, first=2))
    found = read(first + second)
    assert len(found.keys) == 4 and all(isinstance(s.image, bytes) for s in found.samples)
    assert found.ending.kind == "appended" and found.ending.offset == len(first)
    assert found.ending.is_complete
    assert read(first + second[:1500]).ending.kind == "truncated"
    found = read(first + b"no tar" * 200)
    assert found.ending.kind == "damaged" and found.ending.offset == len(first)
    assert len(found.keys) == 2


@pytest.mark.parametrize("change", ["header", "lost", "added", "zeroed", "size"])
def test_reading_goes_on_behind_damage(read: Reader, change: str) -> None:
    raw = bytearray(tar_bytes(webdataset_shard(9)))
    with tarfile.open(fileobj=io.BytesIO(raw)) as tar:
        at = tar.getmember("000000004.png").offset
    if change == "header":
        raw[at : at + 20] = b"x" * 20
    elif change == "lost":
        del raw[at - 700 : at + 1]
    elif change == "added":
        raw[at:at] = b"added"
    elif change == "zeroed":
        raw[at : at + 512] = bytes(512)
    else:  # a size that reaches over the next samples, with a sum that is right
        header = tarfile.TarInfo.frombuf(bytes(raw[at : at + 512]), "utf-8", "strict")
        header.size = 100_000_000
        raw[at : at + 512] = header.tobuf(tarfile.GNU_FORMAT)
    found = read(bytes(raw))
    assert found.ending.kind == "damaged" and not found.ending.is_complete
    assert found.ending.offset is not None and at - 2000 < found.ending.offset <= at + 512
    for number in (0, 1, 2, 5, 6, 7, 8):
        assert found.by_key[f"{number:09}"].image == png(number)
        assert found.alts(f"{number:09}") == (f"alt {number}",)
    assert "000000004" in found.keys, "its text has no image, and a row says so"


def test_a_large_member_that_nothing_reads_and_that_has_swallowed_others(read: Reader) -> None:
    """What is lost is exactly the rest of it and all of the next samples but the last: the walk
    finds a header where it looks for one, and only the content tells."""
    members = webdataset_shard(9)
    position = [name for name, _ in members].index("000000003.json") + 1
    large = ("000000003.npy", bytes(range(256)) * 400)
    whole = tar_bytes([*members[:position], large, *members[position:]])
    assert read(whole).ending.kind == "whole"
    with tarfile.open(fileobj=io.BytesIO(whole)) as tar:
        start = tar.getmember("000000003.npy").offset_data
        next_sample = tar.getmember("000000004.png").offset
        size = next_sample - start
        # As many bytes are lost of it as the three samples take that stand in its place.
        swallowed = tar.getmember("000000007.png").offset - next_sample
    found = read(whole[:start] + whole[start + swallowed : start + size] + whole[next_sample:])
    assert set(found.keys) == {f"{n:09}" for n in (0, 1, 2, 3, 7, 8)}
    assert found.ending.kind == "damaged" and found.ending.offset == start + size - swallowed
    inner = read([("a.png", png(1)), ("a.tar", tar_bytes(members) * 4)])
    assert inner.ending.kind == "whole", "a tar in a tar is meant"


def test_what_is_no_tar(read: Reader) -> None:
    found = read(b"<html>" * 1000)
    assert found.keys == [] and found.ending == Ending("damaged", 0, found.ending.message)
    with pytest.raises(AltogetherError, match="cannot be read"):
        TarSource(Shard("a", "/nowhere.tar"), "/nowhere.tar")


def test_headers_that_ask_for_memory(read: Reader) -> None:
    """A pax header that claims gigabytes, and extensions that follow each other for ever."""
    header = special("x", tarfile.XHDTYPE)
    header.size = 1 << 33
    raw = header.tobuf(tarfile.GNU_FORMAT) + tar_bytes(webdataset_shard(1))
    assert read(raw).keys == ["000000000"]
    long_name = special("././@LongLink", tarfile.GNUTYPE_LONGNAME)
    long_name.size = 1
    block = long_name.tobuf(tarfile.GNU_FORMAT) + bytes(512)
    found = read(block * 300 + tar_bytes(webdataset_shard(1)))
    assert found.keys[-1] == "000000000" or len(found.keys) == 1
