"""Words of a caption as published caption scores count them: the Penn Treebank's.

Those scores use the Stanford PTBTokenizer, a Java program, and drop most punctuation. This module
gives the words that it gives, web text included: names with initials, credits, dates, fractions,
URLs, brackets, emoticons. It is a scanner: at each position the rule that matches the most
characters makes the next word, the first of them if several do. The rules were written from what
the program answers; `tests/metrics` compares the two.
"""

from __future__ import annotations

import re
from typing import Final

__all__ = ["TOKENIZER", "split_words", "tokenize"]

#: What to call it beside a figure.
TOKENIZER: Final = "PTB (as pycocoevalcap's), lower case, punctuation dropped"

#: Stands inside a word for a space of the text: "5 1/2" and "(555) 123-4567" are one word.
_INNER_SPACE: Final = "\u00a0"

#: Words that count for nothing. Others, `&`, `?!` or `-lrb-`, are words like any other.
_DROPPED: Final = frozenset(("''", "'", "``", "`", ".", "?", "!", ",", ":", "-", "--", "...", ";"))

# Letters are those of all scripts with their marks, and a soft hyphen; not the numbers that are not
# digits (², ₂, ½, Ⅳ, ①), which Python's \w has as well.
_OTHER_NUMBERS: Final = (
    r"\u00b2\u00b3\u00b9\u00bc-\u00be\u2070\u2074-\u2079\u2080-\u2089\u2150-\u2182\u2185-\u218b"
    r"\u2460-\u249b\u24ea-\u24ff\u2776-\u2793"
)
_MARKS: Final = (
    r"\u00ad\u02c2-\u036f\u0483-\u0487\u0591-\u05bd\u0615-\u061a\u0640-\u065e\u0670\u06d6-\u06ed"
    r"\u0730-\u074a\u0900-\u0903\u093a-\u094f\u0962\u0963\u0981-\u0d63\u0e31-\u0e4e\u1039-\u103f"
)
_L: Final = rf"(?:[^\W\d_{_OTHER_NUMBERS}]|[{_MARKS}]|&[aeiouAEIOU](?:acute|grave|uml);)"
_LD: Final = rf"(?:[^\W_{_OTHER_NUMBERS}]|[{_MARKS}]|&[aeiouAEIOU](?:acute|grave|uml);)"
_APOSTROPHE: Final = "['\u2019\u0092]"

_DATES = "jan feb mar apr jun jul aug sep sept oct nov dec mon tue tues wed thu thurs fri"
_STATES = """ala ariz calif col colo conn ct dak fla ga ind kan kans ky md mich minn mo mont neb nev
    okla penn tenn va vt wis wisc wyo"""
_COMPANIES = "co corp inc ltd plc bros cos assn assoc dept univ intl natl gov mfg pty"
_STREETS = "ave blvd rd st dr sq bldg ste rt mt ft"
_TITLES = """mr mrs ms messrs drs prof profs sr jr esq hon rev sen sens rep reps govs gen lt lieut
    capt maj brig adm cmdr comdr cpl sgt pvt pfc spc ens insp det supt pres atty attys asst mme mlle
    msgr ph alex wm jos"""
_OTHERS = "vs etc al seq cf est ext tel adj adv elec"
#: Abbreviations that keep their period, wherever they stand and however they are written.
_ABBREVIATIONS: Final = "|".join(
    " ".join((_DATES, _STATES, _COMPANIES, _STREETS, _TITLES, _OTHERS)).split()
)
#: Those that would be words in lower case.
_CAPITAL_ABBREVIATIONS: Final = "Ark|Del|Ill|La|Mass|Miss|Ore|Pa|Tex|Wash"
#: Those that keep it before a number alone.
_NUMBER_ABBREVIATIONS: Final = "ca|figs?|nos?|pp?|art|op|prop"
#: What makes the period after a single letter one that ends a sentence: "Malcolm X. The street".
#: The end of a text counts as well. The program reads on in the next caption there, and captions
#: begin with such words.
_SENTENCE_START: Final = r"""\s*$|\s+(?:A|About|According|After|An|As|At|But|Earlier|He|Her|Here|
    However|If|In|It|Last|Many|More|Mr\.|Now|Once|One|Other|Our|She|Since|So|Some|Such|That|The|
    Their|Then|There|These|They|This|We|What|When|While|Yet|You)\s""".replace("\n    ", "")
