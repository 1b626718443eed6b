"""Statistics of texts: by hand, against datatrove's own rules, and on texts that would hurt a careless search."""

from __future__ import annotations

import random
import re
import time
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest

from components.configuration.tag import Family
from components.corpus.language_facts import facts, words
from components.corpus.statistics import STATISTICS
from components.tag import measure as measuring
from components.tag.measure import FAMILIES, measure, pieces

ALL: list[Family] = list(FAMILIES)
ELSEWHERE = {"language_score", "lines_taken_out", "mojibake_repaired"}  # what tag fills by other means
POEM = "秦川雄帝宅，函谷壮皇居。\n绮殿千寻起，离宫百雉余。"
PROSE = {
    "en": [
        "the quick brown fox jumps over the lazy dog.", "it was a dark night, and the rain fell in torrents!",
        "what shall we do with all of that?", "he said nothing and had to be on his way.", "- a list has items",
        "and so on and so on and so on...", "section 12 of 48 # of 99 # #", "read more", "that is “all” there was to have.",
    ],
    "ru": [
        "все счастливые семьи похожи друг на друга.", "что же нам теперь делать со всем этим?", "он ничего не сказал…",
        "— а вы кто такой?", "и так далее, и так далее, и так далее…", "глава 12 из 48", "читать дальше",
        "небо было ясно, и он смотрел на него долго.", "- пункт списка",
    ],
    "zh": [
        "床前明月光，疑是地上霜。", "举头望明月，低头思故乡。", "我们应当怎么办呢？", "他什么也没有说……", "第12章 共48章",
        "学而时习之，不亦说乎？", "有朋自远方来，不亦乐乎！", "阅读全文", "等等等等等等等等等等等等。",
    ],
}  # fmt: skip


def one(text: str, language: str) -> dict[str, float]:
    return {name: float(values[0]) for name, values in measure([text], [language], ALL).items()}


def texts(language: str, count: int = 40) -> list[str]:
    """Documents of many lengths, with lines and paragraphs that repeat, drawn by a seed."""
    rng = random.Random(language)
    made = []
    for _ in range(count):
        lines = rng.choices(PROSE[language][: rng.randint(2, 9)], k=rng.randint(1, 14))
        made.append(
            "".join(line + rng.choice(["\n", "\n", "\n\n", " " if language != "zh" else ""]) for line in lines).strip()
        )
    return made


def test_measures_what_the_registry_names() -> None:
    found = measure([POEM], ["zh"], ALL)
    wanted = [name for name, statistic in STATISTICS.items() if statistic.family in FAMILIES and name not in ELSEWHERE]
    assert sorted(found) == sorted(wanted)
    for family in FAMILIES:
        assert set(measure([POEM], ["zh"], [family])) == {name for name in wanted if STATISTICS[name].family == family}


def test_no_texts_and_an_empty_text() -> None:
    assert all(values.shape == (0,) for values in measure([], [], ALL).values())
    assert set(one("", "ru").values()) == {0.0}


@pytest.mark.parametrize("language", ["en", "ru", "zh"])
def test_shares_are_shares(language: str) -> None:
    made = texts(language)
    for name, values in measure(made, [language] * len(made), ALL).items():
        shares_that_may_exceed = {"hashes_and_ellipses", "newlines_per_word"}  # they are ratios to the number of words
        if STATISTICS[name].unit == "share" and name not in shares_that_may_exceed:
            assert values.min() >= 0, name
            assert values.max() <= 1, name


def test_shape_by_hand() -> None:
    poem = one(POEM, "zh")
    assert poem["characters"] == 25
    assert poem["letters"] == pytest.approx(20 / 25)
    assert (poem["lines"], poem["longest_line"], poem["longest_run"]) == (2, 12, 1)
    mixed = one("ГОСТ 15 →→→\n\nГОСТ 15 →→→\n", "ru")
    assert mixed["symbols"] == pytest.approx(6 / 25)
    assert mixed["digits"] == pytest.approx(4 / 25)
    assert (mixed["upper_case"], mixed["repeated_lines"], mixed["longest_run"]) == (1, 0.5, 3)
    # One acronym in a Chinese text does not make it shout.
    assert one("我在NBA打球", "zh")["upper_case"] == pytest.approx(3 / 7)


