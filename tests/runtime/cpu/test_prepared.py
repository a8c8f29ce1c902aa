"""Prepared bundles: the same captions from a file that is mapped; nothing else is ever taken."""

from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from typer.testing import CliRunner

import altogether_rt.runtime.cpu.prepared as prepared_module
from altogether_rt import Captioner
from altogether_rt.artifacts.bundle import Bundle
from altogether_rt.cli.main import app
from altogether_rt.errors import BundleError
from altogether_rt.runtime.cpu import runtime as ort_runtime
from altogether_rt.runtime.cpu.prepared import find_prepared, machine_key, prepare, prepared_root
from altogether_rt.runtime.ort_session import open_session, save_optimized
from altogether_rt.runtime.select import load_bundle
from altogether_rt.scenes.draw import render
from altogether_rt.scenes.text import make_sample

pytestmark = pytest.mark.lean

SAMPLES = [make_sample(11, index, "test") for index in range(6)]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The graphs that are opened."""
    paths: list[Path] = []

    def spy(path: Path, **options: object) -> object:
        paths.append(path)
        return open_session(path, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(ort_runtime, "open_session", spy)
    return paths


@pytest.fixture
def starter(tmp_path: Path) -> Bundle:
    """A copy, so that it can be spoilt."""
    shutil.copytree(Bundle.load("starter").path, tmp_path / "bundle")
    return Bundle.load(tmp_path / "bundle")


def captions(bundle: Bundle) -> list[tuple[str, bytes]]:
    images = [render(sample.scene) for sample in SAMPLES]
    with Captioner.load(bundle, num_slots=4) as captioner:
        requests = captioner.requests(images, [sample.alts for sample in SAMPLES])
        written = list(captioner.stream(requests, keep_embeddings=True))
    return [(c.text, c.embedded.embedding.tobytes()) for c in written if c.embedded is not None]


def test_captions_and_embeddings_are_the_same(starter: Bundle, opened: list[Path]) -> None:
    plain = captions(starter)
    assert {path.parent for path in opened} == {starter.path}
    assert len(plain) == len(SAMPLES)
    opened.clear()
    folder = prepare(starter).path
    assert captions(starter) == plain
    assert {path.parent for path in opened} == {folder}


def test_other_processors_and_versions_do_not_look_at_it(
    starter: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare(starter)
    assert find_prepared(starter) is not None
    monkeypatch.setattr(prepared_module, "machine_key", lambda: "another")
    assert find_prepared(starter) is None


def test_the_key_changes_with_the_processor(tmp_path: Path) -> None:
    info = tmp_path / "cpuinfo"
    keys = set()
    for text in ("flags : avx2 fma\n", "flags : avx2 fma avx512f\n", "model name : X\n"):
        info.write_text(text)
        keys.add(machine_key(info))
    info.write_text("processor : 0\nflags : fma avx2\ncpu MHz : 3000\n")  # order, clock: no matter
    keys.add(machine_key(info))
    assert len(keys) == 3
    assert machine_key(tmp_path / "none") not in keys


def shorten(folder: Path) -> None:
    (folder / "decoder.bin").write_bytes((folder / "decoder.bin").read_bytes()[:-1])


def lose(folder: Path) -> None:
    (folder / "mapper.onnx").unlink()


def write(text: str) -> Callable[[Path], None]:
    def overwrite(folder: Path) -> None:
        (folder / "prepared.json").write_text(text)

    return overwrite


def climb(folder: Path) -> None:
    data = json.loads((folder / "prepared.json").read_text())
    data["files"]["../x"] = 1
    (folder.parent / "x").write_text("x")
    (folder / "prepared.json").write_text(json.dumps(data))


def of_another(folder: Path) -> None:
    data = json.loads((folder / "prepared.json").read_text())
    (folder / "prepared.json").write_text(json.dumps({**data, "bundle_id": "0" * 12}))


@pytest.mark.parametrize(
    "spoil",
    [
        shorten,
        lose,
        climb,
        of_another,
        write("{"),
        write("[]"),
        write('{"files": 3}'),
        write('{"files": {}}'),
        write("[" * 100_000),
    ],
)
def test_what_is_not_whole_is_not_taken(starter: Bundle, spoil: Callable[[Path], None]) -> None:
    spoil(prepare(starter).path)
    assert find_prepared(starter) is None
    assert captions(starter)


def test_weights_that_are_not_read_are_not_hashed(starter: Bundle) -> None:
    plain = captions(starter)
    weights = starter.path / "weights.bin"
    content = bytearray(weights.read_bytes())
    content[1000] ^= 1
    prepare(starter)
    weights.write_bytes(content)
    assert captions(load_bundle(starter.path)) == plain
    shutil.rmtree(prepared_root())
    with pytest.raises(BundleError, match="its hash differs"):
        load_bundle(starter.path)


def test_a_failure_leaves_nothing(starter: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(path: Path, folder: Path, name: str, *, half: bool) -> None:
        (folder / "half.bin").write_bytes(b"half")
        if name == "decoder":
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(prepared_module, "save_optimized", fail)
    with pytest.raises(BundleError, match=r"cannot be written \(No space left on device\): make"):
        prepare(starter)
    assert list(prepared_root().iterdir()) == []


def test_room_is_looked_for_first(starter: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage("/")._replace(free=1_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(BundleError, match=r"has room for 1 MB, and 2\d\.\d MB are needed"):
        prepare(starter)
    assert not prepared_root().exists()


def test_the_command_prepares_and_removes() -> None:
    runner = CliRunner()
    done = runner.invoke(app, ["prepare", "starter", "--json"])
    assert done.exit_code == 0
    data = json.loads(done.stdout)
    assert Path(data["path"]).is_dir()
    assert data["bytes"] == sum(
        path.stat().st_size for path in Path(data["path"]).iterdir() if path.suffix != ".json"
    )
    assert json.loads(runner.invoke(app, ["inspect", "--json"]).stdout)["prepared"] == data["path"]
    done = runner.invoke(app, ["prepare", "--remove"])
    assert done.stdout.split() == ["removed", data["path"]]
    assert not Path(data["path"]).exists()
    assert json.loads(runner.invoke(app, ["inspect", "--json"]).stdout)["prepared"] is None
    assert "nothing was prepared" in runner.invoke(app, ["prepare", "--remove"]).stdout


def by_others(folder: Path) -> None:
    (folder / "decoder.bin").chmod(0o666)


def folder_of_others(folder: Path) -> None:
    folder.chmod(0o777)


def link(folder: Path) -> None:
    (folder / "decoder.bin").rename(folder.parent / "elsewhere")
    (folder / "decoder.bin").symlink_to(folder.parent / "elsewhere")


def other_content(folder: Path) -> None:
    path = folder / "decoder.bin"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("spoil", [by_others, folder_of_others, link, other_content])
def test_what_others_could_have_written_is_not_used(
    starter: Bundle, spoil: Callable[[Path], None]
) -> None:
    spoil(prepare(starter).path)
    assert find_prepared(starter) is None
    assert find_prepared(load_bundle(starter.path)) is None


def test_a_copy_of_the_same_content_is_used(starter: Bundle) -> None:
    folder = prepare(starter).path
    shutil.copytree(folder, folder.with_name("copy"))  # as a backup that is put back
    shutil.rmtree(folder)
    folder.with_name("copy").rename(folder)
    assert find_prepared(starter) is not None


def test_what_a_killed_process_left_is_removed(starter: Bundle) -> None:
    folder = prepare(starter).path
    left = folder.with_name(f".{folder.name}.0123456789abcdef.tmp")
    folder.rename(left)
    other = folder.with_name(".another.0123456789abcdef.tmp")
    other.mkdir()
    prepare(starter)
    assert not left.exists()
    assert other.exists()


def test_two_at_once_make_it_once(starter: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []
    save = save_optimized

    def spy(path: Path, folder: Path, name: str, *, half: bool) -> None:
        made.append(name)
        save(path, folder, name, half=half)

    monkeypatch.setattr(prepared_module, "save_optimized", spy)
    with ThreadPoolExecutor(2) as pool:
        paths = {done.path for done in pool.map(prepare, [starter, starter])}
    assert len(paths) == 1
    assert len(made) == 3


def test_a_copy_that_disappears_after_the_check_does_not_skip_it(starter: Bundle) -> None:
    prepare(starter)
    loaded = load_bundle(starter.path)  # the graphs were not hashed, as they would not be read
    shutil.rmtree(prepared_root())
    other_content_of = starter.path / "decoder.onnx"
    data = bytearray(other_content_of.read_bytes())
    data[-1] ^= 1
    other_content_of.write_bytes(data)
    with pytest.raises(BundleError, match="its hash differs"):
        ort_runtime.OnnxRuntime(loaded, threads=1, num_slots=1)
