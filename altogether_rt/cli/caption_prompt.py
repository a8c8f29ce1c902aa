"""What a captioner is asked for, and how its captions are checked, by the options of `caption`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from altogether_rt.config import MAX_INSTRUCTION_CHARS
from altogether_rt.errors import AltogetherError
from altogether_rt.wording.checks import CaptionChecker

if TYPE_CHECKING:
    from altogether_rt.captions import CaptionParams
    from altogether_rt.config import CaptionerConfig

__all__ = ["caption_checker", "prompt_text"]

_MAX_BYTES: Final = 4 * MAX_INSTRUCTION_CHARS


def prompt_text(given: str | None) -> str | None:
    """The text of `--prompt`: as it was given, or what the file after an @ holds.

    Raises AltogetherError for a file that cannot be read, and for a text that is empty or too long.
    """
    if given is None:
        return None
    text = given
    if given.startswith("@"):
        path = Path(given[1:])
        try:
            with path.open("rb") as file:
                text = file.read(_MAX_BYTES + 1).decode("utf-8-sig")
        except (OSError, ValueError) as error:
            why = getattr(error, "strerror", None) or "it is not a text in UTF-8"
            raise AltogetherError(f"the prompt {path} cannot be read: {why}.") from error
    text = text.strip()
    if not text:
        raise AltogetherError("the prompt is empty: write what to ask for, or leave it out.")
    if len(text) > MAX_INSTRUCTION_CHARS:
        raise AltogetherError(
            f"the prompt has more than {MAX_INSTRUCTION_CHARS:,} characters: shorten it."
        )
    return text


def caption_checker(
    config: CaptionerConfig, params: CaptionParams, asked: bool | None
) -> CaptionChecker | None:
    """What checks captions; None if they are not to be checked.

    asked: None for those of captioners that follow instructions.
    """
    chat = config.prompt.chat
    if not (asked or (asked is None and chat is not None)):
        return None
    if chat is None:
        return CaptionChecker()
    if params.prompt is not None:
        return CaptionChecker([params.prompt])
    asked_for = chat.alt if params.style == "alt" else chat.caption
    return CaptionChecker(vars(asked_for).values())
