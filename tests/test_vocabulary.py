"""One word for one thing: the words that CONTRIBUTING's vocabulary retired do not come back."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.texts import error_messages, help_texts

ROOT = Path(__file__).resolve().parent.parent

#: Retired word → where it still means something else.
RETIRED: dict[str, str] = {
    r"\bplaces?\b": (
        r"\b(in|into|takes?)[- _](its |the |their |the alt-texts' )?places?\b|decimal places|"
        r"the species, the place|"
        r"\"(decoder\.)?places\""
    ),
    r"\bguess(es|ed|er|ers|ing)?\b": r"[\"'.`]guesses|\bguesses:|guesses=|guesses names|\bkey\b",
    r"\bphrase(s|book)?\b": (
        r"\.phrase\b|[Nn]oun phrases|no-phrases|[\"'.`]phrases|group_phrase|\bkey\b"
    ),
    r"\bPhraseBook\b|\bTokenPictures\b|\bWorkerPool\b|\bCaptionJob\(folder,": "",
    r"\b_?MAX_GUESSES\b|\bMAX_DRAFT\b|\b_MAX_VERIFIED\b|\bVERIFY_CHUNK\b": "",
    r"\bnoted down\b|\btwins?'?s?\b": "",
    r"\b(is|are) no (bundle:|bundle,|checkpoint|list|row|tokenizer)\b": "",
    r"\bthe (least|usual|most) (shape|size)": "",
    r"\bShare of likely tokens\b|\bOf the choices made\b": "",
}

#: Folders in which a retired word is a word of what they describe: places and phrases of
#: scenes, noun phrases of an evaluation.
_PHRASES = r"\bphrase(s|book)?\b"
OTHER_MEANING = {
    "scenes": (r"\bplaces?\b", _PHRASES),
    "evaluation": (_PHRASES,),
    "eval.py": (_PHRASES,),
}


def lines() -> Iterator[tuple[Path, int, str]]:
    """Every line of the package, the benchmarks and the guides, but for the vocabulary's table."""
    for path in (
        *sorted((ROOT / "altogether_rt").rglob("*.py")),
        *sorted((ROOT / "benchmarks").rglob("*.py")),
        ROOT / "README.md",
        ROOT / "export" / "README.md",
        ROOT / "benchmarks" / "README.md",
        ROOT / "CONTRIBUTING.md",
        *sorted((ROOT / "docs").glob("*.md")),
    ):
        for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
            if not (path.name == "CONTRIBUTING.md" and line.startswith("|")):
                yield path, number, line


@pytest.mark.parametrize("word", RETIRED)
def test_retired_words_do_not_come_back(word: str) -> None:
    found = []
    for path, number, line in lines():
        if any(word in OTHER_MEANING.get(part, ()) for part in path.parts):
            continue
        rest = re.sub(RETIRED[word], "", line) if RETIRED[word] else line
        if re.search(word, rest, re.IGNORECASE if word.islower() else 0):
            found.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()}")
    assert not found, "\n".join(found)


def test_the_vocabulary_is_written_down() -> None:
    guide = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
    for word in ("sample", "task", "sequence", "draft tokens", "n-gram cache", "picture prior"):
        assert re.search(rf"^\| {word}\b", guide, re.M), f"the vocabulary lacks {word}"


def test_every_help_text_and_message_can_be_printed() -> None:
    helps = dict(help_texts())
    assert "Nucleus sampling" in helps["altogether-rt caption"]
    assert all("Examples:" in text for command, text in helps.items() if " " in command)
    messages = list(error_messages())
    assert len(messages) > 200
    for where, text in messages:
        assert not re.search(r"\b(None|TODO|FIXME)\b", text), f"{where}: {text}"
