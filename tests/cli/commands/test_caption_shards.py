"""`caption` and `caption-shard` on shards, and `status`, with a captioner that has no model."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

pytest.importorskip("pyarrow")

from pyarrow import parquet

from altogether_rt.captions import Caption
from altogether_rt.cli.main import app
from altogether_rt.jobs import open as open_module
from tests.fake_captioner import FakeCaptioner
from tests.shards_fixtures import object_store, s3_server, write_webdataset

__all__ = ["object_store", "s3_server"]

pytestmark = pytest.mark.lean

NUM_SHARDS, NUM_SAMPLES = 20, 6


@pytest.fixture
def captioner(monkeypatch: pytest.MonkeyPatch) -> FakeCaptioner:
    fake = FakeCaptioner()
    monkeypatch.setattr(open_module, "open_captioner", lambda resolved, **options: fake)
    return fake


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with twenty tars in `in`."""
    monkeypatch.chdir(tmp_path)
    return write_webdataset(Path("in"), NUM_SHARDS, NUM_SAMPLES)


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


def as_json(*arguments: str) -> dict[str, Any]:
    result = run(*arguments, "--json")
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def all_rows(out: Path) -> list[dict[str, Any]]:
    files = sorted(out.glob("*.parquet"))
    return [row for file in files for row in parquet.read_table(file).to_pylist()]


def test_twenty_tars_by_a_pattern(folder: Path, captioner: FakeCaptioner) -> None:
    done = run("caption", "in/{00000..00019}.tar", "--out", "out")
    assert done.exit_code == 0, done.output
    assert "120 of 120 images captioned" in done.output and "20 done" in done.output
    rows = all_rows(Path("out"))
    assert [row["key"] for row in rows] == [f"{number:09}" for number in range(120)]
    assert all(row["caption"].endswith(f"[alt {n}]") for n, row in enumerate(rows))
    status = as_json("status", "out")
    assert status["shards"]["done"] == 20 and status["rows"] == status["captioned"] == 120
    again = as_json("caption", "in", "--out", "out")
    assert again["shards_skipped"] == 20 and again["rows_made"] == 0


@pytest.mark.parametrize(
    ("package", "extra", "arguments"),
    [
        ("pyarrow", "shards", ("caption", "in", "--out", "out")),
        ("pyarrow", "shards", ("caption-shard", "in/00000.tar", "out")),
        ("ray", "ray", ("caption", "in", "--out", "out", "--engine", "ray")),
    ],
)
def test_without_a_package_nothing_is_left_behind(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    package: str,
    extra: str,
    arguments: tuple[str, ...],
) -> None:
    for module in [name for name in sys.modules if name.partition(".")[0] == package]:
        monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setitem(sys.modules, package, None)  # not installed
    done = run(*arguments)
    assert done.exit_code == 1
    assert f"run pip install 'altogether-rt[{extra}]'" in done.stderr
    assert not Path("out").exists()


def test_alt_texts_from_a_file_of_metadata(folder: Path, captioner: FakeCaptioner) -> None:
    records = [{"key": f"{number:09}", "caption": f"joined {number}"} for number in range(6)]
    Path("00003.jsonl").write_text(
        "".join(json.dumps(r | {"key": f"{18 + n:09}"}) + "\n" for n, r in enumerate(records))
    )
    done = run("caption", "in/00003.tar", "--out", "out", "--join", "{shard}.jsonl")
    assert done.exit_code == 0, done.output
    assert [row["alt"] for row in all_rows(Path("out"))] == [[f"joined {n}"] for n in range(6)]
    other = run("caption", "in/00003.tar", "--out", "out")
    assert other.exit_code == 1 and "join" in other.stderr
    refused = run("caption", "in/00003.tar", "--out", "o2", "--join", "gone.jsonl")
    assert refused.exit_code == 1 and "gone.jsonl" in refused.stderr
    (folder / "a.png").write_bytes(b"")
    assert run("caption", "in/a.png", "--join", "x.jsonl").exit_code == 2


def test_from_and_to_an_object_store(
    folder: Path, captioner: FakeCaptioner, object_store: str
) -> None:
    import fsspec

    fs = fsspec.filesystem("s3")
    for name in ("00000", "00001", "00002"):
        fs.put_file(f"in/{name}.tar", f"{object_store}/in/{name}.tar")
    out = f"{object_store}/out"
    done = run("caption", f"{object_store}/in/*.tar", "--out", out)
    assert done.exit_code == 0, done.output
    run("caption", "in/{00000..00002}.tar", "--out", "out")
    names = sorted(path.rpartition("/")[2] for path in fs.find(out))
    ends = [f"{n:05}{end}" for n in range(3) for end in (".parquet", "_stats.json")]
    assert names == sorted(["_run.json", "_shards.json", *ends])
    for name in ("00000", "00001", "00002"):
        with fs.open(f"{out}/{name}.parquet") as file:
            there = parquet.read_table(file)
        here = parquet.read_table(f"out/{name}.parquet")
        assert there.to_pylist() == here.to_pylist()
    assert as_json("status", out)["shards"]["done"] == 3


