"""Files of alt-texts that tools and people write: encodings, delimiters, quotes, columns."""

from __future__ import annotations

import gzip
import importlib.util
import json
from pathlib import Path

import pytest

from altogether_rt.cli.commands.learn import _caption_rows
from altogether_rt.data.alt_files.columns import Columns
from altogether_rt.data.alts import read_alts
from altogether_rt.errors import AltogetherError, MissingDependencyError

pytestmark = pytest.mark.lean


def texts(path: Path, columns: Columns | None = None) -> dict[str, tuple[str, ...]]:
    table = read_alts(path, columns=columns)
    assert not table.problems, str(table.problems)
    return {name: alts.texts for name, alts in table.by_name.items()}


def test_a_stray_quote_costs_its_own_line(tmp_path: Path) -> None:
    lines = [f"{i:06}.png,boat number {i}\n" for i in range(12_000)]
    lines[1500] = '001500.png,"boat number 1500\n'
    lines[9000] = '009000.png,boat" number 9000\n'  # within a text it is a character
    lines[9500] = '009500.png,"big" boat\n'
    path = tmp_path / "alts.csv"
    path.write_text("file_name,alt\n" + "".join(lines))
    table = read_alts(path)
    assert (table.num_used, table.problems.count) == (11_999, 1)
    assert table.problems.examples == ["line 1502: a quote is opened and not closed"]
    assert table.get("001501.png").texts == ("boat number 1501",)
    assert table.get("009000.png").texts == ('boat" number 9000',)
    assert table.get("009500.png").texts == ('"big" boat',)


def test_two_stray_quotes_do_not_swallow_what_is_between(tmp_path: Path) -> None:
    path = tmp_path / "alts.csv"
    path.write_text('file_name,alt\na.png,"open\nb.png,blue\nc.png,"open\nd.png,red"\n')
    table = read_alts(path)
    assert table.problems.count == 2
    assert table.get("b.png").texts == ("blue",)
    assert table.get("d.png").texts == ('red"',)


def test_a_quoted_text_may_have_lines_and_blank_ones(tmp_path: Path) -> None:
    path = tmp_path / "alts.csv"
    path.write_bytes(b'file_name,alt\r\na.png,"two\r\n\r\nlines, ""quoted"""\r\nb.png,x\r\n')
    assert texts(path) == {"a.png": ('two lines, "quoted"',), "b.png": ("x",)}


def test_tsv_has_no_quotes(tmp_path: Path) -> None:
    path = tmp_path / "alts.tsv"
    path.write_text('file_name\talt\na.png\t"open\nb.png\tsaid "hi"\n')
    assert texts(path) == {"a.png": ('"open',), "b.png": ('said "hi"',)}
    path.write_text('file_name\talt\na.png\t"said ""hi"""\nb.png\t"hi"\n')
    assert texts(path) == {"a.png": ('said "hi"',), "b.png": ('"hi"',)}
    path.write_text('"file_name"\t"alt"\n"a.png"\t"hi"\n')
    assert texts(path) == {"a.png": ("hi",)}


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("header", ["file_name,alt", "Image Path,Alt Text", "filename,caption", ""])
def test_delimiters_and_headers(tmp_path: Path, delimiter: str, header: str) -> None:
    path = tmp_path / "alts.csv"
    lines = [*([header.replace(",", delimiter)] if header else []), f"a.png{delimiter}my boat"]
    path.write_text("\n".join(lines) + "\n")
    assert texts(path) == {"a.png": ("my boat",)}


def test_columns_that_the_user_names(tmp_path: Path) -> None:
    path = tmp_path / "alts.csv"
    path.write_text("nr,bild,beschreibung,alt\n1,a.png,my boat,wrong\n")
    assert texts(path, Columns("bild", "beschreibung")) == {"a.png": ("my boat",)}
    path.write_text("1,a.png,2020,my boat\n")  # without a header, by their numbers
    assert texts(path, Columns("2", "4")) == {"a.png": ("my boat",)}
    path = tmp_path / "alts.jsonl"
    path.write_text('{"bild": "a.png", "beschreibung": "my boat", "alt": "wrong"}\n')
    assert texts(path, Columns("bild", "beschreibung")) == {"a.png": ("my boat",)}


def test_excel_says_its_delimiter(tmp_path: Path) -> None:
    path = tmp_path / "alts.csv"
    path.write_text("sep=;\nfile;alt\na.png;x, y\n")
    assert texts(path) == {"a.png": ("x, y",)}


@pytest.mark.parametrize(
    "encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"]
)
@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".json"])
@pytest.mark.parametrize("compressed", [False, True])
def test_encodings(tmp_path: Path, encoding: str, suffix: str, compressed: bool) -> None:
    text = {
        ".csv": "file_name,alt\na.png,Zoë\u2028日本\n",
        ".tsv": "file_name\talt\na.png\tZoë\u2028日本\n",
        ".jsonl": '{"file_name": "a.png", "alt": "Zoë\u2028日本"}\n',
        ".json": '{"a.png": "Zoë\u2028日本"}',
    }[suffix]
    raw = text.encode(encoding)
    path = tmp_path / f"alts{suffix}{'.gz' if compressed else ''}"
    path.write_bytes(gzip.compress(raw) if compressed else raw)
    assert texts(path) == {"a.png": ("Zoë 日本",)}


