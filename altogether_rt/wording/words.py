"""Sentences, words and names of a text, by rules that need no model and no other text.

Words are compared without case and in Unicode's form NFC. Scripts that put no spaces between words
are taken apart into pairs of characters.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final, Literal

__all__ = ["Name", "Wording", "is_abbreviation", "read_wording", "sentence_ends"]

#: Words that say nothing of an image by themselves.
_FUNCTION_WORDS: Final = frozenset(
    {
        "a", "an", "and", "are", "as", "at", "be", "but", "by", "for", "from", "has", "have", "he",
        "her", "his", "i", "if", "in", "into", "is", "it", "its", "my", "no", "not", "of", "on",
        "or", "our", "she", "so", "some", "that", "the", "their", "there", "these", "they", "this",
        "those", "to", "was", "we", "were", "what", "when", "where", "which", "who", "with", "you",
        "your", "image", "photo", "photograph", "picture",
    }
)  # fmt: skip

#: Words of German that English lacks. Two of them in a text, and capitals are those of its nouns.
_NOUNS_HAVE_CAPITALS: Final = frozenset(
    {
        "auf", "das", "dem", "der", "des", "ein", "eine", "einem", "einen", "einer", "eines", "für",
        "ist", "und", "von", "zwei", "über",
    }
)  # fmt: skip

#: Abbreviations that a capital may follow within a sentence.
_ABBREVIATIONS: Final = frozenset(
    {
        "approx", "ave", "bros", "capt", "co", "col", "dr", "fig", "ft", "gen", "hon", "inc", "jr",
        "lt", "mr", "mrs", "ms", "mt", "mts", "no", "prof", "rev", "sgt", "sr", "st", "vs",
    }
)  # fmt: skip

#: Scripts that write words without spaces: Thai to Tibetan, Burmese, Khmer, kana, Han.
_UNSPACED: Final = (
    "\u0e00-\u0fff\u1000-\u109f\u1780-\u17d3\u3005\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff"
)
_UNSPACED_RUN: Final = re.compile(f"[{_UNSPACED}]+")
#: Vowel signs and other marks within words, which Python does not count as letters.
_MARKS: Final = "\u0300-\u036f\u0591-\u05c7\u064b-\u0670\u0900-\u0963\u0966-\u0dff" + _UNSPACED

#: All marks in a row that may end a sentence. What follows is asked of them once, and not of each
#: part of them: in a text of nothing else, that would take the square of its length.
_END_MARKS: Final = r"[.!?\u2026](?<![.!?\u2026]{2})[.!?\u2026]*+"
#: A word with its hyphens and apostrophes; a number with what belongs to it (1,200; 3/4; 12:30);
#: the end of a sentence; any other mark. A period within anything else is not looked at.
_PART: Final = re.compile(
    rf"[^\W\d_][\w{_MARKS}]*(?:['\u2019.&-](?=[^\W_])[\w{_MARKS}]+)*"
    r"|\d+(?:[.,:/\u2013-]\d+)*\w*"
    rf"|{_END_MARKS}(?=[\s\"'\u201d\u2019)\]]|$)|[\u3002\uff01\uff1f]"
    r"|[^\s\w.!?\u2026]"
)
_END: Final = re.compile(
    rf"{_END_MARKS}[\"'\u201d\u2019)\]]*+(?=\s|$)|[\u3002\uff01\uff1f]+[\u300d\u300f]?"
)
_ENDS: Final = frozenset(".!?\u2026\u3002\uff01\uff1f")
_QUOTES: Final = frozenset('"\u201c\u201d\u201e\u00ab\u00bb\u300c\u300d')

#: In a text with so many words that say something, of which such a share has capitals, a capital
#: says nothing: it is a title, or shouted.
_MIN_TITLE_WORDS: Final = 5
_TITLE_SHARE: Final = 0.8
_MIN_GERMAN_WORDS: Final = 2

#: Longest part of a text that is kept, should it come again; long ones come once.
_MAX_KEPT_CHARS: Final = 32


@dataclass(frozen=True)
class Name:
    """A run of words with capitals."""

    words: tuple[str, ...]  # as they are compared
    text: str  # as it is written


@dataclass
class Wording:
    """What a text says, by its words.

    Names are words that have a capital, and no digit, where others have none. They are unknown, and
    left out, in a title, in German, and where a script has no capitals. What stands between
    quotation marks is neither a name nor a number: an image may show it.
    """

    words: set[str] = field(default_factory=set)  # that say something, as they are compared
    names: list[Name] = field(default_factory=list)
    numbers: dict[str, str] = field(default_factory=dict)  # as it is compared: as it is written


def read_wording(text: str) -> Wording:
    """The words, names and numbers of a text."""
    texts = _PART.findall(text if text.isascii() else unicodedata.normalize("NFC", text))
    parts = [_kept_part(t) if len(t) <= _MAX_KEPT_CHARS else _new_part(t) for t in texts]
    found = Wording(set().union(*[part.keys for part in parts]))
    capitals = _read_names(parts, found)
    if found.names:
        num_telling = sum(part.telling for part in parts)
        is_title = num_telling >= _MIN_TITLE_WORDS and capitals >= _TITLE_SHARE * num_telling
        if is_title or sum(part.german for part in parts) >= _MIN_GERMAN_WORDS:
            found.names.clear()
    return found


def _read_names(parts: list[_Part], found: Wording) -> int:
    """Add the names and numbers; returns the number of words with capitals."""
    run: list[_Part] = []  # words with capitals
    first, quoted, may_stand_alone = True, False, False
    num_capital = 0
    before = _NOTHING
    for part in (*parts, _NOTHING):
        if part.plain and not run:  # most are
            first, before = False, part
            continue
        if part.capital and not quoted:
            may_stand_alone = may_stand_alone if run else not first
            run.append(part)
            num_capital += 1
        elif part.kind == "end":
            if part.text == "." and before.abbreviation:
                continue
        elif part.kind == "quote":
            quoted = not quoted
        elif part.kind == "number" and not quoted:
            found.numbers.setdefault(part.keys[0], part.text)
        first = part.kind == "end" or (first and part.kind not in ("word", "number"))
        before = part
        # What follows a possessive is no part of the name.
        if run and (run[-1] is not part or part.possessive):
            if may_stand_alone or len(run) > 1:
                words = tuple(word.keys[0] for word in run)
                found.names.append(Name(words, " ".join(word.text for word in run)))
            run.clear()
    return num_capital


@dataclass(frozen=True, slots=True)
class _Part:
    """A part of a text by itself."""

    kind: Literal["word", "number", "end", "quote", "mark"]
    text: str  # without a possessive
    keys: tuple[str, ...] = ()  # as it is compared
    telling: bool = False  # it is no function word
    capital: bool = False
    plain: bool = False  # a word without a capital
    possessive: bool = False
    german: bool = False
    abbreviation: bool = False


_NOTHING: Final = _Part("mark", "")


@lru_cache(1 << 14)
def _kept_part(text: str) -> _Part:
    return _new_part(text)


def _new_part(text: str) -> _Part:
    first = text[:1]
    if first.isalpha():
        possessive = text[-2:].lower() in ("'s", "\u2019s")
        plain = text[:-2] if possessive else text
        key = plain.casefold()
        telling = key not in _FUNCTION_WORDS
        # IMG_0042 and P1006040 are no names.
        capital = telling and first.isupper() and not any(map(str.isdigit, plain))
        return _Part(
            "word",
            plain,
            _compared(key) if telling else (),
            telling,
            capital=capital,
            plain=not capital,
            possessive=possessive,
            german=key in _NOUNS_HAVE_CAPITALS,
            abbreviation=is_abbreviation(plain),
        )
    if first.isdecimal():
        digits = (str(unicodedata.decimal(c)) if c.isdecimal() else c.casefold() for c in text)
        return _Part("number", text, ("".join(digits),))
    if first in _ENDS:
        return _Part("end", text)
    return _Part("quote" if first in _QUOTES else "mark", text)


def is_abbreviation(word: str) -> bool:
    """Whether a period after the word need not end a sentence: `St`, or an initial."""
    return word.lower() in _ABBREVIATIONS or (len(word) == 1 and word.isupper() and word != "I")


def sentence_ends(text: str) -> Iterator[int]:
    """Offsets behind the last mark of each sentence, quotation marks included.

    What follows the last mark of the text is no sentence.
    """
    for found in _END.finditer(text):
        start = found.start()
        # The longest abbreviation and a mark before it: enough of the text.
        word = re.split(r"[\W\d_]", text[max(0, start - 8) : start])[-1]
        follows = text[found.end() : found.end() + 8].lstrip()
        if found[0] == "." and is_abbreviation(word) and follows:
            continue
        if not follows[:1].islower():
            yield found.end()


def _compared(key: str) -> tuple[str, ...]:
    """The forms in which a word is compared: boats and a boat are the same.

    Of a script without spaces: pairs of characters.
    """
    if not key.isascii() and _UNSPACED_RUN.search(key):
        runs = _UNSPACED_RUN.findall(key)
        return tuple(run[i : i + 2] for run in runs for i in range(max(1, len(run) - 1)))
    return (key[:-1] if len(key) > 3 and key[-1] == "s" else key,)