_FILE_ENDINGS: Final = (
    "bmp|c|cgi|docx?|exe|gif|h|html?|java|jpe?g|mp3|pdf|php|png|ppt|ps|py|sql|tar|txt|wav|x|xml|zip"
)

_WORD: Final = rf"{_L}{_LD}*(?:[.!?]{_L}{_LD}*)*"
_ALPHANUMERIC: Final = rf"{_LD}+"
_HYPHENATED: Final = (
    r"[A-Za-z0-9][A-Za-z0-9.,_]{0,500}(?:-(?:[A-Za-z](?:\.[A-Za-z])+\.|[A-Za-z0-9_]*[A-Za-z0-9]))+"
)
#: "o'clock", "Côte-d'Or", "Café-2"
_COMPOUND: Final = (
    rf"(?:[dlnoDLNO]['\u2019\u2018`])?{_LD}+(?:[-\u2010\u2011](?:[dloDLO]['\u2019])?{_LD}+)*"
)
_UNDERSCORED: Final = r"[A-Za-z0-9]+(?:_[A-Za-z0-9]+)+"
_NUMBER: Final = r"[+-]?(?:\d*(?:[.:,\u00ad]\d+)+|\d+)"
_SLASHED_PART: Final = r"[A-Za-z0-9]+(?:-[A-Za-z]+){0,2}"
_URL_END: Final = r"[^\s\"<>|.!?(){},-]"
_URL_PATH: Final = rf"/[^\s\"<>|()]+{_URL_END}"

