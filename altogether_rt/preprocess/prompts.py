"""Text to token ids: the prompt of an image's alt-texts, and what a captioner is asked for."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final

from tokenizers import Tokenizer

from altogether_rt.artifacts.tokenizer import read_tokenizer, tokenizer_failure
from altogether_rt.config import CaptionerConfig, ChatConfig, InstructionConfig, PromptConfig
from altogether_rt.errors import AltogetherError

__all__ = ["ALT_FIELD", "Prompt", "PromptTokenizer", "instruction", "join_alts"]

#: Where the alt-text stands in an instruction that somebody wrote.
ALT_FIELD: Final = "{alt}"

#: Tokens of the supported tokenizers have fewer characters than this on average. Longer alt-texts
#: are cut before they are tokenized, which bounds time and memory.
_MAX_CHARS_PER_TOKEN = 64


def join_alts(alts: Sequence[str], separator: str) -> str:
    """Join the alt-texts of one image: in order, without repeats and empty ones."""
    cleaned = (" ".join(alt.split()) for alt in alts)
    return separator.join(dict.fromkeys(alt for alt in cleaned if alt))


@dataclass(frozen=True)
class Prompt:
    """The text part of a prompt: what follows the visual tokens and precedes the caption."""

    ids: tuple[int, ...]
    alt_truncated: bool
    alt_ids: tuple[int, ...] = ()  # of these, the alt-text, without padding and fixed tokens


def instruction(text: str, chat: ChatConfig) -> InstructionConfig:
    """What a captioner is asked for by a text that somebody wrote.

    The alt-text takes the place of `ALT_FIELD`; where there is none, that line is left out. In a
    text without it, the captioner's own words and the alt-text come first. Raises AltogetherError
    for an empty text, and for one that has the field twice.
    """
    text = text.strip()
    if not text or text.count(ALT_FIELD) > 1:
        what = f"has {ALT_FIELD} more than once" if text else "is empty"
        raise AltogetherError(f"the prompt {what}: write what to ask for, and {ALT_FIELD} once.")
    if ALT_FIELD not in text:
        return InstructionConfig(chat.caption.before_alt, f"\n{text}", text)
    before, _, after = text.partition(ALT_FIELD)
    other_lines = "\n".join(line for line in text.split("\n") if ALT_FIELD not in line).strip()
    return InstructionConfig(before, after, other_lines or chat.caption.no_alt)


class PromptTokenizer:
    """The decoder's tokenizer (a `tokenizers` JSON file) with the prompt rules of a captioner."""

    def __init__(self, tokenizer: Tokenizer, prompt: PromptConfig, pad_id: int) -> None:
        tokenizer.no_padding()
        tokenizer.no_truncation()
        # "</s>" in an alt-text is text that somebody wrote, not an end of sequence.
        tokenizer.encode_special_tokens = True
        self._tokenizer = tokenizer
        self._prompt = prompt
        self._pad_id = pad_id

    @classmethod
    def from_file(cls, path: Path, prompt: PromptConfig, pad_id: int) -> PromptTokenizer:
        """Read a tokenizer file. Raises AltogetherError if it is absent or not valid."""
        return cls(read_tokenizer(path), prompt, pad_id)

    @classmethod
    def of_captioner(cls, path: Path, config: CaptionerConfig) -> PromptTokenizer:
        """`from_file` for a captioner, which has no embedding for ids beyond its vocabulary.

        Raises AltogetherError if the tokenizer has such an id, too.
        """
        tokenizer = read_tokenizer(path, config.decoder.vocab_size)
        return cls(tokenizer, config.prompt, config.decoder.pad_id)

    @property
    def vocab_size(self) -> int:
        return int(self._tokenizer.get_vocab_size())

    def asking(self, style: str = "caption", text: str | None = None) -> PromptTokenizer:
        """The same with the prompt of a style (`caption`, `alt`), or of an instruction.

        text: as `instruction` takes it; it is tokenized as plain text, as alt-texts are. Raises
        AltogetherError if there is no room for it, or the captioner follows no instructions.
        """
        chat = self._prompt.chat
        if text is None and (style == "caption" or chat is None):
            return self
        if chat is None:
            raise AltogetherError("this captioner follows no instructions: leave the prompt out.")
        if text is not None:
            asked = instruction(text, chat)
        else:
            asked = chat.alt if style == "alt" else chat.caption
        # A space before the alt-text belongs to its first token.
        spaced = asked.before_alt.endswith(" ")
        prefix = " " if spaced else "" if text and ALT_FIELD in text else self._prompt.alt_prefix
        before = self.plain_ids(asked.before_alt[:-1] if spaced else asked.before_alt)
        after, no_alt = self.plain_ids(asked.after_alt), self.plain_ids(asked.no_alt)
        length = max(len(before) + len(after), len(no_alt))
        if length > chat.max_instruction_tokens:
            raise AltogetherError(
                f"the prompt has {length} tokens, and this captioner has room for "
                f"{chat.max_instruction_tokens}: shorten it."
            )
        rules = dataclasses.replace(
            self._prompt,
            after_ids=(*chat.image_end_ids, *before),
            alt_prefix=prefix,
            suffix_ids=(*after, *chat.answer_ids),
            no_alt_ids=(*chat.image_end_ids, *no_alt, *chat.answer_ids),
        )
        return PromptTokenizer(self._tokenizer, rules, self._pad_id)

    def plain_ids(self, text: str) -> list[int]:
        """Token ids of a text that somebody wrote: none of them is a token with a meaning.

        Special tokens are text there; so are other added tokens, which a tokenizer may use to mark
        up a prompt. Raises as `encode`.
        """
        ids = self.encode(text)
        if self._added.keys().isdisjoint(ids):
            return ids
        ids, start = [], 0
        # Taken apart behind its first character, a token's text does not make the token.
        contents = sorted(self._added.values(), key=len, reverse=True)
        for found in re.finditer("|".join(map(re.escape, contents)), text):
            ids += self.encode(text[start : found.start() + 1])
            start = found.start() + 1
        ids += self.encode(text[start:])
        return [token for token in ids if token not in self._added]

    @cached_property
    def _added(self) -> dict[int, str]:
        """Added tokens by id; a run of spaces is not among them, it means nothing else."""
        added = self._tokenizer.get_added_tokens_decoder()
        return {id_: token.content for id_, token in added.items() if token.content.strip()}

    def encode(self, text: str) -> list[int]:
        """Token ids of a text, without special tokens. Raises AltogetherError if that fails."""
        # A lone surrogate (from a file name or broken JSON) has no UTF-8 form.
        clean = text.encode("utf-8", "replace").decode("utf-8")
        try:
            ids: list[int] = self._tokenizer.encode(clean, add_special_tokens=False).ids
        except BaseException as error:  # a panic of the library is no Exception
            raise tokenizer_failure(error) from error
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """The text of caption tokens; newlines become spaces."""
        try:
            text: str = self._tokenizer.decode(list(ids), skip_special_tokens=True)
        except BaseException as error:
            raise tokenizer_failure(error) from error
        return " ".join(text.split())

    def prompt(self, alts: Sequence[str]) -> Prompt:
        """The prompt of an image's alt-texts, by the captioner's padding and length rules."""
        rules = self._prompt
        ids: list[int] = []
        truncated = False
        if rules.use_alt:
            text = join_alts(alts, rules.alt_separator)
            text = rules.alt_prefix + text if text else ""
            max_chars = rules.max_alt_tokens * _MAX_CHARS_PER_TOKEN
            ids = self.plain_ids(text[:max_chars])
            truncated = len(ids) > rules.max_alt_tokens or len(text) > max_chars
            ids = ids[: rules.max_alt_tokens]
        if not ids and rules.no_alt_ids is not None:
            return Prompt(rules.no_alt_ids, truncated)
        padding: list[int] = []
        if rules.use_alt and rules.padding == "attended_left":
            padding = [self._pad_id] * (rules.max_alt_tokens - len(ids))
        text_ids = (*rules.after_ids, *padding, *ids, *rules.suffix_ids)
        return Prompt(text_ids, truncated, tuple(ids))
