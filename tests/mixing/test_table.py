"""The samples of a mixture on disk."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from altogether_rt.mixing.table import Sample, SampleTable

pytestmark = pytest.mark.lean


def test_samples_come_back_in_order_and_once() -> None:
    with SampleTable() as table:
        assert table.add("b", ["x"], "a caption")
        assert table.add("a", [], None)
        assert not table.add("b", ["other"], "another caption")
        assert table.add_alts("c", ["new"])
        assert not table.add_alts("a", ["one", "two"])
        assert not table.add_alts("a", ["two", "three"])
        assert list(table) == [
            Sample("b", ("x",), "a caption"),
            Sample("a", ("one", "two", "three"), None),
            Sample("c", ("new",), None),
        ]
        assert len(table) == 3


def test_texts_are_one_line_and_empty_ones_none() -> None:
    with SampleTable() as table:
        table.add("a", ["  two\nlines\t", "", "\x00"], " \n ")
        table.add("b", ["x\ud800"], "y\ud800")
        assert list(table) == [
            Sample("a", ("two lines",), None),
            Sample("b", ("x\N{REPLACEMENT CHARACTER}",), "y\N{REPLACEMENT CHARACTER}"),
        ]


def test_names_are_kept_to_the_byte_and_composed_ones_found() -> None:
    composed, decomposed = "caf\u00e9.jpg", "cafe\u0301.jpg"
    with SampleTable() as table:
        table.add("caf\udce9.jpg", ["latin-1"], None)
        table.add(composed, [], "c")
        table.add_alts(decomposed, ["alt"])
        assert [sample.key for sample in table] == ["caf\udce9.jpg", composed]
        assert next(s for s in table if s.key == composed).alts == ("alt",)
    with SampleTable() as table:
        table.add(decomposed, [], "c")
        assert not table.add_alts(composed, ["alt"])
        assert list(table) == [Sample(decomposed, ("alt",), "c")]


def test_endless_alt_texts_are_cut() -> None:
    with SampleTable() as table:
        table.add("a", ["x" * 1_000_000, "y"], None)
        assert sum(map(len, next(iter(table)).alts)) == 8192
        table.add("b", ["x" * 8000], None)
        table.add_alts("b", ["y" * 1000])
        table.add_alts("b", ["z"])
        table.add("c", ["x" * 8191 + " y"], None)  # cut behind the space, which then goes as well
        assert [list(map(len, sample.alts)) for sample in table][1:] == [[8000, 192], [8191]]


_GROWTH = """
from altogether_rt.bench.timing import peak_memory_bytes
from altogether_rt.mixing.table import SampleTable
before = peak_memory_bytes()
with SampleTable() as table:
    for number in range(30_000):
        table.add(str(number), [f"{number} " + "a" * 2000], f"{number} " + "c" * 2000)
    assert sum(len(sample.caption or "") > 2000 for sample in table) == 30_000
print((peak_memory_bytes() - before) // 1024)
"""


def test_memory_does_not_grow_with_the_texts(root: Path) -> None:
    """120 MB of texts in 30 MB at most, in a process whose peak is its own."""
    done = subprocess.run(
        [sys.executable, "-c", _GROWTH], cwd=root, capture_output=True, text=True, check=True
    )
    assert int(done.stdout) < 30_000