@pytest.mark.parametrize("line", ["{name},{text}", '{{"file_name": "{name}", "alt": "{text}"}}'])
def test_windows_1252_is_read_and_noted(tmp_path: Path, line: str) -> None:
    path = tmp_path / ("alts.jsonl" if "{{" in line else "alts.csv")
    header = "" if "{{" in line else "file_name,alt\n"
    body = [line.format(name=f"{i}.png", text=t) for i, t in enumerate(("Zo\xeb", "\x80 5", "x"))]
    raw = "\n".join(body).replace("\x80", "€")
    path.write_bytes((header + raw).encode("cp1252"))
    table = read_alts(path)
    assert [table.get(f"{i}.png").texts for i in range(3)] == [("Zoë",), ("€ 5",), ("x",)]
    assert table.notes.windows_1252.count == 2
    assert "read as Windows-1252" in table.notes.sentences(path)[0]


def test_damaged_utf8_is_not_windows_1252(tmp_path: Path) -> None:
    path = tmp_path / "alts.csv"
    path.write_bytes("file_name,alt\na.png,日本".encode() + b"\xe6\nb.png,x\xff\nc.png,y\n")
    table = read_alts(path)
    assert table.problems.examples == ["line 2: not UTF-8", "line 3: not UTF-8"]
    assert list(table.by_name) == ["c.png"]


def test_carriage_returns_end_lines_where_nothing_else_does(tmp_path: Path) -> None:
    path = tmp_path / "alts.csv"
    path.write_bytes(b"file_name,alt\ra.png,x\rb.png,y\r")
    assert texts(path) == {"a.png": ("x",), "b.png": ("y",)}


@pytest.mark.parametrize("word", ["nan", "NaN", "None", "null", "NULL", "<NA>", ""])
def test_words_for_nothing_are_no_text(tmp_path: Path, word: str) -> None:
    path = tmp_path / "alts.csv"
    path.write_text(f"file_name,alt\na.png,{word}\nb.png,x\n")
    assert texts(path) == {"a.png": (), "b.png": ("x",)}


def test_a_cell_may_hold_a_list(tmp_path: Path) -> None:
    path = tmp_path / "alts.tsv"
    path.write_text('file_name\talts\na.png\t["one", null, "two"]\nb.png\t["not a list\n')
    assert texts(path) == {"a.png": ("one", "two"), "b.png": ('["not a list',)}


def test_too_many_cells(tmp_path: Path) -> None:
    path = tmp_path / "alts.csv"
    path.write_text("alt,file_name\nx,a.png,\ny,z,b.png\n")
    table = read_alts(path)
    assert table.problems.examples == ["line 3: 3 cells where the header has 2"]
    assert table.get("a.png").texts == ("x",)


def test_json_lines_that_are_called_json(tmp_path: Path) -> None:
    path = tmp_path / "alts.json"
    path.write_text("".join(json.dumps({"file_name": n, "alt": "x"}) + "\n" for n in "ab"))
    assert texts(path) == {"a": ("x",), "b": ("x",)}


@pytest.mark.parametrize("cut", [5, 30, -4])
def test_a_cut_gzip_file_is_refused(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "alts.csv.gz"
    path.write_bytes(gzip.compress(b"file_name,alt\na.png,x\n" * 50)[:cut])
    with pytest.raises(AltogetherError, match="cut off or damaged"):
        read_alts(path)


def test_zstandard(tmp_path: Path) -> None:
    path = tmp_path / "alts.csv.zst"
    if importlib.util.find_spec("zstandard") is None:
        path.write_bytes(b"\x28\xb5\x2f\xfd rest")
        with pytest.raises(MissingDependencyError, match=r"altogether-rt\[zstd\]"):
            read_alts(path)
        return
    import zstandard

    raw = zstandard.ZstdCompressor().compress(b"file_name,alt\na.png,x\n")
    path.write_bytes(raw)
    assert texts(path) == {"a.png": ("x",)}


def test_parquet(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow", reason="needs the extra parquet")
    from pyarrow import parquet

    path = tmp_path / "alts.parquet"
    columns = {"image": [{"path": "a.png", "bytes": b"x"}, None], "text": [["one", None], None]}
    parquet.write_table(pyarrow.table({**columns, "file_name": ["a.png", "b.png"]}), path)
    assert texts(path) == {"a.png": ("one",), "b.png": ()}
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(AltogetherError, match="cannot be read as Parquet"):
        read_alts(path)


def test_learn_reads_rows_as_alt_texts_are_read(tmp_path: Path) -> None:
    path = tmp_path / "captions.jsonl"
    rows = ['{"file_name": "a", "alt": "x", "caption": "A\u2028boat."}', "?"]
    path.write_text(rows[0], "utf-16")
    assert [(row["caption"], alts) for row, alts in _caption_rows(path)] == [
        ("A\u2028boat.", ("x",))
    ]
    path.write_text("\n".join(rows), "utf-8-sig")
    with pytest.raises(AltogetherError, match=r"line 2 of .* is not a caption row"):
        list(_caption_rows(path))


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("shop.xlsx", b"PK\x03\x04\x14\x00", "is a spreadsheet or an archive, .* save it as CSV"),
        ("shop.csv", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "is a spreadsheet or an archive"),
        ("page.html", b"\n<!doctype html><img src=a.jpg alt=x>", "is a web page or XML: list its"),
        ("page.jsonl", b"\xef\xbb\xbf<html>", "is a web page or XML"),
    ],
)
def test_files_that_are_no_table(tmp_path: Path, name: str, content: bytes, sentence: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(AltogetherError, match=sentence):
        read_alts(path)
    path = tmp_path / "good.csv"
    path.write_text("<file_name>,alt\na.jpg,x\n")  # an odd heading is one all the same
    assert read_alts(path, columns=Columns("<file_name>", "alt")).get("a.jpg").texts == ("x",)