# What may lead up to something that is then not there has a limit, or a long text without spaces
# would take the square of its length.
_RULES: Final[tuple[str, ...]] = (
    # Markup: <b>, <img src="a.jpg">, <!-- remark -->
    r"<(?:[!?][A-Za-z-][^>\n]{0,500}|/?[A-Za-z][A-Za-z0-9:._-]*(?:\s[^>\n]{0,500})?/?)>",
    _WORD,
    _ALPHANUMERIC,
    _HYPHENATED,
    _COMPOUND,
    rf"[A-HJ-XZ]['\u2019]{_L}{{2,}}",  # B'day
    rf"[Qq]u['\u2019]{_L}+",
    r"[A-Za-z]+[aeiouyAEIOUY]['\u2019][aeiouAEIOU][A-Za-z]*",  # Hawai'i, Ka'anapali
    r"(?i:c'est|cap'n|[en]'er|ne'er|o'er|li'l|s'mores?|ol')",
    r"[jyY]['\u2019](?=[A-Za-z])|j'",  # y' all
    rf"['\u2019](?:(?i:n)['\u2019]|(?i:em|till?|cause|n)(?!{_LD}))",  # 'em
    r"['\u2019](?:\d0s(?!\d)|\d\d(?=\s|$))",  # '90s, '08
    _UNDERSCORED,
    _NUMBER,
    r"(?:\d{1,4}[- \u00a0])?\d{1,4}(?:\\?/|\u2044)\d{1,4}",  # 5 1/2
    rf"{_SLASHED_PART}(?:\\?/{_SLASHED_PART}){{1,2}}",  # and/or, 12/31/1999
    # Telephone numbers, and what looks like one: 020 7946 0018, (555) 123-4567
    r"(?:\(\d{2,3}\)[ \u00a0]?|(?:\+?\d{2,4}[- \u00a0])?\d{2,4}[- \u00a0])"
    r"\d{3,4}[- \u00a0]?\d{3,5}",
    rf"(?i:https?)://[^\s\"<>|()]+{_URL_END}",
    rf"(?i:www)\.(?:[^\s\"<>|.!?(){{}},]+\.)+[A-Za-z]{{2,4}}(?:{_URL_PATH})?",
    rf"(?:[^\s\"`'<>|.!?(){{}},\d_$/:;&@#=-]+\.)+(?i:com|net|org|edu)(?:{_URL_PATH})?",
    r"<?[A-Za-z0-9][^\s\"<>|()]{0,500}@(?:[^\s\"<>|().]+\.)*[^\s\"<>|().]+>?",  # mail
    r"@[A-Za-z_][A-Za-z_0-9]*",
    rf"\#{_L}+",
    r"[A-Z]+(?:(?:[+&]|&(?i:amp);)[A-Z]+)+",  # AT&T
    r"[Cc]\+\+|[CcFf]\#",
    r"[A-Z]+\$",  # US$
    r"[<>]?[:;=][-o']?[()DdPpO|@\]\[{\\](?![A-Za-z0-9])|:3(?!\d)",  # :-)
    r"\([-^x=~<>']_[-^x=~<>']\)|[-^x=~<>']_[-^x=~<>']",  # ^_^
    rf"{_LD}+(?:\.{_LD}+)*\.(?i:{_FILE_ENDINGS})(?!{_LD})",  # 1234.jpg
    # With a period.
    r"[A-Za-z](?:\.[A-Za-z])+\.",  # U.S.
    rf"[A-Za-z]\.(?!{_SENTENCE_START})",  # J.
    rf"(?i:{_ABBREVIATIONS})\.",
    r"(?i:ph|ed)\.(?i:d)\.",
    rf"(?:{_CAPITAL_ABBREVIATIONS}|(?=[A-Z]+\.)(?i:{_CAPITAL_ABBREVIATIONS}))\.",
    rf"(?i:{_NUMBER_ABBREVIATIONS})\.(?=\s?\d)",
    rf"(?:{_WORD}|{_ALPHANUMERIC}|{_HYPHENATED}|{_UNDERSCORED}|{_NUMBER})\.(?=[,;:])",
    # Punctuation: what may come in runs, then what stands for itself.
    r"\.{3,}|\. \. \.|-{2,}|[?!]+|_+|\*+|\#+|@+|<<|>>|''|``",
    r"&(?i:quot|apos|mdash|ndash|lt|gt|amp);|&\#\d+;",
)
#: Single characters that are words; others that no rule matches, emoji among them, are left out.
_SYMBOL: Final = re.compile(
    r"[!-/:-@\[-`{-~\u00a1\u00a5-\u00a9\u00ac\u00ae-\u00b4\u00b6-\u00b9\u00bf\u00d7\u00f7\u0387"
    r"\u0589\u05be\u060c\u061b\u066a\u06d4\u0964\u0965\u0e3f\u2016\u2017\u201a\u201e-\u2023"
    r"\u2030-\u2038\u203b\u203e-\u2042\u2044\u2070\u2074-\u207e\u2080-\u208e\u2100-\u214f"
    r"\u2155-\u215e\u2190-\u2bff\u3001\u3002\u3012\u30fb\uff01-\uff0f\uff1a-\uff20\uff3b-\uff40"
    r"\uff5b-\uff65]"
)
#: How some characters and entities are written.
_WRITTEN: Final = {
    **dict.fromkeys("\u0080\u00a4\u20a0\u20ac", "$"),
    **dict.fromkeys('"\u0091\u0092\u0093\u0094\u00ab\u00bb\u2018\u2019\u201b\u201c\u201d', "'"),
    **dict.fromkeys("\u2039\u203a", "'"),
    **dict.fromkeys(("&quot;", "&apos;"), "'"),
    **dict.fromkeys("\u0096\u0097\u2013\u2014\u2015", "--"),
    **dict.fromkeys(("&mdash;", "&ndash;"), "--"),
    **dict.fromkeys(("\u0085", "\u2026", ". . ."), "..."),
    "(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-",
    "&lt;": "<", "&gt;": ">", "&amp;": "&",
    "\u00a3": "#", "\u20a4": "#", "\u00a2": "cents",
    "\u00bc": "1/4", "\u00bd": "1/2", "\u00be": "3/4", "\u2153": "1/3", "\u2154": "2/3",
}  # fmt: skip

