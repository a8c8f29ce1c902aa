"""Medians, tables and pictures of made-up turns."""

from __future__ import annotations

from typing import Any
from xml.etree import ElementTree

import pytest
from harness.summary import agreement, summarise
from peers.picture import to_svg
from peers.tables import to_markdown


def job(seconds: float, batch: int = 8, images: int = 16, encode_s: float = 1.0) -> dict[str, Any]:
    latencies = [seconds / images] * images if batch == 1 else []
    return {
        "images": images,
        "batch": batch,
        "seconds": seconds,
        "encode_s": encode_s,
        "latencies_s": latencies,
        "caption_tokens": 1280,
        "peak_bytes": 2_000_000_000,
    }


def result() -> dict[str, Any]:
    turns = [
        {
            "load_s": 2.0,
            "cells": {"8x16": job(4.0), "1x16": job(16.0, 1), "16x64": job(8.0, 16, 64)},
        },
        {"load_s": 3.0, "cells": {"8x16": job(8.0)}},
        {"cells": {}, "error": "it took too long"},
    ]
    one = {
        "name": "ours-int8",
        "label": "altogether-rt <int8>",
        "scope": "whole",
        "environment_bytes": 250_000_000,
        "files_bytes": 2_310_000_000,
        "agreement": {"stand_in": agreement([[1, 2, 3], [4, 5, 6]], [[1, 2, 3], [4, 9, 6]])},
        **summarise(turns),
    }
    decoder = {
        **one,
        "name": "peer",
        "label": "a peer (decoder)",
        "scope": "decoder",
        "agreement": {},
        **summarise([{"load_s": 1.0, "cells": {"8x16": job(2.0, encode_s=0.0)}}]),
    }
    return {
        "size": "small",
        "machine": {"processor": "a CPU", "threads": 2, "cores": 4, "date": "2026-01-01"},
        "versions": {"torch": "2.13.0"},
        "batches": [1, 8, 16],
        "decoder_batch": 8,
        "growth": [16, 64, 256],
        "contestants": [one, decoder],
    }


def test_medians_and_spread() -> None:
    ours = result()["contestants"][0]
    cell = ours["cells"]["8x16"]
    assert cell["repetitions"] == 2
    assert cell["images_per_s"] == {"median": 3.0, "min": 2.0, "max": 4.0}
    assert cell["decoder_images_per_s"]["max"] == pytest.approx(16 / 3)
    assert cell["tokens_per_s"] == pytest.approx(1280 / 6)
    assert ours["cells"]["1x16"]["latency_s"] == {"p50": 1.0, "p95": 1.0}
    assert (ours["turns"], ours["load_s"]) == (2, 2.5)
    assert ours["errors"] == ["it took too long"]


def test_agreement_counts_up_to_the_first_difference() -> None:
    found = agreement([[1, 2, 3], [4, 5, 6]], [[1, 2, 3], [4, 9, 6]])
    assert (found["identical_rows"], found["rows"]) == (1, 2)
    assert (found["leading_tokens_equal"], found["tokens"]) == (4, 6)
    assert found["distinct_reference_tokens"] == 6


def test_the_table_says_what_was_measured_and_what_was_not() -> None:
    lines = to_markdown(result()).splitlines()
    ours = next(line for line in lines if line.startswith("| altogether-rt"))
    cells = [cell.strip() for cell in ours.strip("|").split("|")]
    assert cells[1:4] == ["1 (n=1)", "3 (2–4)", "8 (n=1)"]
    assert cells[5:8] == ["1", "1", "2.5"]
    peer = next(line for line in lines if line.startswith("| a peer"))
    cells = [cell.strip() for cell in peer.strip("|").split("|")]
    assert cells[1:5] == ["–", "–", "–", "8 (n=1)"]  # no whole captions, but a decoder
    assert any("64 images" in line for line in lines)
    assert any("8 s, 2 GB" in line for line in lines)
    assert "altogether-rt <int8>: it took too long." in lines
    assert any(line.startswith("small size, a CPU, 2 threads of 4 cores") for line in lines)


def test_what_speculation_was_forced_to_is_said() -> None:
    measured = result()
    assert "Forced" not in to_markdown(measured)
    measured["contestants"][0]["label"] = "ours, speculation*"
    assert "* Forced to random tokens" in to_markdown(measured)
    measured |= {"pairs": "scenes"}
    assert "* Forced to the captions of the pairs (scenes)" in to_markdown(measured)
    assert "†" not in to_markdown(measured)
    measured["contestants"][1]["label"] = "ours, taught†"
    assert "† The same after learning from 1,000" in to_markdown(measured)


def test_the_picture_is_xml_with_a_bar_for_each_contestant() -> None:
    root = ElementTree.fromstring(to_svg(result()))
    texts = [node.text for node in root.iter("{http://www.w3.org/2000/svg}text")]
    assert texts.count("altogether-rt <int8>") == 2  # whole, and its decoder
    assert texts.count("a peer (decoder)") == 1
    bars = [
        node
        for node in root.iter("{http://www.w3.org/2000/svg}rect")
        if node.get("fill", "").startswith("#")
    ]
    assert len(bars) == 3
    assert all(float(bar.get("width", "0")) > 0 for bar in bars)


def test_the_picture_says_what_was_captioned_and_what_its_marks_mean() -> None:
    measured = result() | {"pairs": "scenes"}
    measured["machine"]["features"] = ["avx2", "avx512f"]
    measured["contestants"][0]["label"] = "ours, speculation*"
    root = ElementTree.fromstring(to_svg(measured))
    texts = [node.text or "" for node in root.iter("{http://www.w3.org/2000/svg}text")]
    assert "a CPU (avx2, avx512f), 2 threads, captions of scenes" in texts[0]
    assert any(text.startswith("* Forced to the captions") for text in texts)


def test_tables_without_figures() -> None:
    empty = result()
    for one in empty["contestants"]:
        one.update(summarise([{"cells": {}, "error": "it ended with status 1"}]), agreement={})
    assert "it ended with status 1" in to_markdown(empty)
    ElementTree.fromstring(to_svg(empty))
