"""Embeddings saved and read back: safely, whole, and only for the encoder that made them."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from altogether_rt.captions import EmbeddedImage
from altogether_rt.data.embeddings import (
    EncoderStamp,
    SavedEmbeddings,
    names_path,
    read_stamp,
)
from altogether_rt.data.sinks.embeddings import EmbeddingSink
from altogether_rt.errors import AltogetherError, ImageError, MissingDependencyError

pytestmark = pytest.mark.lean

STAMP = EncoderStamp("0123456789ab", 5)
RNG = np.random.default_rng(0)
IMAGES = {
    f"sub/{i}.png": EmbeddedImage(RNG.bytes(16), RNG.standard_normal(5).astype(np.float32))
    for i in range(12)
}
HAS_PARQUET = importlib.util.find_spec("pyarrow") is not None
ENDINGS = [
    ".npy",
    pytest.param(
        ".parquet", marks=pytest.mark.skipif(not HAS_PARQUET, reason="needs the extra parquet")
    ),
]


def save(path: Path, names: list[str], stamp: EncoderStamp = STAMP, **options: Any) -> None:
    with EmbeddingSink(path, stamp, **options) as sink:
        for name in names:
            sink.write(name, IMAGES[name])
        sink.finish()


def assert_holds(path: Path, names: list[str]) -> None:
    saved = SavedEmbeddings(path, STAMP)
    assert sorted(saved.names()) == sorted(names)
    for name in names:
        found = saved.get(name)
        assert found.content == IMAGES[name].content
        assert found.embedding.tobytes() == IMAGES[name].embedding.tobytes()


@pytest.mark.parametrize("ending", ENDINGS)
def test_what_is_saved_is_read_back(tmp_path: Path, ending: str) -> None:
    path, names = tmp_path / f"e{ending}", list(IMAGES)
    save(path, names[:5])
    assert_holds(path, names[:5])
    save(path, names[8:])  # a later run adds to it
    assert_holds(path, names[:5] + names[8:])
    save(path, names[:1], overwrite=True)
    assert_holds(path, names[:1])
    assert not Path(f"{path}.part").exists()
    with pytest.raises(ImageError) as caught:
        SavedEmbeddings(path, STAMP).get("other.png")
    assert caught.value.kind == "no_embedding"


def test_a_stopped_run_goes_on(tmp_path: Path) -> None:
    path, names = tmp_path / "e.npy", list(IMAGES)
    with EmbeddingSink(path, STAMP) as sink:
        for name in names[:3]:
            sink.write(name, IMAGES[name])
    assert not path.exists()
    with Path(f"{path}.part").open("ab") as part:
        part.write(b'{"file_name": "half')  # killed while it wrote
    with EmbeddingSink(path, STAMP) as sink:
        assert names[2] in sink
        assert "half" not in sink
        with pytest.raises(AltogetherError, match="another run is writing"):
            EmbeddingSink(path, STAMP)
        for name in names[3:]:
            sink.write(name, IMAGES[name])
        sink.finish()
    assert_holds(path, names)


def test_a_run_that_is_stopped_again_and_again_loses_nothing(tmp_path: Path) -> None:
    path, names = tmp_path / "e.npy", list(IMAGES)
    for number in range(4):
        with EmbeddingSink(path, STAMP) as sink:
            assert [name for name in names if name in sink] == names[: 3 * number]
            for name in names[3 * number : 3 * number + 3]:
                sink.write(name, IMAGES[name])
            if number == 3:
                sink.finish()
    assert_holds(path, names)
    with EmbeddingSink(path, STAMP) as sink:
        assert names[0] in sink
        assert "other.png" not in sink
    assert not Path(f"{path}.part").exists(), "nothing was added"


def test_overwriting_takes_over_nothing(tmp_path: Path) -> None:
    path, names = tmp_path / "e.npy", list(IMAGES)
    save(path, names[:2])
    with EmbeddingSink(path, STAMP) as sink:
        sink.write(names[3], IMAGES[names[3]])
    with EmbeddingSink(path, STAMP, overwrite=True) as sink:
        assert not [name for name in names if name in sink]
        sink.write(names[5], IMAGES[names[5]])
        sink.finish()
    assert_holds(path, names[5:6])


@pytest.mark.parametrize(
    "change",
    [
        {"content": 3},
        {"content": "0123"},
        {"embedding": None},
        {"embedding": "AAAA"},  # three bytes
        {"embedding": "?"},
        {"file_name": ["a"]},
    ],
)
def test_what_follows_a_line_that_is_no_embedding_is_made_again(
    tmp_path: Path, change: dict[str, object]
) -> None:
    path, names = tmp_path / "e.npy", list(IMAGES)
    with EmbeddingSink(path, STAMP) as sink:
        for name in names[:4]:
            sink.write(name, IMAGES[name])
    part = Path(f"{path}.part")
    lines = part.read_text().splitlines()  # the header, then a line for each
    lines[3] = json.dumps({**json.loads(lines[3]), **change})
    part.write_text("\n".join(lines) + "\n")
    with EmbeddingSink(path, STAMP) as sink:
        assert [name for name in names if name in sink] == names[:2]
        for name in names[2:]:
            sink.write(name, IMAGES[name])
        sink.finish()
    assert_holds(path, names)


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize(
    "change", [{"encoder": "ffffffffffff"}, {"embed_dim": 6}, {"decoding": "fast"}]
)
def test_another_encoder_is_refused(tmp_path: Path, ending: str, change: dict[str, object]) -> None:
    path = tmp_path / f"e{ending}"
    save(path, list(IMAGES))
    other = dataclasses.replace(STAMP, **change)  # type: ignore[arg-type]
    sentence = "holds embeddings of encoder 0123456789ab .* save them again"
    with pytest.raises(AltogetherError, match=sentence):
        SavedEmbeddings(path, other)
    with pytest.raises(AltogetherError, match=sentence):
        EmbeddingSink(path, other)
    with EmbeddingSink(tmp_path / "stopped.npy", STAMP) as sink:
        sink.write("sub/1.png", IMAGES["sub/1.png"])
    with pytest.raises(AltogetherError, match=sentence):
        EmbeddingSink(tmp_path / "stopped.npy", other)
    with EmbeddingSink(tmp_path / "stopped.npy", STAMP) as sink:  # which is locked no more
        assert "sub/1.png" in sink


def test_bad_embeddings_are_errors_of_their_images(tmp_path: Path) -> None:
    path = tmp_path / "e.npy"
    save(path, list(IMAGES))
    array = np.load(path)
    names = list(SavedEmbeddings(path, STAMP).names())
    array[2] += 1  # not what was saved: the checksum tells
    np.save(path, array)
    saved = SavedEmbeddings(path, STAMP)
    with pytest.raises(ImageError, match="is not the one saved") as caught:
        saved.get(names[2])
    assert caught.value.kind == "bad_embedding"
    assert saved.get(names[3]).content == IMAGES[names[3]].content
    with EmbeddingSink(tmp_path / "nan.npy", STAMP) as sink:
        sink.write("x", EmbeddedImage(b"0" * 16, np.full(5, np.nan, np.float32)))
        sink.finish()
    with pytest.raises(ImageError, match="not finite"):
        SavedEmbeddings(tmp_path / "nan.npy", STAMP).get("x")


def _header(shape: str, descr: str = "'<f4'") -> bytes:
    text = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode()


@pytest.mark.parametrize(
    "hostile",
    [
        b"",
        b"\x93NUMPY\x01\x00",
        b"PK\x03\x04 an archive",
        _header("(12, 5)"),  # claims what is not there
        _header("(100000000000, 5)"),
        _header("(12, 5)", "'|O'") + b"cos\nsystem\n(S'true'\ntR.",
        _header("__import__('os').getpid()"),
        _header("(3, 5)") + bytes(60),  # fewer rows than names
        _header("(12, 5)", "'<f8'") + bytes(480),
        _header("(60,)") + bytes(240),
    ],
)
def test_hostile_arrays(tmp_path: Path, hostile: bytes) -> None:
    path = tmp_path / "e.npy"
    save(path, list(IMAGES))
    path.write_bytes(hostile)
    with pytest.raises(AltogetherError, match="save the embeddings again"):
        SavedEmbeddings(path, STAMP)


@pytest.mark.parametrize(
    "line",
    ["?", "[]", '{"file_name": 3}', '{"file_name": "x", "content": "zz", "crc32": 1}', "[" * 9999],
)
def test_hostile_names(tmp_path: Path, line: str) -> None:
    path = tmp_path / "e.npy"
    save(path, list(IMAGES))
    names = names_path(path)
    lines = names.read_text().splitlines()
    names.write_text("\n".join([*lines[:-1], line]) + "\n")
    with pytest.raises(AltogetherError, match="a line that is not a row's name"):
        SavedEmbeddings(path, STAMP)
    names.write_text("\n".join([line, *lines[1:]]) + "\n")
    with pytest.raises(AltogetherError, match="does not hold embeddings saved by"):
        SavedEmbeddings(path, STAMP)
    names.unlink()
    with pytest.raises(AltogetherError, match=r"has no e\.names\.jsonl beside it"):
        SavedEmbeddings(path, STAMP)


def test_names_are_any_that_files_have(tmp_path: Path) -> None:
    path = tmp_path / "e.npy"
    with EmbeddingSink(path, STAMP) as sink:
        for name in ("caf\udce9\n.png", "é\u2028.png"):
            sink.write(name, IMAGES["sub/0.png"])
        sink.finish()
    assert len(names_path(path).read_bytes().splitlines()) == 3
    assert set(SavedEmbeddings(path, STAMP).names()) == {"caf\udce9\n.png", "é\u2028.png"}
    first = json.loads(names_path(path).read_text().splitlines()[0])
    assert first["encoder"] == "0123456789ab"


def test_other_endings_are_refused(tmp_path: Path) -> None:
    for opened in (EmbeddingSink, SavedEmbeddings):
        with pytest.raises(AltogetherError, match=r"neither a \.npy nor a \.parquet"):
            opened(tmp_path / "e.pkl", STAMP)


@pytest.mark.skipif(HAS_PARQUET, reason="the extra parquet is installed")
def test_without_pyarrow_the_extra_is_named(tmp_path: Path) -> None:
    with pytest.raises(MissingDependencyError, match=r"pip install 'altogether-rt\[parquet\]'"):
        EmbeddingSink(tmp_path / "e.parquet", STAMP)


@pytest.mark.skipif(not HAS_PARQUET, reason="needs the extra parquet")
def test_a_parquet_file_of_something_else(tmp_path: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    path = tmp_path / "e.parquet"
    path.write_bytes(b"PAR1 not at all")
    with pytest.raises(AltogetherError, match="not a parquet file"):
        SavedEmbeddings(path, STAMP)
    table = pyarrow.table({"file_name": ["a"], "embedding": [1.0]})
    parquet.write_table(table, path)
    with pytest.raises(AltogetherError, match="does not hold embeddings saved by"):
        SavedEmbeddings(path, STAMP)
    metadata = {"altogether-rt": json.dumps(STAMP.header())}
    parquet.write_table(table.replace_schema_metadata(metadata), path)
    with pytest.raises(AltogetherError, match="has columns"):
        SavedEmbeddings(path, STAMP)


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_file_says_which_encoder_made_it(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"e{ending}"
    stamp = EncoderStamp("fedcba987654", 5, "fast-jpeg")
    save(path, list(IMAGES)[:2], stamp)
    assert read_stamp(path) == stamp
    assert SavedEmbeddings(path, read_stamp(path)).stamp == stamp
    path.write_bytes(b"nonsense")
    names_path(path).write_text("[1]\n")
    with pytest.raises(AltogetherError, match="does not hold embeddings"):
        read_stamp(path)
    path.unlink()
    names_path(path).unlink()
    with pytest.raises(AltogetherError, match="No such file"):
        read_stamp(path)
