"""Finds names in texts without a model, by capitalisation.

At the beginning of a sentence and in titles, where other words are capitalised too, it depends on
how the word is written elsewhere in the evaluated texts.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

__all__ = ["NAMES_DEFINITION", "NameFinder", "contains_name", "plain_words"]

NAMES_DEFINITION: Final = (
    "a name is a run of capitalised words; the first word of a sentence is one only if another "
    "word of a name follows or the evaluated texts capitalise it elsewhere, a word of a title only "
    "if they never have it in lower case"
)

#: What has no space or mark in it. With a digit or an underscore (IMG_0042.jpg, 2014) it is not a
#: word here.
_RUN: Final = re.compile(r"[\w.-]+")
_DIGIT: Final = re.compile(r"[\d_]")
#: A word with its hyphens and apostrophes; the end of a sentence, all its marks in a row; or
#: another mark, which ends a run of words.
_PART: Final = re.compile(
    r"(?P<word>[^\W\d_]+(?:['\u2019&.-](?=[^\W\d_])[^\W\d_]+)*)"
    r"|(?P<end>[.!?](?<![.!?]{2})[.!?]*+(?=\s|$))|[^\s.]"
)
_POSSESSIVE: Final = re.compile(r"['\u2019]s$", re.IGNORECASE)
#: Capitalised in titles, but not part of names.
_FUNCTION_WORDS: Final = frozenset(
    {
        "a", "an", "and", "as", "at", "but", "by", "for", "from", "he", "her", "his", "i", "if",
        "in", "into", "is", "it", "its", "my", "no", "not", "of", "on", "or", "our", "she", "so",
        "that", "the", "their", "there", "these", "they", "this", "those", "to", "we", "what",
        "when", "where", "which", "who", "why", "with", "you", "your", "image", "photo",
        "figure", "photograph",
    }
)  # fmt: skip
#: Maximum letters of a capitalised word before a period that counts as an abbreviation: "St.".
_MAX_ABBREVIATION: Final = 4
#: A text is a title if it has this many words that are not function words, and this share of them
#: is capitalised.
_MIN_TITLE_WORDS: Final = 5
_TITLE_SHARE: Final = 0.8


@dataclass(frozen=True)
class _Word:
    text: str  # in lower case, without 's
    capitalised: bool
    first: bool  # of its sentence
    joined: bool  # to the word before: by space, or by the period of an abbreviation


class NameFinder:
    """Counts how the evaluated texts capitalise each word, and finds names accordingly."""

    def __init__(self, texts: Iterable[str]) -> None:
        self._lower: Counter[str] = Counter()
        self._inside: Counter[str] = Counter()  # capitalised inside a sentence that is no title
        for text in texts:
            words = list(_words(text))
            title = _is_title(words)
            for word in words:
                if not word.capitalised:
                    self._lower[word.text] += 1
                elif not word.first and not title:
                    self._inside[word.text] += 1

    def names(self, text: str) -> list[tuple[str, ...]]:
        """The different names, each as its words in lower case."""
        words = list(_words(text))
        title = _is_title(words)
        marked = [self._may_be_name(word) for word in words]
        for index, word in enumerate(words):
            if not marked[index]:
                continue
            if title:
                marked[index] = not self._lower[word.text]
            elif word.first and not self._inside[word.text]:
                follows = index + 1 < len(words) and words[index + 1].joined and marked[index + 1]
                marked[index] = follows
        runs: list[list[str]] = []
        open_run = False
        for word, is_name in zip(words, marked, strict=True):
            if is_name and open_run and word.joined:
                runs[-1].append(word.text)
            elif is_name:
                runs.append([word.text])
            open_run = is_name
        return list(dict.fromkeys(tuple(run) for run in runs))

    def _may_be_name(self, word: _Word) -> bool:
        return (
            word.capitalised
            and len(word.text) > 1
            and word.text not in _FUNCTION_WORDS
            and self._lower[word.text] <= self._inside[word.text]
        )


def plain_words(text: str) -> list[str]:
    """The words of a text in lower case, without numbers and possessive 's."""
    return [word.text for word in _words(text)]


def contains_name(words: list[str], name: tuple[str, ...]) -> bool:
    """Whether `words` (of `plain_words`) contain a name's words, adjacent and in order."""
    size = len(name)
    return any(tuple(words[i : i + size]) == name for i in range(len(words) - size + 1))


def _parts(text: str) -> Iterator[re.Match[str] | None]:
    """Words, ends and other marks; None for what has a digit. It reads no part twice."""
    start = 0
    for run in _RUN.finditer(text) if _DIGIT.search(text) else ():
        if _DIGIT.search(run[0]) is None:
            continue
        for part in _PART.finditer(text[start : run.end()]):
            if start + part.start() >= run.start():
                break
            yield part
        yield None
        start = run.end()
    yield from _PART.finditer(text[start:])


def _words(text: str) -> Iterator[_Word]:
    first, joined, before = True, False, ""
    for part in _parts(text):
        if part is None:
            joined = False
        elif part["word"]:
            written = _POSSESSIVE.sub("", part["word"])
            yield _Word(written.lower(), written[:1].isupper(), first, joined)
            # What follows a possessive is no part of the name.
            first, joined, before = False, written == part["word"], written
        elif part["end"]:
            abbreviation = (
                part["end"] == "." and before[:1].isupper() and len(before) <= _MAX_ABBREVIATION
            )
            first, joined = not abbreviation, abbreviation and joined
        else:
            joined = False


def _is_title(words: list[_Word]) -> bool:
    telling = [word for word in words if word.text not in _FUNCTION_WORDS]
    capitalised = sum(word.capitalised for word in telling)
    return len(telling) >= _MIN_TITLE_WORDS and capitalised >= _TITLE_SHARE * len(telling)
