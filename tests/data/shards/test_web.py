"""Shards of web servers: each trouble has its answer, and nothing is lost or read twice."""

from __future__ import annotations

import gzip
import json
import random
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("aiohttp", reason="needs the extra shards")

from altogether_rt.data.shards import listing
from altogether_rt.data.shards.listing import list_shards
from altogether_rt.data.shards.opening import open_shard
from altogether_rt.data.shards.options import Join, ShardOptions
from altogether_rt.data.shards.spool import Spool
from altogether_rt.data.shards.stores import web
from altogether_rt.errors import AltogetherError
from tests.data.shards.web_server import Page, WebServer, web_server
from tests.shards_fixtures import no_file_larger, png, tar_bytes, webdataset_shard

SMALL = tar_bytes(webdataset_shard(4))
#: Three images of a megabyte and more: trouble can be put between them.
LARGE = tar_bytes((f"{n}.png", png(n) + random.Random(n).randbytes(1_200_000)) for n in range(3))
PATH = "/a/00000.tar"


@pytest.fixture
def server() -> Iterator[WebServer]:
    with web_server() as server:
        yield server


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses between tries, which are not waited for."""
    pauses: list[float] = []
    monkeypatch.setattr("altogether_rt.data.shards.storage.sleep", pauses.append)
    return pauses


def images(server: WebServer, spool_folder: Path, max_bytes: int = 1 << 30) -> Sequence[object]:
    """The images of the only shard, listed and read as a run does."""
    (shard,) = list_shards([server.url + PATH])
    with Spool(spool_folder, max_bytes) as spool, open_shard(shard, spool=spool) as source:
        found = [sample.image for sample in source.samples()]
        assert source.ending.kind == "whole"
        return found


def expected(data: bytes) -> list[bytes]:
    if data is SMALL:
        return [png(n) for n in range(4)]
    return [png(n) + random.Random(n).randbytes(1_200_000) for n in range(3)]


@pytest.mark.parametrize(
    ("page", "num_gets", "num_bytes"),
    [
        (Page(LARGE), 1, len(LARGE)),
        (Page(LARGE, ranges=False), 1, len(LARGE)),
        (Page(SMALL, etag=False), 1, len(SMALL)),
        (Page(SMALL, etag=False, modified=True), 1, len(SMALL)),  # as `python -m http.server`
        (Page(SMALL, etag=False, modified=True, head=405), 2, len(SMALL) + 1),
        (Page(SMALL, head=405), 2, len(SMALL) + 1),  # one byte to learn the size
        (Page(SMALL, statuses=[503, 429, 500]), 4, len(SMALL)),
        (Page(SMALL, head=500, statuses=[500]), 3, len(SMALL) + 1),
        # Cut twice: with ranges no byte comes twice, and without all come again.
        (Page(LARGE, cuts=[1 << 20, 1 << 21]), 3, len(LARGE)),
        (Page(LARGE, cuts=[1 << 20, 1 << 21], ranges=False), 3, len(LARGE) + 3 * (1 << 20)),
    ],
    ids=[
        "plain",
        "no-ranges",
        "no-etag",
        "time",
        "time-no-head",
        "no-head",
        "busy",
        "ill",
        "cut",
        "cut-no-ranges",
    ],
)
def test_it_is_read_once_and_whole(
    server: WebServer,
    tmp_path: Path,
    pauses: list[float],
    page: Page,
    num_gets: int,
    num_bytes: int,
) -> None:
    server.pages[PATH] = page
    assert images(server, tmp_path) == expected(page.data)
    assert (server.asked[PATH], server.sent[PATH]) == (num_gets, num_bytes)


def test_a_server_that_does_not_say_the_size(server: WebServer, tmp_path: Path) -> None:
    server.pages[PATH] = Page(LARGE, length=None, ranges=False)
    assert list_shards([server.url + PATH])[0].num_bytes is None
    assert images(server, tmp_path) == expected(LARGE)
    with pytest.raises(AltogetherError, match="--spool-bytes"):
        images(server, tmp_path, max_bytes=len(LARGE) - 1)


def test_redirects_and_encodings(server: WebServer, tmp_path: Path) -> None:
    """Apache sends `a.tar.gz` with `Content-Encoding: gzip`: a client would unpack it."""
    server.pages[PATH] = Page(b"", moved_to=f"{server.url}/elsewhere?signature=1")
    server.pages["/elsewhere"] = Page(gzip.compress(SMALL), encoding="gzip")
    assert images(server, tmp_path) == expected(SMALL)
    server.pages["/elsewhere"] = Page(b"", moved_to="/elsewhere")
    with pytest.raises(AltogetherError, match="from redirect to redirect"):
        images(server, tmp_path)


@pytest.mark.parametrize(
    ("page", "words"),
    [
        (Page(SMALL, gone_after=0), r"^there is no http://.*/00000\.tar\.$"),
        (Page(SMALL, gone_after=1), r"^there is no http://.*/00000\.tar\.$"),
        (Page(SMALL, head=403, statuses=[403] * 9), "may not be read .403 Forbidden.: check"),
        (Page(SMALL, head=400, statuses=[400] * 9), "its server answers 400 Bad Request"),
        (Page(SMALL, statuses=[503] * 99), "its server answers 503 Service Unavailable"),
        (Page(SMALL, length=100), "ends after 20,480 of the 20,580 bytes that its server announc"),
        (Page(SMALL, length=100, ranges=False), "cuts the connection before all of it has come"),
        (Page(LARGE, cuts=[5] * 99, ranges=False), "cuts the connection before all of it has come"),
        (Page(b"\n<!DOCTYPE html><html>Log in</html>", kind="text/html"), "is a web page and no"),
        (Page(b'<?xml version="1.0"?><Error><Code>NoSuchKey</Code></Error>'), "is a web page"),
    ],
    ids=["404", "404-later", "403", "400", "503", "too-long", "too-long-no-ranges", "cut", "html",
         "xml"],
)  # fmt: skip
def test_what_cannot_be_read_says_why(
    server: WebServer, tmp_path: Path, pauses: list[float], page: Page, words: str
) -> None:
    server.pages[PATH] = page
    with pytest.raises(AltogetherError, match=words):
        images(server, tmp_path)
    assert server.asked[PATH] <= 8
    assert list(tmp_path.rglob("0*")) == [], "nothing stays"


def test_a_server_that_says_when_to_come_again(
    server: WebServer, tmp_path: Path, pauses: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    server.pages[PATH] = Page(SMALL, statuses=[429])
    monkeypatch.setattr("tests.data.shards.web_server.RETRY_AFTER", "7")
    assert images(server, tmp_path) == expected(SMALL)
    assert pauses == [7.0]


def test_a_slow_server_is_waited_for_and_a_silent_one_is_not(
    server: WebServer, tmp_path: Path, pauses: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A limit of silence, none of the whole: a shard may take an hour."""
    monkeypatch.setattr(web, "_SILENCE_S", 0.2)
    server.pages[PATH] = Page(LARGE[: 10 * (1 << 16)], seconds_a_block=0.03)
    (shard,) = list_shards([server.url + PATH])
    with Spool(tmp_path) as spool, spool.local(shard) as path:
        assert path.stat().st_size == 10 * (1 << 16)
    assert (server.asked[PATH], pauses) == (1, [])
    monkeypatch.setattr(web, "_SILENCE_S", 0.05)
    server.pages[PATH] = Page(SMALL, seconds_a_block=0.3, length=1, ranges=False)
    with pytest.raises(AltogetherError, match="nothing came for too long"):
        images(server, tmp_path)


