"""What identifies a file's content, of what stores say of it."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from altogether_rt.data.shards.base import Shard
from altogether_rt.data.shards.storage import etag_of, file_system
from altogether_rt.data.shards.stores import fetching
from altogether_rt.errors import AltogetherError

MOMENT = datetime(2026, 11, 27, 6, 45, 1, 250000, UTC)


@pytest.mark.parametrize(
    ("info", "expected"),
    [
        ({"ETag": '"abc"', "LastModified": MOMENT}, "abc"),
        ({"ETag": 'W/"abc"'}, "abc"),
        (
            {"etag": "CJ2=", "md5Hash": "hash", "crc32c": "sum"},
            "hash",
        ),  # Google: labels change etag
        ({"etag": "CJ2=", "crc32c": "sum"}, "sum"),  # a composite object has no MD5
        ({"blob_id": "a1", "last_commit": None}, "a1"),  # the Hugging Face hub
        ({"size": 7, "LastModified": MOMENT}, "7-2026-11-27T06:45:01.250000+00:00"),
        ({"size": 7, "created": str(MOMENT)}, "7-2026-11-27T06:45:01.250000+00:00"),
        ({"size": 7, "mtime": MOMENT.timestamp()}, "7-2026-11-27T06:45:01.250000+00:00"),
        ({"size": 7, "Last-Modified": "Fri, 27 Nov"}, "7-Fri, 27 Nov"),
        ({"size": 7, "type": "file"}, None),
    ],
)
def test_what_is_chosen(info: dict[str, Any], expected: str | None) -> None:
    assert etag_of(info) == expected


@pytest.mark.parametrize(
    ("listed", "fresh", "same"),
    [
        ({"created": str(MOMENT)}, {"created": MOMENT}, True),
        ({"created": MOMENT.timestamp()}, {"created": MOMENT}, True),
        ({"LastModified": MOMENT}, {"LastModified": MOMENT, "ETag": '"abc"'}, True),
        ({"ETag": '"abc"'}, {"ETag": '"abd"', "LastModified": MOMENT}, False),
        ({"LastModified": MOMENT}, {"LastModified": MOMENT.replace(hour=7), "ETag": "x"}, False),
        ({"ETag": '"abc"'}, {}, True),  # nothing is known: the size alone counts
    ],
)
def test_a_file_is_the_one_that_was_listed(
    listed: dict[str, Any],
    fresh: dict[str, Any],
    same: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A store says less of a file in a list of many than of one."""
    url = "memory://identity/a.tar"
    filesystem, inner = file_system(url)
    filesystem.pipe(inner, b"seven b")
    shard = Shard(url=url, name="a", num_bytes=7, etag=etag_of({"size": 7, **listed}))
    monkeypatch.setattr(fetching, "remote_info", lambda _: {"size": 7, **fresh})
    if same:
        fetching.fetch(shard, tmp_path / "a", 7)
        assert (tmp_path / "a").read_bytes() == b"seven b"
    else:
        with pytest.raises(AltogetherError, match="changed after it was listed"):
            fetching.fetch(shard, tmp_path / "a", 7)
