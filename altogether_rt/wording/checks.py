"""What came of a caption, by rules: kept of the alt-text, added to it, or no caption at all.

The rules read no image. They point at captions that are worth a look; they decide nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from altogether_rt.wording.words import read_wording, sentence_ends

__all__ = ["CHECK_FLAGS", "CaptionChecker"]

#: What a caption may be marked with, and what that means.
CHECK_FLAGS: Final[Mapping[str, str]] = {
    "refusal": "it refuses, or speaks of itself as a machine",
    "preamble": "it begins with words about the answer or the image",
    "prompt_echo": "it repeats words of the prompt",
    "loop": "it repeats itself",
    "new_names": "it has names or numbers that neither the alt-text nor the prompt has",
    "alt_unused": "it has no word of the alt-text",
}

#: Quotation marks that begin a quotation, and those that end it.
_CLOSING: Final = {'"': '"', "\u201c": "\u201d", "\u00ab": "\u00bb"}
_OPENING: Final = re.compile("[" + "".join(_CLOSING) + "]")
_REFUSAL: Final = re.compile(
    r"\bI(?:['\u2019]m| am) (?:very |so |really )?(?:sorry|unable|not able|afraid I)\b"
    r"|\bI (?:can(?:no|['\u2019])t|can not|could(?: not|n['\u2019]t)|am not able to|"
    r"do(?: not|n['\u2019]t) have) (?:see|view|access|provide|describe|help|assist|identify|"
    r"process|analy[sz]e|determine|the ability)\b"
    r"|\bas an? (?:AI|artificial intelligence|(?:large )?language model)\b"
    r"|\bunable to (?:see|view|provide|process|access|assist)\b",
    re.IGNORECASE,
)
_KINDS: Final = r"(?:image|picture|photo(?:graph)?|caption|description|alt[- ]?text|scene)"
_PREAMBLE: Final = re.compile(
    r"[\s\"'*\u201c]*(?:"
    r"(?:sure|certainly|of course|absolutely|okay|ok|great)\b\s*[,!.:]"
    rf"|here(?:['\u2019]s|\sis|\sare)\s(?:\w+\s){{0,4}}?{_KINDS}s?\b"
    r"|(?:in|from) (?:this|the) (?:image|picture|photo(?:graph)?)\b"
    r"|(?:this|the) (?:image|picture|photo(?:graph)?) (?:clearly )?"
    r"(?:is|shows|depicts|features|captures|presents|displays|contains|appears|seems|you|provided)\b"
    rf"|(?:(?:a|the|my|improved|better|corrected|revised|new) )*{_KINDS}\s*(?:\*+\s*)?:"
    r"|(?:answer|assistant|output|response)\s*:"
    r")",
    re.IGNORECASE,
)

#: Numbers up to this one are counted in an image rather than known by its author.
_MAX_COUNTED: Final = 12
#: Most names and numbers listed in a row, and characters of each.
_MAX_LISTED: Final = 8
_MAX_NAME_CHARS: Final = 80

#: Times in a row that the same words make a loop, words that they have in all, and words of the
#: longest passage looked for.
_LOOP_TIMES: Final = 3
_MIN_LOOP_WORDS: Final = 6
_MAX_PASSAGE: Final = 12
#: Words in a row that a caption has from the prompt by no accident.
_ECHO_WORDS: Final = 6
#: Words that a sentence must have to count when it is there twice.
_MIN_REPEATED_WORDS: Final = 4


class CaptionChecker:
    """Checks captions that were asked for with the same prompt."""

    def __init__(self, prompt: Iterable[str] = ()) -> None:
        """prompt: the texts of the prompt besides the alt-text."""
        self._prompt_words: set[str] = set()
        self._prompt_runs: set[tuple[str, ...]] = set()
        for text in prompt:
            self._prompt_words |= read_wording(text).words
            self._prompt_runs.update(_runs(text))

    def check(
        self, caption: str, alts: Sequence[str], finish_reason: str | None = None
    ) -> dict[str, Any]:
        """What came of a caption, as a row has it under `checks`. alts: as the captioner read them.

        `alt_words`, `alt_names`: [kept, all] of the alt-texts, where they have any. `new_names`,
        `new_numbers`: of the caption, where there are any. `flags`: of CHECK_FLAGS.
        """
        written = read_wording(caption)
        sources = [read_wording(alt) for alt in alts]
        alt_words = set().union(*(source.words for source in sources))
        checks: dict[str, Any] = {}
        kept = len(alt_words & written.words)
        if alt_words:
            checks["alt_words"] = [kept, len(alt_words)]
        names = {name.words for source in sources for name in source.names}
        if names:
            num_kept = sum(written.words.issuperset(name) for name in names)
            checks["alt_names"] = [num_kept, len(names)]
        known = alt_words | self._prompt_words
        new_names = [n.text for n in written.names if not known.issuperset(n.words)]
        new_numbers = [text for key, text in written.numbers.items() if _is_new(key, known)]
        for field, new in (("new_names", new_names), ("new_numbers", new_numbers)):
            if new:
                listed = list(dict.fromkeys(text[:_MAX_NAME_CHARS] for text in new))
                checks[field] = listed[:_MAX_LISTED]
        plain = _without_quotations(caption)
        found = {
            "refusal": _REFUSAL.search(plain) is not None,
            "preamble": _PREAMBLE.match(caption) is not None,
            # Of six words in a row two say something, or they are hardly the prompt's.
            "prompt_echo": len(written.words & self._prompt_words) > 1
            and self._echoes(caption, alts),
            "loop": finish_reason == "loop" or _repeats(caption),
            "new_names": bool(new_names or new_numbers),
            "alt_unused": bool(alt_words) and not kept,
        }
        checks["flags"] = [name for name, is_so in found.items() if is_so]
        return checks

    def _echoes(self, caption: str, alts: Sequence[str]) -> bool:
        """Whether the caption repeats words of the prompt that are not the alt-text's."""
        if self._prompt_runs.isdisjoint(_runs(caption)):
            return False
        echoed = self._prompt_runs.intersection(_runs(caption))
        return not echoed.issubset(run for alt in alts for run in _runs(alt))


