"""A slice of the tar fuzzer, and what it has found."""

from __future__ import annotations

import io
import random
import tarfile

import pytest

from tests.data.shards.fuzz_tar import run
from tests.data.shards.reading import Reader
from tests.shards_fixtures import Member, png, tar_bytes

pytestmark = pytest.mark.lean


def test_mutations() -> None:
    endings = run(500, seed=7)
    assert sum(endings.values()) == 500 and set(endings) >= {"whole", "damaged", "truncated"}


@pytest.mark.parametrize(("size", "is_found"), [(5000, True), (200_000, False)])
def test_blocks_lost_within_a_member(read: Reader, size: int, is_found: bool) -> None:
    """The next header is then where a block of the member would be, and the walk sees nothing."""
    large = random.Random(0).randbytes(size)
    members: list[Member] = [("a.jpg", large), ("b.jpg", png(1)), ("c.jpg", png(2))]
    raw = tar_bytes(members)
    with tarfile.open(fileobj=io.BytesIO(raw)) as tar:
        at = tar.getmember("a.jpg").offset_data
    found = read(raw[: at + 1024] + raw[at + 2048 :])
    assert found.error("a") in ("damaged", "truncated") and found.by_key["c"].image == png(2)
    assert ("b" in found.by_key) == is_found, "behind a large member at least its loss is told"
    assert found.ending.kind == "damaged" and not found.ending.is_complete


def test_a_long_name_whose_member_is_lost(read: Reader) -> None:
    """It must not become the name of the next one."""
    names = [f"{letter * 150}.jpg" for letter in "abc"]
    raw = tar_bytes([(name, png(index)) for index, name in enumerate(names)])
    with tarfile.open(fileobj=io.BytesIO(raw)) as tar:
        second, third = tar.getmember(names[1]), tar.getmember(names[2])
    found = read(raw[: second.offset + 1024] + raw[third.offset :])
    assert found.keys == ["a" * 150, "c" * 150]
    assert found.ending.kind == "damaged"