def test_a_shard_for_a_scheduler(folder: Path, captioner: FakeCaptioner) -> None:
    pattern = "in/{00000..00019}.tar"
    assert "choose one with --index" in run("caption-shard", pattern, "out").output
    assert "too large" in run("caption-shard", pattern, "out", "--index", "20").output
    one = as_json("caption-shard", pattern, "out", "--index", "7")
    assert (one["shard"], one["state"], one["rows_made"]) == ("00007", "done", NUM_SAMPLES)
    again = as_json("caption-shard", "in/00007.tar", "out")
    assert (again["state"], again["rows_made"]) == ("done", 0)
    # What is left is what `caption` does, to the same folder.
    rest = as_json("caption", pattern, "--out", "out")
    assert rest["shards"] == {"done": 20} and rest["shards_skipped"] == 1


def test_exit_codes_say_what_became_of_a_shard(folder: Path, captioner: FakeCaptioner) -> None:
    cut = Path("in/00003.tar")
    cut.write_bytes(cut.read_bytes()[:4000])
    assert run("caption-shard", "in/00000.tar", "out").exit_code == 0
    incomplete = run("caption-shard", str(cut), "out")
    assert incomplete.exit_code == 3 and "00003" in incomplete.stderr
    missing = run("caption-shard", "in/99999.tar", "out")
    assert missing.exit_code == 1 and "there is no in/99999.tar" in missing.stderr
    whole = run("caption", "in", "--out", "out")
    assert whole.exit_code == 3 and "incomplete: 00003" in whole.stdout
    status = as_json("status", "out")
    assert status["shards"]["incomplete"] == 1 and status["shards"]["done"] == 19
    assert "00003" in status["bad"]["incomplete"]["examples"][0]


def test_a_shard_that_another_process_has(folder: Path, captioner: FakeCaptioner) -> None:
    from altogether_rt.data.sinks.shards.claims import take_claim
    from altogether_rt.data.sinks.shards.open_store import open_store
    from altogether_rt.data.sinks.shards.output import claim_name

    run("caption-shard", "in/00000.tar", "out")
    taken = take_claim(open_store("out"), claim_name("00001"))
    assert taken is not None
    with taken[0]:
        busy = run("caption-shard", "in/00001.tar", "out")
        assert busy.exit_code == 75 and "another process" in busy.stderr
        assert as_json("status", "out")["shards"]["running"] == 1
    assert run("caption-shard", "in/00001.tar", "out").exit_code == 0


def test_two_shards_of_one_name_are_not_both_done(folder: Path, captioner: FakeCaptioner) -> None:
    """train/00000.tar and val/00000.tar are both 00000 where they are captioned one by one."""
    write_webdataset(Path("val"), 1, 2 * NUM_SAMPLES)
    assert run("caption-shard", "in/00000.tar", "out").exit_code == 0
    other = run("caption-shard", "val/00000.tar", "out")
    assert other.exit_code == 3
    assert "1 shard is not the file whose captions are there (00000: val/00000.tar)" in other.stderr
    assert run("caption", "val", "--out", "out").exit_code == 3
    assert run("caption-shard", "val/00000.tar", "out", "--name", "val/00000").exit_code == 0
    assert len(parquet.read_table("out/val/00000.parquet")) == 2 * NUM_SAMPLES
    os.utime("in/00000.tar", (1, 1))  # copied, perhaps: its captions may well be these
    touched = run("caption-shard", "in/00000.tar", "out")
    assert touched.exit_code == 0 and "--overwrite makes them again" in touched.stderr


class Silent(FakeCaptioner):
    """Has nothing to say of every third image."""

    def stream(self, *given: Any, **options: Any) -> Iterator[Caption]:
        for number, made in enumerate(super().stream(*given, **options)):
            yield dataclasses.replace(made, text="") if number % 3 == 0 else made