def _runs(text: str) -> Iterator[tuple[str, ...]]:
    """As many words in a row as make an echo, from every word on."""
    words = [word.strip('.,:;!?"') for word in text.casefold().split()]
    return zip(*(words[start:] for start in range(_ECHO_WORDS)), strict=False)


def _without_quotations(text: str) -> str:
    """The text with a space in the place of each quotation.

    No part of it is searched twice: a mark that nothing closes is not looked for again.
    """
    kept: list[str] = []
    start = 0  # behind the last quotation
    unclosed: set[str] = set()
    for found in _OPENING.finditer(text):
        mark, opening = found[0], found.start()
        if opening < start or mark in unclosed:
            continue
        closing = text.find(_CLOSING[mark], opening + 1)
        if closing < 0:
            unclosed.add(mark)
            continue
        kept.append(text[start:opening])
        start = closing + 1
    return " ".join([*kept, text[start:]])


def _is_new(number: str, known: set[str]) -> bool:
    """Whether a number is neither known nor one that can be counted in an image."""
    return number not in known and not (number.isdecimal() and int(number) <= _MAX_COUNTED)


def _repeats(text: str) -> bool:
    """Whether the same words stand several times in a row, or a sentence is there twice."""
    words = text.casefold().split()
    triples = list(zip(words, words[1:], words[2:], strict=False))
    if len(set(triples)) == len(triples):
        return False  # in what follows three words come again at least
    for size in range(1, min(_MAX_PASSAGE, len(words) // _LOOP_TIMES) + 1):
        needed = max((_LOOP_TIMES - 1) * size, _MIN_LOOP_WORDS - size)
        same = 0  # words in a row that are equal to the one `size` before
        for word, earlier in zip(words[size:], words, strict=False):
            same = same + 1 if word == earlier else 0
            if same >= needed:
                return True
    sentences: set[str] = set()
    start = 0
    for end in sentence_ends(text):
        sentence = " ".join(text[start:end].casefold().split())
        if sentence in sentences and sentence.count(" ") >= _MIN_REPEATED_WORDS - 1:
            return True
        sentences.add(sentence)
        start = end
    return False