def test_words_by_hand() -> None:
    english = one("The Queen's cat, the cat - and 3 dogs...", "en")
    assert english["words"] == 8
    assert english["mean_word_length"] == pytest.approx((3 + 7 + 3 + 3 + 3 + 3 + 1 + 4) / 8)
    assert english["alphabetic_words"] == pytest.approx(7 / 8)
    assert english["stop_words"] == 2  # the, and: different ones, letter case aside
    assert english["hashes_and_ellipses"] == pytest.approx(1 / 8)
    assert english["ellipsis_lines"] == 1
    chinese = one("我有3只dog，不是猫。", "zh")
    assert chinese["words"] == 8
    assert chinese["stop_words"] == 4  # 我 有 不 是
    assert one("• один\n - два\nтри", "ru")["bullet_lines"] == pytest.approx(2 / 3)


def test_stop_words_of_an_unknown_language_are_not_counted() -> None:
    assert np.isnan(one("lorem ipsum dolor sit amet", "und")["stop_words"])
    assert one("de kat en de hond", "nl")["stop_words"] > 0  # stopwordsiso knows Dutch


def test_web_by_hand() -> None:
    english = one("It ended. “Did it?” Mr X left!\nRead more\nVersion 3.14 {beta}, LOREM IPSUM.\n", "en")
    assert english["sentences"] == 5
    assert english["punctuated_lines"] == pytest.approx(2 / 3)
    assert english["short_lines"] == pytest.approx(2 / 3)  # the first has 30 characters
    assert (english["braces"], english["placeholder_text"]) == (2, 1)
    assert one("他问：“谁？”她说：“我。”\n好……\n阅读全文", "zh")["sentences"] == 4
    assert one("मैं घर गया। वह आया।", "hi")["sentences"] == 2
    assert one("床前明月光，疑是地上霜。\n低头思故乡。", "zh")["short_lines"] == 0.5


def test_verse_by_hand() -> None:
    poem = one(POEM, "zh")
    assert (poem["regular_lines"], poem["mean_line_length"]) == (1, 5)
    assert one("“床前明月光，\n疑是地上”霜。\n《举头》望", "zh")["regular_lines"] == pytest.approx(2 / 3)
    russian = one("Буря мглою\nНебо кроет,\n\nВихри снежные крутя;", "ru")
    assert russian["mean_line_length"] == pytest.approx((9 + 9 + 17) / 3)
    assert russian["regular_lines"] == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("text", "language", "speech", "longest"),
    [
        ("— Кто там?\n— Я.\nОн вошёл.\n— Садись.", "ru", 3 / 4, 13 / 32),
        ("Hamlet: To be, or not to be.\nOphelia: My lord!", "en", 1, 28 / 45),
        ("子曰：“学而时习之。”\n“不亦说乎？”", "zh", 1, 11 / 18),
        ("-5 degrees\nIt was cold.", "en", 0, 1),
    ],
)
def test_dialogue_by_hand(text: str, language: str, speech: float, longest: float) -> None:
    found = one(text, language)
    assert found["speech_lines"] == pytest.approx(speech)
    assert found["longest_turn"] == pytest.approx(longest)


@pytest.mark.parametrize("language", ["en", "ru", "zh"])
def test_repetition_equals_datatroves(language: str) -> None:
    from datatrove.pipeline.filters.gopher_repetition_filter import (
        find_all_duplicate,
        find_duplicates,
        find_top_duplicate,
    )

    made = texts(language)
    found = measure(made, [language] * len(made), ["repetition"])
    between = (
        "" if language == "zh" else " "
    )  # datatrove puts blanks between Chinese characters: see measures/gopher.py
    for row, text in enumerate(made):
        lines, paragraphs = re.split("\n+", text), re.split("\n{2,}", text)
        expected: dict[str, float] = {}
        for name, parts in (("line", lines), ("paragraph", paragraphs)):
            count, characters = find_duplicates(parts)
            expected |= {
                f"duplicate_{name}s": count / len(parts),
                f"duplicate_{name}_characters": characters / len(text),
            }
        said = words(text, facts(language))
        for n in (2, 3, 4):
            grams = [between.join(said[i : i + n]) for i in range(len(said) - n + 1)]
            expected[f"top_{n}gram"] = min(1, find_top_duplicate(grams) / len(text)) if grams else 0
        expected |= {f"duplicate_{n}grams": find_all_duplicate(said, n) / len(text) for n in range(5, 11)}
        assert {name: found[name][row] for name in expected} == pytest.approx(expected), text
    for name, values in found.items():
        assert len(set(values)) > 1, f"{name} is the same for all of these texts: they test nothing"


@cache
def our_words(language: str) -> Any:
    from datatrove.utils.word_tokenizers import WordTokenizer

    class Ours(WordTokenizer):
        def word_tokenize(self, text: str) -> list[str]:
            return words(text.lower(), facts(language))

        def sent_tokenize(self, text: str) -> list[str]:
            raise NotImplementedError

        def span_tokenize(self, text: str) -> list[tuple[int, int]]:
            raise NotImplementedError

    return Ours()


