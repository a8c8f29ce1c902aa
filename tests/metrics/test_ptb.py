"""The tokenizer against what pycocoevalcap 1.2's gives (Stanford's PTBTokenizer of CoreNLP 3.4.1).

`web_text.jsonl` are 300 alt-texts as the web has them, written before the tokenizer and not looked
at while it was made. `hard_text.jsonl` are the lines it was made with: one difficulty each.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from altogether_rt.metrics import split_words, tokenize

pytestmark = pytest.mark.lean

HERE = Path(__file__).parent


def differences(name: str) -> tuple[int, list[str]]:
    rows = [json.loads(line) for line in (HERE / name).read_text("utf-8").splitlines()]
    return len(rows), [
        row["text"] for row in rows if " ".join(tokenize(row["text"])) != row["words"]
    ]


def test_web_text() -> None:
    num, wrong = differences("web_text.jsonl")
    assert num == 300
    assert len(wrong) <= 0.02 * num, wrong


def test_hard_text() -> None:
    num, wrong = differences("hard_text.jsonl")
    assert num > 1900
    assert len(wrong) <= 0.01 * num, wrong


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('A man, riding a "big" wave!', "a man riding a big wave"),
        ("The dog's well-known; it doesn't bark...", "the dog 's well-known it does n't bark"),
        ("(photo: Jan Novák)", "-lrb- photo jan novák -rrb-"),
        ("[a] {b}", "-lsb- a -rsb- -lcb- b -rcb-"),
        ("and/or 06/01/2004 f/8", "and/or 06/01/2004 f/8"),
        ("St. Paul Jr. at No. 10", "st. paul jr. at no. 10"),
        ("No. It is not.", "no it is not"),
        ("one sentence.Another", "one sentence.another"),
        ("www.a.org, http://b.com/c?d=1 me@c.org", "www.a.org http://b.com/c?d=1 me@c.org"),
        ("Dublin’s “Spire”", "dublin 's spire"),
        ("the U.S.A and the U.S.", "the u.s.a and the u.s."),
        ("happy 🎉 day ☀", "happy day ☀"),
        ("gonna, cannot", "gon na can not"),
        ("£5 €20 ½", "# 5 $ 20 1/2"),
        ("Malcolm X. The crowd", "malcolm x the crowd"),
        ("wow!! :)", "wow !! :-rrb-"),
        (" - -- ... \u200b ", ""),
    ],
)
def test_by_example(text: str, words: str) -> None:
    assert tokenize(text) == words.split()


def test_a_word_may_hold_a_space() -> None:
    words = tokenize("5 1/2 inches")
    assert words == ["5\u00a01/2", "inches"]
    assert split_words(words) == ["5", "1/2", "inches"]


@pytest.mark.parametrize(
    "part", ["a", "(", "a-", "1.", "a,", "<a ", "x=1&", "a@", "'", ":(", "&a;"]
)
def test_long_text_without_a_word_in_it(part: str) -> None:
    """Rules that backtracked, or looked far ahead at every character, would not return."""
    assert len(tokenize(part * 20_000)) <= 80_000


def test_coco_captions(shared_data: Path) -> None:
    """The sum of all words that pycocoevalcap gives for the 25,014 captions of val2017."""
    data = json.loads((shared_data / "captions/captions_val2017_textonly.json").read_text("utf-8"))
    lines = [" ".join(tokenize(row["caption"])) for row in data["annotations"]]
    assert len(lines) == 25_014
    digest = hashlib.sha256("\n".join(lines).encode()).hexdigest()
    assert digest == "9da43c339600f891a139ae36b35d1b37fe172eee418e9cc868d3e7169a641a3c"
