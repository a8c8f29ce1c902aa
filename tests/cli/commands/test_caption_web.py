"""`caption` over a web server: what a run says and how it ends."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

pytest.importorskip("aiohttp", reason="needs the extra shards")
pytest.importorskip("pyarrow", reason="needs the extra shards")

from altogether_rt.cli.main import app
from tests.data.shards.web_server import Page, web_server
from tests.shards_fixtures import tar_bytes, webdataset_shard


def test_shards_of_a_web_server_are_captioned_and_a_page_is_a_failed_shard(tmp_path: Path) -> None:
    """The pages have a time but no ETag, as those of `python -m http.server`."""
    with web_server() as server:
        for number in range(2):
            shard = tar_bytes(webdataset_shard(3, first=3 * number))
            server.pages[f"/{number:05}.tar"] = Page(shard, etag=False, modified=True)
        server.pages["/00002.tar"] = Page(b"<!DOCTYPE html><p>Log in.", kind="text/html")

        def run(numbers: str) -> tuple[int, str]:
            url = f"{server.url}/{{{numbers}}}.tar"
            given = ["caption", url, "--out", str(tmp_path / "out"), "--max-new-tokens", "4"]
            done = CliRunner().invoke(app, [*given, "--spool", str(tmp_path)])
            return done.exit_code, done.output

        code, said = run("00000..00001")
        assert code == 0, said
        assert "6 of 6 images captioned" in said and "shards: 2 done." in said
        code, said = run("00000..00002")
        assert code == 1
        assert "shards: 2 done, 1 failed. 2 shards were there already." in said
        assert "00002.tar is a web page and no shard" in said
        code, said = run("00000..00003")
        assert (code, "there is no" in said) == (1, True)
    assert sorted(path.name for path in (tmp_path / "out").glob("*.parquet")) == [
        *("00000.parquet", "00001.parquet"),
    ]