def test_captions_without_a_word_are_counted(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(open_module, "open_captioner", lambda resolved, **options: Silent())
    num_empty = NUM_SAMPLES // 3
    one = run("caption-shard", "in/00000.tar", "out")
    assert f"  {num_empty} captions are empty\n" in one.stdout
    assert as_json("status", "out")["captions_empty"] == num_empty
    every = run("caption", "in", "--out", "out")
    assert f"  {NUM_SHARDS * num_empty} captions are empty\n" in every.stdout
    assert f"  {NUM_SHARDS * num_empty} captions are empty\n" in run("status", "out").stdout
    # Statistics of earlier versions do not say it.
    stats = Path("out/00001_stats.json")
    stats.write_text(stats.read_text().replace('"captions_empty": 2,', ""))
    assert as_json("status", "out")["captions_empty"] == (NUM_SHARDS - 1) * num_empty


def test_options_of_folders_and_of_shards(folder: Path, captioner: FakeCaptioner) -> None:
    refused = run("caption", "in", "--out", "out", "--sidecar", ".txt")
    assert refused.exit_code == 2 and "--sidecar" in refused.output
    Path("photos").mkdir()
    (Path("photos") / "a.png").write_bytes(b"404")
    assert run("caption", "photos", "--only-missing").exit_code == 2
    assert "is a file" in run("caption", "in", "--out", "in/00000.tar").output
    refused = run("caption", "in", "--out", "-")
    assert refused.exit_code == 2 and "name a folder" in refused.output and not Path("-").exists()
    refused = run("caption", "in", "in", "--alt", "alts.jsonl")
    assert refused.exit_code == 2 and "several" in refused.output
    refused = run("caption", "photos", "photos", "--alt", "alts.jsonl", "--out", "new")
    assert refused.exit_code == 1 and "is a folder of images" in refused.output
    assert not Path("new").exists()
    refused = run("caption", "", "--write-alt", "in-place")  # not the folder that one is in
    assert refused.exit_code == 2 and "it is empty" in refused.output


def test_a_share_to_try_and_a_dry_run(folder: Path, captioner: FakeCaptioner) -> None:
    from altogether_rt.data.sources.sampling import KeyShare

    dry = as_json("caption", "in", "--out", "out", "--dry-run")
    assert dry["images"] == 120 and not Path("out").exists()
    tried = as_json("caption", "in", "--out", "out", "--sample", "0.2")
    keys = [row["key"] for row in all_rows(Path("out"))]
    share = KeyShare(0.2)
    assert keys == [key for key in (f"{n:09}" for n in range(120)) if key in share] and keys
    assert tried["shards"] == {"done": 20}
    assert "another run" in run("caption", "in", "--out", "out").output


def test_a_dry_run_ends_as_the_run_would(folder: Path, captioner: FakeCaptioner) -> None:
    cut = Path("in/00003.tar").read_bytes()
    Path("in/00003.tar").write_bytes(cut[:1800])
    dry = run("caption", "in", "--dry-run")
    assert dry.exit_code == 3 and "it is cut off" in dry.stdout
    assert run("caption", "in", "--out", "out").exit_code == 3
    Path("in/00004.tar").write_bytes(b"no tar" * 1000)
    failed = run("caption", "in", "--out", "out2").exit_code
    assert run("caption", "in", "--dry-run").exit_code == failed


def test_status_of_nothing_is_a_sentence(tmp_path: Path) -> None:
    missing = run("status", str(tmp_path))
    assert missing.exit_code == 1 and "_run.json" in missing.stderr


PROGRAM = """
import sys
from altogether_rt.cli.main import run
from altogether_rt.jobs import open as open_module
from altogether_rt.jobs.shards import open as shards_module
from tests.fake_captioner import open_slowly
open_module.open_captioner = open_slowly
shards_module.open_captioner = open_slowly
if __name__ == "__main__":
    sys.argv[0] = "altogether-rt"
    run()
"""


def test_ctrl_c_leaves_a_state_that_is_gone_on_from(
    folder: Path, captioner: FakeCaptioner, root: Path
) -> None:
    Path("program.py").write_text(PROGRAM)
    command = [sys.executable, "program.py", "caption", "in", "--out", "out", "--workers", "2"]
    environment = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as process:
        deadline = time.monotonic() + 60
        while not list(Path("out").rglob("*_stats.json")) and time.monotonic() < deadline:
            time.sleep(0.05)
        os.kill(process.pid, signal.SIGINT)
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 130 and "give the same command to go on" in errors, errors
    before = as_json("status", "out")
    assert 0 < before["shards"]["done"] < 20 and before["shards"]["running"] == 0
    rest = as_json("caption", "in", "--out", "out")
    assert rest["shards"] == {"done": 20}
    made = before["rows"] + before["rows_in_unfinished_shards"]
    assert len(captioner.requests) == 120 - made
