"""What goes wrong with a download: one sentence and an exit code each, and nothing half is kept."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import subprocess
import sys
import threading
import time
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest

from altogether_rt.hub.cache import CachedModel, find_cached
from altogether_rt.hub.obtain import Steps
from tests.hub.conftest import CHUNK_BYTES, HUB_ID
from tests.hub.fetching import WEIGHTS, Recorder, complaint, fetch, name_of
from tests.hub.server import LocalHub, Repository


def test_gated(smolvlm: Repository) -> None:
    for status in (401, 403):
        smolvlm.gated = status
        assert "only to people who accepted its terms" in complaint()


def test_unknown(hub: LocalHub) -> None:
    assert complaint() == (
        f"the hub has no {HUB_ID}, or it is private: check the name, or log in with hf auth login."
    )
    assert "the hub has no someone/captioner" in complaint("bundle", "pull", "someone/captioner")


def test_unknown_revision(smolvlm: Repository) -> None:
    assert complaint("bundle", "pull", f"{HUB_ID}@v9") == (
        f"{HUB_ID} has no revision v9: look on the hub which there are."
    )


def test_a_private_one_needs_a_token(smolvlm: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    smolvlm.token = "secret"
    assert "or it is private" in complaint()
    monkeypatch.setenv("HF_TOKEN", "secret")
    assert fetch().download() is not None


def test_no_network(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert f"{HUB_ID} cannot be fetched from the hub" in complaint()
    assert not list(cache.glob("*/*"))[1:], "but for the lock"


def test_offline_by_wish(
    smolvlm: Repository, hub: LocalHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE forbids to fetch it" in complaint()
    assert hub.requests == []


def test_the_server_is_ill(smolvlm: Repository) -> None:
    smolvlm.ill = 500
    assert f"the hub answers {HUB_ID} with the error 500" in complaint()


@pytest.mark.parametrize("elsewhere", [False, True])
def test_a_cut_connection_is_continued_at_once(
    elsewhere: bool, smolvlm: Repository, hub: LocalHub
) -> None:
    """The public hub sends its client elsewhere for large files."""
    smolvlm.elsewhere = elsewhere
    part = 5 * CHUNK_BYTES
    smolvlm.cut_after[WEIGHTS] = [part, part]
    model = fetch()
    assert (model.files / WEIGHTS).read_bytes() == smolvlm.files[WEIGHTS]
    assert hub.ranges == [f"{WEIGHTS} {part}", f"{WEIGHTS} {2 * part}"]


def test_a_dead_connection_is_continued_by_the_next_run(smolvlm: Repository, hub: LocalHub) -> None:
    part = 5 * CHUNK_BYTES
    smolvlm.cut_after[WEIGHTS] = [part] + [0] * 50
    sentence = complaint()
    assert f"{HUB_ID} cannot be fetched from the hub" in sentence
    assert "continues where it stopped" in sentence
    seen: list[tuple[int, str]] = []
    smolvlm.cut_after.clear()
    hub.ranges.clear()
    model = fetch(steps=Steps(progress=lambda total: Recorder(total, seen)))
    assert (model.files / WEIGHTS).read_bytes() == smolvlm.files[WEIGHTS]
    assert hub.ranges == [f"{WEIGHTS} {part}"]
    assert hub.downloads("config.json") == 1, "what is whole is not fetched again"
    wanted = sum(len(smolvlm.files[path.name]) for path in model.files.iterdir())
    assert sum(count for count, _ in seen) == wanted
    assert not [path for path in model.files.iterdir() if path.name.startswith(".")]


def test_a_server_that_continues_nothing_is_begun_again(smolvlm: Repository, hub: LocalHub) -> None:
    smolvlm.cut_after[WEIGHTS] = [CHUNK_BYTES]
    smolvlm.ranges = False
    seen: list[tuple[int, str]] = []
    model = fetch(steps=Steps(progress=lambda total: Recorder(total, seen)))
    assert (model.files / WEIGHTS).read_bytes() == smolvlm.files[WEIGHTS]
    assert sum(count for count, file in seen if file == WEIGHTS) == len(smolvlm.files[WEIGHTS])


@pytest.mark.parametrize("file", [WEIGHTS, "config.json"])
def test_wrong_bytes(file: str, smolvlm: Repository, hub: LocalHub) -> None:
    """Of both kinds: large files have a SHA-256, small ones the hash that git gives them."""
    data = smolvlm.files[file]
    smolvlm.served_as[file] = data[:-1] + bytes([data[-1] ^ 1])
    assert f"{file} of {HUB_ID} is not what the hub says it is" in complaint()
    assert find_cached(name_of()) is not None
    smolvlm.served_as.clear()
    assert (fetch().files / file).read_bytes() == data


def test_a_part_of_something_else_does_no_harm(smolvlm: Repository) -> None:
    smolvlm.cut_after[WEIGHTS] = [0] * 50
    complaint()
    smolvlm.cut_after.clear()
    model = find_cached(name_of())
    assert model is not None
    (part,) = model.files.glob(".*.part")
    part.write_bytes(b"\0" * 1000)
    assert "its hash differs" in complaint()
    fetch()


def test_too_little_room(
    smolvlm: Repository, hub: LocalHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 10**9, 10_000))
    sentence = complaint()
    assert f"downloading {HUB_ID} takes 0.05 GB" in sentence
    assert "0.00 GB free: make room there" in sentence
    assert hub.downloads(WEIGHTS) == 0
    monkeypatch.undo()


def test_too_little_room_for_the_export(
    smolvlm: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetch()
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 10**9, 10_000))
    assert "importing smolvlm-500m takes 0.00 GB" in complaint()


def test_the_disk_fills_up(smolvlm: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    from altogether_rt.hub import download

    real = download._Counted.write

    def write(self: Any, data: bytes) -> int:
        if len(data) > 10_000:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(self, data)

    monkeypatch.setattr(download._Counted, "write", write)
    assert f"{HUB_ID} cannot be stored (No space left on device)" in complaint()
    monkeypatch.undo()


def test_an_unwritable_cache(
    smolvlm: Repository, hub: LocalHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert "cannot be made" in complaint()
    assert hub.requests == []


def test_a_cache_that_others_may_write_to(smolvlm: Repository, cache: Path) -> None:
    """It is made private where it is ours."""
    cache.mkdir(parents=True)
    cache.chmod(0o777)
    fetch()
    assert stat.S_IMODE(cache.stat().st_mode) == 0o755


def test_another_kind_of_model_costs_no_download(smolvlm: Repository, hub: LocalHub) -> None:
    smolvlm.files["config.json"] = b'{"model_type": "florence2"}'
    assert "is a model of type 'florence2', which is not a captioner" in complaint()
    assert hub.downloads(WEIGHTS) == 0


def test_what_has_grown_is_not_what_was_agreed_to(smolvlm: Repository, hub: LocalHub) -> None:
    facts = smolvlm.listing(WEIGHTS)
    smolvlm.listed_as[WEIGHTS] = {"size": 2_000_000_000, "lfs": facts["lfs"]}
    assert "was agreed to at 1.02 GB and the hub now has 2.00 GB" in complaint()
    assert hub.downloads(WEIGHTS) == 0


def test_another_licence_is_not_what_was_agreed_to(smolvlm: Repository, hub: LocalHub) -> None:
    smolvlm.licence = "cc-by-nc-4.0"
    assert "under the licence Apache-2.0 and the hub now says cc-by-nc-4.0" in complaint()
    assert hub.downloads("config.json") == 0
    assert fetch(HUB_ID).download() is not None, "the id alone promises nothing"


def test_two_at_once_download_once(smolvlm: Repository, hub: LocalHub) -> None:
    """The second waits for the first, and then finds everything."""
    from altogether_rt.hub.cache import lock

    waited: list[str] = []
    found: list[CachedModel] = []

    def work() -> None:
        with lock(HUB_ID, lambda: waited.append("waited")):
            found.append(fetch())

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 3
    assert hub.downloads(WEIGHTS) == 1


def test_what_a_killed_run_left_is_removed(smolvlm: Repository) -> None:
    model = fetch()
    left = model.folder / ".checkpoint.0123456789abcdef.tmp"
    left.mkdir()
    (left / "half").write_bytes(b"half")
    file = model.folder / ".download.json.0123456789abcdef.tmp"
    file.write_bytes(b"half")
    assert fetch() == model
    assert not left.exists()
    assert not file.exists()


def test_a_killed_run_is_continued(smolvlm: Repository, hub: LocalHub) -> None:
    part = 5 * CHUNK_BYTES
    smolvlm.stalls[WEIGHTS] = part
    code = (
        "import huggingface_hub.constants as c\n"
        f"c.DOWNLOAD_CHUNK_SIZE = {CHUNK_BYTES}\n"
        "from altogether_rt.cli.main import run\n"
        "run()\n"
    )
    command = [sys.executable, "-c", code, "bundle", "pull", "smolvlm-500m"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert hub.stalled.wait(120)
        while (model := find_cached(name_of())) is None or not any(
            path.stat().st_size == part for path in model.files.glob(".*.part")
        ):
            assert process.poll() is None
            time.sleep(0.01)
        process.kill()
    assert model.download() is None
    smolvlm.stalls.clear()
    assert (fetch().files / WEIGHTS).read_bytes() == smolvlm.files[WEIGHTS]
    assert hub.ranges == [f"{WEIGHTS} {part}"]


def test_a_half_download_is_not_taken_for_a_whole_one(smolvlm: Repository) -> None:
    model = fetch()
    (model.folder / "download.json").unlink()
    (model.files / WEIGHTS).write_bytes(b"half")
    assert (fetch().files / WEIGHTS).read_bytes() == smolvlm.files[WEIGHTS]
    (model.files / "tokenizer.json").unlink()
    assert model.download() is None
    assert (fetch().files / "tokenizer.json").read_bytes() == smolvlm.files["tokenizer.json"]
    for damaged in ("[" * 100_000, "[]", "{}", '{"hub_id": 3}', "\xff"):
        (model.folder / "download.json").write_text(damaged, "latin-1")
        assert model.download() is None
