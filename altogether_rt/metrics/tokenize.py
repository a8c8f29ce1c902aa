"""Words of a caption, as caption metrics count them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from altogether_rt.errors import AltogetherError

__all__ = ["check_pairs", "ngrams", "tokenize"]

#: A number ("1,000", "3.5"), an abbreviation ("u.s."), or a word with its hyphens and apostrophes.
_WORD = re.compile(r"\d+(?:[.,:]\d+)+|(?:[^\W\d_]\.){2,}|\w+(?:[-'\u2019]\w+)*|[^\w\s]")
#: Endings that the Penn Treebank splits off: do|n't, dog|'s, we|'ll.
_CLITIC = re.compile(r"^(.+?)(n['\u2019]t|['\u2019](?:s|m|d|ll|re|ve))$")
#: Marks that count for nothing; others, `&` or `%`, are words of their own.
_DROPPED = frozenset(".,:;?!'\"`()[]{}-\u2013\u2014\u2018\u2019\u201c\u201d\u2026")


def tokenize(text: str) -> list[str]:
    """Lower-case words in the manner of the Penn Treebank, punctuation dropped.

    The published caption scores use the Stanford PTBTokenizer (a Java program). This agrees with it
    on plain sentences: clitics split off ("don't" is two words), hyphenated words kept whole,
    numbers whole, punctuation dropped. It differs in rarities such as "gonna", URLs, fractions
    and emoticons, so scores can differ from published ones in the third digit.
    """
    words: list[str] = []
    for word in _WORD.findall(text.lower()):
        if word in _DROPPED:
            continue
        clitic = _CLITIC.match(word)
        words.extend(clitic.groups() if clitic else (word,))
    return words


def ngrams(words: Sequence[str], size: int) -> Counter[tuple[str, ...]]:
    """How often each run of `size` words occurs."""
    return Counter(tuple(words[i : i + size]) for i in range(len(words) - size + 1))


def check_pairs(candidates: Sequence[str], references: Sequence[Sequence[str]]) -> None:
    """Raises AltogetherError unless every candidate has at least one reference."""
    if len(candidates) != len(references):
        raise AltogetherError(
            f"there are {len(candidates)} captions but references for {len(references)}: "
            "give one list of references for each caption."
        )
    if not candidates or not all(references):
        raise AltogetherError("a caption without a reference cannot be scored.")
