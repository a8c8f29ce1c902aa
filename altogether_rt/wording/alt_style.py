"""Captions as the alt-text of a page: one sentence, short, that begins with what it is about.

By rules, for captioners that cannot be asked for it, and as a bound on what the others write.
"""

from __future__ import annotations

import re
import unicodedata
from typing import Final, Literal

from altogether_rt.wording.words import sentence_ends

__all__ = ["MAX_PAGE_ALT_CHARS", "Shortened", "page_alt"]

#: Longest alt-text, in Unicode code points: what screen readers are said to read at a time.
MAX_PAGE_ALT_CHARS: Final = 125

#: What was left out of a caption: "" for nothing but words about the image, later sentences, the
#: rest of a sentence behind a comma, or behind some word.
Shortened = Literal["", "sentence", "clause", "word"]

#: A sentence is not cut at a comma before this many characters.
_MIN_CHARS: Final = 60

_KINDS: Final = r"(?:image|picture|photo(?:graph)?|snapshot)"
_LEAD_IN: Final = re.compile(
    rf"(?:(?:this|it) is )?(?:an?|the|this) {_KINDS} "
    r"(?:of|shows|showing|depicts|depicting|features|featuring|captures)\s+"
    rf"|{_KINDS} of\s+"
    rf"|in (?:this|the) {_KINDS},?\s+(?:(?:there (?:is|are)|(?:we|you|one) can see)\s+)?",
    re.IGNORECASE,
)
_CLAUSE_END: Final = re.compile(
    r"[,;:](?=\s)|\s[\u2013\u2014-](?=\s)|\s(?=while |which )|[\uff0c\u3001\uff1b]"
)
_TRAILING: Final = " \t,;:-\u2013\u2014\uff0c\u3001\uff1b"
_JOINERS: Final = "\u200d\ufe0f"
_SKIN_TONES: Final = range(0x1F3FB, 0x1F400)


def page_alt(caption: str) -> tuple[str, Shortened]:
    """The caption as an alt-text of at most `MAX_PAGE_ALT_CHARS`, and how it was shortened.

    Words such as "a picture of" at its beginning are left out, and so is all but its first
    sentence. One that is too long ends at a comma or a similar mark, or, with an ellipsis, behind a
    word. A character is never cut from the marks that belong to it.
    """
    text = " ".join(caption.split())
    for _ in range(2):  # "The image shows a picture of"
        rest = _LEAD_IN.sub("", text, count=1) if _LEAD_IN.match(text) else text
        text = rest[:1].upper() + rest[1:] if rest and rest is not text else text
    shortened: Shortened = ""
    end = next(sentence_ends(text), len(text))
    if text[end:].strip():
        text, shortened = text[:end], "sentence"
    if len(text) <= MAX_PAGE_ALT_CHARS:
        return text, shortened
    ends = [m.start() for m in _CLAUSE_END.finditer(text, _MIN_CHARS, MAX_PAGE_ALT_CHARS)]
    if ends:
        stop = "." if text[ends[-1]] < "\u3000" else "\u3002"
        return text[: ends[-1]].rstrip(_TRAILING) + stop, "clause"
    space = text.rfind(" ", _MIN_CHARS, MAX_PAGE_ALT_CHARS)
    cut = space if space >= 0 else _between_characters(text, MAX_PAGE_ALT_CHARS - 1)
    return text[:cut].rstrip(_TRAILING) + "\u2026", "word"


def _between_characters(text: str, cut: int) -> int:
    """The last offset up to `cut` that parts no character from its marks; else `cut`."""
    for offset in range(cut, 0, -1):
        if not (_joins(text[offset]) or text[offset - 1] == "\u200d"):
            return offset
    return cut


def _joins(character: str) -> bool:
    """Whether a character belongs to the one before it."""
    return (
        character in _JOINERS
        or ord(character) in _SKIN_TONES
        or unicodedata.category(character).startswith("M")
    )
