"""Words and scores against pycocoevalcap itself, where it and Java are installed."""

from __future__ import annotations

import itertools
import json
import shutil
from pathlib import Path

import pytest

from altogether_rt.metrics import bleu, cider_d, rouge_l, tokenize

tokenizer = pytest.importorskip(
    "pycocoevalcap.tokenizer.ptbtokenizer", reason="needs the extra meteor (pycocoevalcap)"
)
if shutil.which("java") is None:
    pytest.skip("needs Java", allow_module_level=True)

HERE = Path(__file__).parent


def published_words(texts: list[str]) -> list[str]:
    captions = {index: [{"caption": text}] for index, text in enumerate(texts)}
    words = tokenizer.PTBTokenizer().tokenize(captions)
    return [words[index][0] for index in range(len(texts))]


def share_equal(texts: list[str]) -> float:
    published = published_words(texts)
    same = sum(" ".join(tokenize(t)) == p for t, p in zip(texts, published, strict=True))
    return same / len(texts)


def test_web_text() -> None:
    rows = [json.loads(line) for line in (HERE / "web_text.jsonl").read_text("utf-8").splitlines()]
    assert share_equal([row["text"] for row in rows]) >= 0.98


def test_coco_captions(shared_data: Path) -> None:
    path = shared_data / "captions/captions_val2017_textonly.json"
    rows = json.loads(path.read_text("utf-8"))["annotations"]
    assert share_equal([row["caption"] for row in rows]) >= 0.999


def test_alt_texts(shared_data: Path) -> None:
    lines = (shared_data / "alts/alts.jsonl").read_text("utf-8").splitlines()
    texts = [json.loads(line)["alt"] for line in lines]
    assert share_equal([text for text in texts if isinstance(text, str) and text]) >= 0.98


def test_scores_of_raw_text() -> None:
    """Candidates and references are neighbouring lines of web text: few words are shared."""
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.rouge.rouge import Rouge

    rows = [json.loads(line) for line in (HERE / "web_text.jsonl").read_text("utf-8").splitlines()]
    texts = [row["text"] for row in rows]
    candidates = [f"{a} {b}" for a, b in itertools.pairwise(texts)]
    references = [[a, b] for a, b in itertools.pairwise(texts)]
    captions = {i: [{"caption": text}] for i, text in enumerate(candidates)}
    truths = {i: [{"caption": text} for text in some] for i, some in enumerate(references)}
    published = tokenizer.PTBTokenizer()
    ours, theirs = published.tokenize(captions), published.tokenize(truths)
    bleus, _ = Bleu(4).compute_score(theirs, ours, verbose=0)
    assert bleu(candidates, references, 1) == pytest.approx(bleus[0], abs=1e-6)
    assert bleu(candidates, references) == pytest.approx(bleus[3], abs=1e-6)
    rouge, _ = Rouge().compute_score(theirs, ours)
    assert rouge_l(candidates, references) == pytest.approx(rouge, abs=1e-6)
    cider, _ = Cider().compute_score(theirs, ours)
    assert cider_d(candidates, references).mean == pytest.approx(cider, abs=1e-6)
