"""Lengths of alt-texts and captions."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from statistics import mean, median

import pytest
from harness.rows import Row
from peers import traffic
from peers.traffic import make_rows, read_rows

from altogether_rt.artifacts.bundle import Bundle, find_bundle
from altogether_rt.preprocess.prompts import PromptTokenizer
from altogether_rt.scenes.text import make_sample


def test_lengths_are_spread_as_stated() -> None:
    rows = make_rows(2000, 50272)
    alts = [len(row.alt_ids) for row in rows]
    captions = [row.caption_tokens for row in rows]
    assert min(alts) == 0 and max(alts) == 128
    assert median(alts) == pytest.approx(15, abs=1)
    assert alts.count(0) / len(alts) == pytest.approx(0.1, abs=0.01)
    assert min(captions) == 20 and max(captions) == 190
    assert mean(captions) == pytest.approx(80, abs=2)


@pytest.mark.parametrize("seed", range(5))
def test_a_few_rows_are_typical(seed: int) -> None:
    rows = make_rows(8, 50272, seed)
    assert mean(row.caption_tokens for row in rows) == pytest.approx(80, rel=0.25)
    assert 8 <= median(len(row.alt_ids) for row in rows) <= 25


def test_the_seed_and_nothing_else_decides() -> None:
    assert make_rows(20, 50272) == make_rows(20, 50272)
    assert make_rows(20, 50272)[:7] == make_rows(7, 50272)
    assert make_rows(20, 50272, seed=1) != make_rows(20, 50272, seed=2)


def test_ids_are_words_of_the_vocabulary() -> None:
    rows = make_rows(50, 300)
    ids = [token for row in rows for token in (*row.alt_ids, *row.stand_in_ids)]
    assert min(ids) >= 4 and max(ids) < 300
    assert {len(row.stand_in_ids) for row in rows} == {40}
    assert all(row.prompt_tokens == 40 + len(row.alt_ids) for row in rows)


def test_rows_survive_json() -> None:
    row = make_rows(4, 1000)[3]
    assert Row.from_dict(json.loads(json.dumps(row.to_dict()))) == row


def test_real_pairs_bring_their_captions(tmp_path: Path) -> None:
    path = tmp_path / "pairs.json"
    path.write_text(json.dumps({"rows": [[[5, 6], [7, 8, 2]], [[], [9, 2]]], "taught": []}))
    first, second = read_rows(path, 2)
    assert (first.alt_ids, first.caption_ids, first.caption_tokens) == ((5, 6), (7, 8, 2), 3)
    assert second.prompt_tokens == len(second.stand_in_ids) == 40
    assert Row.from_dict(json.loads(json.dumps(second.to_dict()))) == second
    assert read_rows(path, 1) == [first]
    with pytest.raises(AssertionError, match="holds 2 rows"):
        read_rows(path, 3)


def test_pairs_are_made_with_the_tokens_of_a_bundle(tmp_path: Path) -> None:
    out = tmp_path / "pairs.json"
    script = Path(traffic.__file__).parent / "convert" / "real_pairs.py"
    starter = find_bundle("starter")
    paths = os.pathsep.join(sys.path)
    subprocess.run(
        [sys.executable, str(script), "scenes", str(starter), str(out)],
        check=True,
        env={**os.environ, "PYTHONPATH": paths},
    )
    rows = read_rows(out, 256)
    bundle = Bundle.load(starter)
    tokenizer = PromptTokenizer.from_file(
        bundle.tokenizer_path, bundle.config.prompt, bundle.config.decoder.pad_id
    )
    caption = make_sample(2026, 7, "test").caption  # of picture 7 of convert/images.py
    assert rows[7].caption_ids == (*tokenizer.encode(caption), bundle.config.decoder.eos_id)
    assert len(json.loads(out.read_text())["taught"]) == 1000
