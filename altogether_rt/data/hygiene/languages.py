"""The language of a text, by py3langid: 139 languages, 5 MB, offline, no pickle."""

from __future__ import annotations

from typing import Any, Final

from altogether_rt.errors import MissingDependencyError

__all__ = ["UNDETERMINED", "LanguageDetector"]

#: ISO 639-2's code for a language that is not known.
UNDETERMINED: Final = "und"

#: Below this probability the answer is one of many.
_MIN_PROBABILITY: Final = 0.5


class LanguageDetector:
    """Tells languages apart; its model is loaded once."""

    def __init__(self) -> None:
        """Raises MissingDependencyError without py3langid."""
        try:
            from py3langid.langid import MODEL_FILE, LanguageIdentifier
        except ImportError as error:
            raise MissingDependencyError(
                "py3langid", "lang", "finding the language of alt-texts"
            ) from error
        untyped: Any = LanguageIdentifier
        self._model: Any = untyped.from_model_file(MODEL_FILE, norm_probs=True)

    def language(self, text: str) -> str:
        """ISO 639-1 code ("de"), or "und" where the text is too short to say."""
        if sum(char.isalpha() for char in text) < 2:
            return UNDETERMINED
        code, probability = self._model.classify(text)
        return str(code) if probability >= _MIN_PROBABILITY else UNDETERMINED
