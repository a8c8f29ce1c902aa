"""Questions: the package's own, others, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from altogether_rt.comparison.questions import MAX_QUESTIONS, load_questions
from altogether_rt.errors import ConfigError

pytestmark = pytest.mark.lean


def test_the_package_asks_three_questions_and_the_third_only_with_an_alt_text() -> None:
    questions = load_questions()
    assert [q.id for q in questions.questions] == ["alignment", "named-entities", "alt-text"]
    assert questions.asked(has_alt_text=True) == questions.questions
    assert questions.asked(has_alt_text=False) == questions.questions[:2]


def test_another_study_asks_others(tmp_path: Path) -> None:
    path = tmp_path / "q.toml"
    path.write_text('[[questions]]\nid = "taste"\nlabel = "taste"\ntext = "Which is nicer?"\n')
    (question,) = load_questions(path).questions
    assert (question.id, question.tie, question.needs_alt_text) == ("taste", "Equal", False)


ONE = '[[questions]]\nid = "{}"\nlabel = "a"\ntext = "b"\n'


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("questions = []", "there are 0 questions"),
        (ONE.format("a") * 2, "two questions have the id a"),
        (
            "".join(ONE.format(f"q{i}") for i in range(MAX_QUESTIONS + 1)),
            f"1 to {MAX_QUESTIONS}",
        ),
        (ONE.format("A b"), "lower-case letters"),
        (ONE.format("a").replace('"b"', '" "'), "text of question a"),
        (ONE.format("a") + "tei = 'x'\n", "unknown key questions.tei"),
        (ONE.format("a").replace("text", "# text"), "missing key questions.text"),
        ("[[questions", "is not valid TOML"),
    ],
)
def test_what_is_wrong_is_said_with_the_file(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "q.toml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_questions(path)
    assert says in str(caught.value)
    assert str(path) in str(caught.value)
    with pytest.raises(ConfigError, match="there is no question file"):
        load_questions(tmp_path / "absent.toml")