#: A line of as many dashes is a word.
_KEPT_DASHES: Final = 5

_SPACE: Final = re.compile(r"(?:\s|&(?i:nbsp);)+")
_MATCHERS: Final = tuple(re.compile(rule).match for rule in _RULES)
#: Most words of most captions, for which no other rule need be tried.
_PLAIN: Final = re.compile(r"[A-Za-z]+(?=[ ,]? |$)")
#: Two words written as one, and where the second begins.
_JOINED: Final = {"cannot": 3, "gonna": 3, "gotta": 3, "lemme": 3, "gimme": 3, "wanna": 3}
_TWAS: Final = re.compile(rf"'(?i:t)(?=(?i:is|was)(?!{_LD}))")
#: "do" of "don't": shorter than "don", which therefore must not be tried.
_BEFORE_NOT: Final = re.compile(r"([A-Za-z]+?)(?=(?i:n['\u2019]t)(?![A-Za-z]))")
#: What is written otherwise inside a word.
_INSIDE: Final = re.compile(r"[()\s\u00ad]|&(?i:amp);")
_CLITIC: Final = re.compile(rf"(?i:n['\u2019]t|{_APOSTROPHE}(?:[sdm]|ll|re|ve))(?!{_LD})")


def tokenize(text: str) -> list[str]:
    """The words of a text, in lower case; punctuation that counts for nothing is left out.

    A word may hold U+00A0 where the text has a space: "5 1/2", a telephone number. ROUGE-L takes
    it for one word, BLEU and CIDEr for several (`split_words`), as the published programs do.
    """
    words: list[str] = []
    position, end = 0, len(text)
    while position < end:
        if space := _SPACE.match(text, position):
            position = space.end()
            continue
        written, length = _next_word(text, position)
        position += length
        words.extend(word for word in written if word not in _DROPPED)
    return words


def split_words(words: list[str]) -> list[str]:
    """The words, those with a space in them as several."""
    if not any(_INNER_SPACE in word for word in words):
        return words
    return [part for word in words for part in word.split(_INNER_SPACE) if part]


def _next_word(text: str, position: int) -> tuple[tuple[str, ...], int]:
    """How the word or words at `position` are written, none if it is left out; and the length."""
    if plain := _PLAIN.match(text, position):
        return _split_joined(plain[0].lower()), plain.end() - position
    for special in (_BEFORE_NOT, _CLITIC, _TWAS):
        if found := special.match(text, position):
            word = re.sub(_APOSTROPHE, "'", found[0]).lower()
            return (word,), found.end() - position
    if longest := _longest(text, position):
        return _split_joined(_written(longest)), len(longest)
    character = text[position]
    if character in _WRITTEN or _SYMBOL.match(character):
        return (_written(character),), 1
    return (), 1


def _split_joined(word: str) -> tuple[str, ...]:
    second = _JOINED.get(word)
    return (word,) if second is None else (word[:second], word[second:])


def _longest(text: str, position: int) -> str:
    """What the first of the longest rules matches, "" if none does."""
    best = ""
    for match in _MATCHERS:
        found = match(text, position)
        if found and len(found[0]) > len(best):
            best = found[0]
    return best


def _written(found: str) -> str:
    """A word as the program prints it."""
    special = _WRITTEN.get(found) or _WRITTEN.get(found.lower())
    if special is not None:
        return special
    if found.startswith("...") or (found.startswith("--") and len(found) < _KEPT_DASHES):
        return found[0]
    if _INSIDE.search(found):
        found = _INSIDE.sub(_write_inside, found)
    return found.lower()


def _write_inside(match: re.Match[str]) -> str:
    character = match[0]
    if character == "\u00ad":
        return ""
    return _INNER_SPACE if character.isspace() else _WRITTEN[character.lower()]
