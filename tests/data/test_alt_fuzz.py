"""Mutated files of alt-texts: every line is used or reported, and nothing is a traceback.

`python -m tests.data.test_alt_fuzz 100000` tries that many mutations; the suite tries 3,000.
"""

from __future__ import annotations

import gzip
import json
import random
import re
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

import pytest

from altogether_rt.data.alt_files.lines import FileNotes, text_encoding
from altogether_rt.data.alts import iter_alts
from altogether_rt.data.problems import Problems
from altogether_rt.errors import AltogetherError

pytestmark = pytest.mark.lean

TEXTS = ("a boat", "Zoë, 5 €", "日本 🙂", 'said "hi"', "", "two; parts | here", "line\u2028end")
INSERTED = (
    *(b'"', b'""', b",", b"\t", b"\n", b"\r\n", b"\xff", b"\xe9", b"\x00", b"{", b"}", b"["),
    *(b"\xef\xbb\xbf", b"\\", b"nan", b"\xe2\x80\xa8", b";", b"\n\n", b"null", b"\xc3"),
)


def valid_file(rng: random.Random, suffix: str) -> bytes:
    rows = [(f"{i:03}.png", rng.choice(TEXTS)) for i in range(rng.randint(1, 30))]
    if suffix == ".jsonl":
        records = ({"file_name": n, "alt": t} for n, t in rows)
        text = "".join(json.dumps(r, ensure_ascii=rng.random() < 0.5) + "\n" for r in records)
    elif suffix == ".tsv":
        text = "file_name\talt\n" + "".join(f"{n}\t{t}\n" for n, t in rows)
    else:
        comma = rng.choice(",;|\t")
        cells = ((n, '"' + t.replace('"', '""') + '"') for n, t in rows)
        text = f"file_name{comma}alt\n" + "".join(f"{n}{comma}{t}\n" for n, t in cells)
    encoding = rng.choice(["utf-8", "utf-8", "utf-8-sig", "utf-16", "cp1252"])
    return text.encode(encoding, "replace")


def mutated(rng: random.Random, raw: bytes) -> bytes:
    data = bytearray(raw)
    for _ in range(rng.randint(0, 4)):
        at = rng.randint(0, len(data))
        match rng.randint(0, 4):
            case 0:
                data[at:at] = rng.choice(INSERTED)
            case 1:
                del data[at : at + rng.randint(1, 9)]
            case 2:
                data[at : at + 1] = bytes([rng.randint(0, 255)])
            case 3:
                del data[at:]
            case 4:
                data[at:at] = data[max(0, at - 40) : at]
    return bytes(data)


def num_lines(raw: bytes) -> int:
    """Lines with something in them, counted without the reader's help."""
    encoding = text_encoding(raw[: 1 << 16])
    if encoding.startswith("utf-8"):
        raw = raw.removeprefix(b"\xef\xbb\xbf")
        ends = b"\r" if b"\r" in raw and b"\n" not in raw else b"\n"
        return sum(bool(line.strip()) for line in raw.split(ends))
    text = raw.decode(encoding, "replace")
    return sum(bool(line.strip(" \t\r\x0b\x0c")) for line in text.split("\n"))


def check(folder: Path, suffix: str, raw: bytes, compressed: bool = False) -> None:
    path = folder / f"alts{suffix}{'.gz' if compressed else ''}"
    path.write_bytes(gzip.compress(raw, 1) if compressed else raw)
    problems, notes = Problems(), FileNotes()
    used = 0
    for _, texts in iter_alts(path, problems, notes=notes):
        used += 1
        swallowed = [text for text in texts if re.search(r"\n\d+\.png[,;|\t]", text)]
        assert not swallowed, (suffix, raw, swallowed)
    total = num_lines(raw)
    counted = used + problems.count + notes.num_header_lines + notes.num_continued
    assert counted == total, (suffix, raw, used, problems, notes, total)


def fuzz(folder: Path, count: int, seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(count):
        suffix = rng.choice([".csv", ".tsv", ".jsonl", ".json"])
        if suffix == ".json":
            rows = {f"{i}.png": rng.choice(TEXTS) for i in range(9)}
            path = folder / "alts.json"
            path.write_bytes(mutated(rng, json.dumps(rows).encode()))
            with suppress(AltogetherError):  # one JSON value is whole or refused as a whole
                list(iter_alts(path, Problems()))
        else:
            raw = mutated(rng, valid_file(rng, suffix))
            check(folder, suffix, raw, compressed=rng.random() < 0.1)


def test_every_line_is_used_or_reported(tmp_path: Path) -> None:
    fuzz(tmp_path, 3000, seed=1)


def test_cut_and_flipped_compressed_files_are_refused_in_a_sentence(tmp_path: Path) -> None:
    rng = random.Random(2)
    whole = gzip.compress(valid_file(rng, ".csv"), mtime=0)
    path = tmp_path / "alts.csv.gz"
    for _ in range(300):
        path.write_bytes(mutated(rng, whole))
        with suppress(AltogetherError):
            list(iter_alts(path, Problems()))


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        fuzz(Path(scratch), int(sys.argv[1]), seed=int(sys.argv[2]) if sys.argv[2:] else 7)
    print(f"{sys.argv[1]} mutations: every line used or reported")