@pytest.mark.parametrize("etag", [True, False])
def test_a_file_that_is_replaced_is_noticed(server: WebServer, tmp_path: Path, etag: bool) -> None:
    """Of the same size only if the server identifies files, as nearly all do."""
    server.pages[PATH] = Page(SMALL, etag=etag)
    (shard,) = list_shards([server.url + PATH])
    server.pages[PATH].data = SMALL[::-1] if etag else SMALL + bytes(512)
    with (
        Spool(tmp_path) as spool,
        pytest.raises(AltogetherError, match="changed"),
        spool.local(shard),
    ):
        pass


def test_patterns_are_numbers_not_stars(server: WebServer) -> None:
    for number in range(3):
        server.pages[f"/a/{number:05}.tar"] = Page(SMALL)
    shards = list_shards([server.url + "/a/{00000..00002}.tar?token=a/b"])
    assert [shard.name for shard in shards] == ["00000", "00001", "00002"]
    with pytest.raises(AltogetherError, match=r"do not list their files; write the numbers"):
        list_shards([server.url + "/a/*.tar"])


def test_files_are_asked_for_several_at_once_and_come_in_order(
    server: WebServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ten thousand files, one after another, would take minutes from a server that is far."""
    names = [f"/a/{number:05}.tar" for number in range(12)]
    server.pages = {name: Page(SMALL) for name in names}
    together = threading.Barrier(4, timeout=30)  # it breaks if fewer than four are waiting

    def info(url: str) -> dict[str, Any]:
        together.wait()
        return web.web_info(url)

    monkeypatch.setattr(listing, "web_info", info)
    shards = list_shards([server.url + "/a/{00000..00011}.tar"])
    assert [shard.url for shard in shards] == [server.url + name for name in names]
    del server.pages[names[5]]
    with pytest.raises(AltogetherError, match=r"there is no http://\S+/a/00005\.tar\."):
        list_shards([server.url + "/a/{00000..00011}.tar"])


def test_a_full_disk_under_the_spool_is_not_the_servers_fault(
    server: WebServer, tmp_path: Path, pauses: list[float]
) -> None:
    server.pages[PATH] = Page(LARGE)
    with (
        no_file_larger(1 << 20),
        pytest.raises(AltogetherError, match=r"^the spool in .* has no room .*--spool"),
    ):
        images(server, tmp_path / "spool")
    assert pauses == [] and list((tmp_path / "spool").rglob("0*")) == []


def test_metadata_of_all_shards_are_fetched_once(server: WebServer, tmp_path: Path) -> None:
    """By each process, and again once they have changed."""
    shard = tmp_path / "00000.tar"
    shard.write_bytes(SMALL)
    options = ShardOptions(join=Join(f"{server.url}/meta.jsonl", "key"))

    def first_alt(spool: Spool) -> tuple[str, ...]:
        with open_shard(list_shards([str(shard)])[0], options, spool) as source:
            return next(source.samples()).alts.texts

    with Spool(tmp_path / "spool") as spool:
        for number, alt in enumerate(["first", "second"], 1):
            line = json.dumps({"key": "000000000", "alt": alt}).encode()
            server.pages["/meta.jsonl"] = Page(line)
            for _ in range(3):
                assert first_alt(spool) == (alt,)
            assert server.asked["/meta.jsonl"] == number
