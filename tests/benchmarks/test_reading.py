"""The reader's benchmark on a few small files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gpu.jpegs import make_jpegs
from reading import describe_files, measure, threaded, to_markdown


def test_every_reader_is_measured(tmp_path: Path) -> None:
    paths = make_jpegs(tmp_path, 2, seed=8)
    readers = measure(paths, "starter", passes=1)
    assert len(readers) == 6
    whole, pillow = readers["whole"], readers["Pillow alone"]
    assert whole["core_ms"] > pillow["core_ms"] > readers["hash of the file"]["core_ms"] > 0
    rates = threaded(paths, "starter", [1, 2])
    assert set(rates) == {"1", "2"} and min(rates.values()) > 0
    files = describe_files(paths)
    assert files["files"] == 2 and files["median_longer_side"] >= 240


def test_the_table_says_what_a_gpu_needs() -> None:
    figures = {"core_ms": 10.0, "images_per_core_s": 100.0}
    result: dict[str, Any] = {
        "machine": {"processor": "a processor", "date": "2026-11-26"},
        "files": {"files": 3, "median_longer_side": 800.0, "bytes_per_pixel": 0.25},
        "readers": {"whole": figures},
        "threads": {"1": 90.0, "2": 170.0},
    }
    text = to_markdown(result)
    assert "| whole | 10.00 | 100 |" in text
    # 500 images/s at 10 ms are 5 cores; 16 cores make 1,600.
    assert "500 images/s need 5.0 cores" in text
    assert "with 16, reading is what limits beyond 1,600 images/s." in text
    assert "by threads: 1: 90, 2: 170." in text
