"""Lines that are taken out of a text."""

from __future__ import annotations

import pytest

from components.configuration.tag import Lines
from components.corpus.language_facts import facts
from components.tag.lines import ends_as_a_sentence, take_out

PAGE = """Home | News

The house stood on a hill.
Please enable JavaScript to view the comments.
This site uses cookies to serve you better.
Nobody lived there, they said…

Read more..."""


def test_nothing_is_asked_nothing_goes() -> None:
    assert take_out(PAGE, Lines(), facts("en")) == (PAGE, 0, 6)


def test_each_kind_of_line() -> None:
    text, removed, count = take_out(PAGE, Lines(javascript=True), facts("en"))
    assert (removed, count) == (1, 6)
    assert "JavaScript" not in text
    assert "cookies" not in take_out(PAGE, Lines(policy=True), facts("en"))[0]
    assert take_out(PAGE, Lines(minimum_words=4), facts("en"))[1] == 2
    # C4 takes three dots for the mark of a text that was cut.
    assert take_out(PAGE, Lines(unpunctuated=True, javascript=True, policy=True), facts("en")) == (
        "The house stood on a hill.",
        5,
        6,
    )


def test_paragraphs_stay_apart_and_blank_lines_do_not_pile_up() -> None:
    text = "Первый абзац.\n\nмусор\n\nмусор\n\nВторой абзац."
    assert take_out(text, Lines(unpunctuated=True), facts("ru")) == ("Первый абзац.\n\nВторой абзац.", 2, 4)


@pytest.mark.parametrize(
    ("language", "line"),
    [("ru", "Продолжая, вы принимаете Политику конфиденциальности."), ("zh", "请阅读我们的隐私政策。"), ("de", "Diese Seite verwendet Cookies."),
     ("ru", "This site uses cookies."), ("nl", "Read our Privacy Policy.")],
)  # fmt: skip
def test_policy_lines_in_their_language_and_in_english(language: str, line: str) -> None:
    assert take_out(line, Lines(policy=True), facts(language)) == ("", 1, 1)


@pytest.mark.parametrize(
    ("language", "line", "ends"),
    [("ru", "Он ушёл…", True), ("ru", "Он ушёл...", True), ("en", "He left...", False), ("zh", "他走了。”", True), ("zh", "他走了", False),
     ("hi", "वह गया।", True), ("ar", "من هو؟", True), ("de", "„Wer da?“", True), ("en", "(he left)", False)],
)  # fmt: skip
def test_how_sentences_end(language: str, line: str, ends: bool) -> None:
    assert ends_as_a_sentence(line, facts(language)) is ends


def test_words_are_characters_in_chinese() -> None:
    assert take_out("首页\n床前明月光，疑是地上霜。", Lines(minimum_words=5), facts("zh")) == (
        "床前明月光，疑是地上霜。",
        1,
        2,
    )