@pytest.mark.parametrize("language", ["en", "ru", "zh"])
def test_datatroves_quality_rules_turn_at_our_values(language: str) -> None:
    """Their filters return a verdict only: with a bound a hair above our value it must differ from that a hair below."""
    from datatrove.data import Document
    from datatrove.pipeline.filters import FineWebQualityFilter, GopherQualityFilter

    known = facts(language)

    def gopher(**bound: Any) -> Any:
        off: dict[str, Any] = dict.fromkeys(
            ("min_doc_words", "max_doc_words", "min_avg_word_length", "max_avg_word_length", "max_symbol_word_ratio",
             "max_bullet_lines_ratio", "max_ellipsis_lines_ratio", "max_non_alpha_words_ratio", "min_stop_words")
        )  # fmt: skip
        return GopherQualityFilter(**(off | bound), stop_words=list(known.function_words), language=our_words(language))

    def fineweb(**bound: Any) -> Any:
        off = {"line_punct_thr": 0.0, "short_line_thr": 9.0, "char_duplicates_ratio": 9.0, "new_line_ratio": 9e9}
        stop, short = tuple(known.terminal_punctuation), 10 if language == "zh" else 30
        return FineWebQualityFilter(
            **(off | bound), stop_chars=stop, short_line_length=short, language=our_words(language)
        )

    minimum: dict[str, Callable[[float], Any]] = {
        "words": lambda bound: gopher(min_doc_words=bound),
        "mean_word_length": lambda bound: gopher(min_avg_word_length=bound),
        "alphabetic_words": lambda bound: gopher(max_non_alpha_words_ratio=bound),
        "stop_words": lambda bound: gopher(min_stop_words=bound),
        "punctuated_lines": lambda bound: fineweb(line_punct_thr=bound),
    }
    maximum: dict[str, Callable[[float], Any]] = {
        "hashes_and_ellipses": lambda bound: gopher(max_symbol_word_ratio=bound),
        "bullet_lines": lambda bound: gopher(max_bullet_lines_ratio=bound),
        "ellipsis_lines": lambda bound: gopher(max_ellipsis_lines_ratio=bound),
        "short_lines": lambda bound: fineweb(short_line_thr=bound),
        "newlines_per_word": lambda bound: fineweb(new_line_ratio=bound),
    }
    made = texts(language, 25)
    found = measure(made, [language] * len(made), ["words", "web"])
    hair, turns = 1e-9, 0
    for row, text in enumerate(made):
        document = Document(text=text, id=str(row))
        for names, keeps in ((minimum, -hair), (maximum, hair)):
            for name, rule in names.items():
                value = found[name][row]
                assert rule(value + keeps).filter(document) is True, (name, text)
                if value > 0:
                    assert rule(value - keeps).filter(document) is not True, (name, text)
                    turns += 1
    assert turns > 100


def test_a_long_text_in_pieces_keeps_its_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "\n".join(texts("ru", 60)) + "\n" + "й" * 1_500
    whole = one(text, "ru")
    monkeypatch.setattr(measuring, "PIECE", 1_000)
    parts = one(text, "ru")
    for name in ("characters", "lines", "longest_line", "braces", "placeholder_text"):
        assert parts[name] == whole[name], name
    for name in ("letters", "symbols", "digits"):
        assert parts[name] == pytest.approx(whole[name]), name
    assert parts["words"] == pytest.approx(whole["words"], abs=3)  # a word may be cut in two


@pytest.mark.parametrize("size", [7, 100])
def test_pieces_lose_nothing(size: int) -> None:
    text = "\n".join(texts("zh"))
    parts = list(pieces(text, size))
    assert "".join(parts) == text
    assert max(map(len, parts)) <= size


@pytest.mark.parametrize(
    "text",
    ["a" * 1_000_000, "哈" * 100_000, "." * 500_000 + "x", '."' * 250_000 + "x", "'" * 500_000, " " * 500_000 + "x", "\n" * 500_000,
     "a'" * 250_000, "a " * 50_000 + ":", "e\u0301" * 250_000, "- " * 250_000, "x\n" * 50_000],
)  # fmt: skip
def test_no_text_takes_more_than_linear_time(text: str) -> None:
    start = time.process_time()
    found = measure([text, text], ["en", "zh"], ALL)
    # A search that goes back once for every character would take hours.
    assert time.process_time() - start < 20
    assert found["characters"].tolist() == [len(text)] * 2
