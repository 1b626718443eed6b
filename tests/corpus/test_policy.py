"""Policies: the files of the house, how they build on each other, and what is said of mistakes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from components.configuration.clean import Bound
from components.corpus import policy as policies
from components.corpus.language_facts import known_languages
from components.corpus.policy import Policy, load_policy, names
from components.corpus.statistics import STATISTICS
from components.errors import InkwellError
from components.tag.measure import FAMILIES, measure
from tests.tiny_corpus import poems


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(policies, "FOLDER", tmp_path)
    return tmp_path


def write(folder: Path, name: str, content: str) -> None:
    (folder / f"{name}.yaml").write_text(content, encoding="utf-8")


def kept(policy: Policy, texts: list[str], language: str) -> list[bool]:
    found = measure(texts, [language] * len(texts), list(FAMILIES)) | {"language_score": np.ones(len(texts))}
    rules = policy.for_language(language).values()
    return [all(rule.bound(float(found[rule.statistic][row])) is None for rule in rules) for row in range(len(texts))]


def test_the_policies_of_the_house() -> None:
    assert {"base", "verse", "prose", "dialogue", "gopher", "c4", "fineweb", "web", "none"} <= set(names())
    for name in names():
        policy = load_policy(name)
        assert policy.summary, name
        assert policy.statistics() <= set(STATISTICS), name
        assert set(policy.by_language) <= {*known_languages(), "und"}, name
        if name != "none":
            assert policy.rules, name


def test_published_bounds_for_english() -> None:
    rules = load_policy("gopher").for_language("en")
    assert (rules["word_count"].minimum, rules["word_count"].maximum) == (50, 100000)
    assert [rules[f"top_{n}gram"].maximum for n in (2, 3, 4)] == [0.2, 0.18, 0.16]
    assert [rules[f"duplicate_{n}grams"].maximum for n in range(5, 11)] == [0.15, 0.14, 0.13, 0.12, 0.11, 0.1]


def test_web_is_gopher_c4_and_fineweb_together() -> None:
    web = load_policy("web")
    for name in ("gopher", "c4", "fineweb"):
        assert load_policy(name).for_language("en").items() <= web.for_language("en").items()
    russian = web.for_language("ru")
    assert russian["word_length"] == load_policy("gopher").for_language("ru")["word_length"]
    assert russian["punctuated_lines"] == load_policy("fineweb").for_language("ru")["punctuated_lines"]
    assert not {"sentences", "braces", "short_lines"} & set(russian)
    # A language of which FineWeb-2's bounds are not written down has the general ones.
    assert web.for_language("fi") == web.rules


PROSE = {
    "en": "The house stood on a hill above the town, and nobody had lived in it for a long time. The windows were dark, the garden "
    "was wild, and the children of the town had many stories to tell about it. One evening in autumn a man with a grey hat came "
    "along the road. He stopped at the gate. Who was he, and what did he want? Nobody knew.",
    "ru": "Дом стоял на холме над городом, и в нём давно никто не жил. Окна были темны, сад зарос, и дети рассказывали о нём "
    "много разных историй. Однажды осенним вечером по дороге пришёл человек в серой шляпе. Он остановился у ворот и долго смотрел "
    "на окна. Кто он такой и что ему нужно? Никто этого не знал, да никто его и не спрашивал.",
    "zh": "那座房子在小镇上面的山坡上，已经很久没有人住了。窗户是黑的，花园里长满了野草，镇上的孩子们常常讲起它的故事。"
    "秋天的一个晚上，一个戴着灰色帽子的男人沿着大路走来。他在门口停下，向窗里看了很久。他是谁，他要什么？谁也不知道，也没有人去问他。",
}


@pytest.mark.parametrize("language", ["en", "ru", "zh"])
@pytest.mark.parametrize("name", ["base", "prose", "gopher", "fineweb", "web"])
def test_prose_stays_and_junk_goes(name: str, language: str) -> None:
    junk = {"en": "buy now ", "ru": "купить сейчас ", "zh": "立即购买"}[language]
    prose = PROSE[language]
    lists = "\n".join([junk * 2] * 60)
    assert kept(load_policy(name), [prose, lists], language) == [True, False]


def test_verse_and_dialogue() -> None:
    verses = ["\n".join(poem["paragraphs"]) for poem in poems(100)]
    assert kept(load_policy("verse"), verses, "zh") == [True] * len(verses)
    assert not any(kept(load_policy("verse"), [PROSE["ru"], "1.5\n2.75\n3.25\n4.125\n"], "ru"))
    play = "— Кто там?\n— Это я.\n— Входи, садись.\nОн вошёл и сел."
    assert kept(load_policy("dialogue"), [play, PROSE["ru"]], "ru") == [True, False]


def test_extends_and_languages(folder: Path) -> None:
    write(
        folder,
        "first",
        "summary: a\nrules: {words: {minimum: 5}, lines: {minimum: 1, maximum: 9}}\nlanguages: {zh: {words: {minimum: 2}}}",
    )
    write(folder, "second", "extends: first\nrules: {lines: {maximum: 7}}\nlanguages: {ru: {words: null}}")
    second = load_policy("second")
    assert (second.rules["lines"].minimum, second.rules["lines"].maximum) == (1, 7)
    assert set(second.for_language("ru")) == {"lines"}
    assert second.for_language("zh")["words"].minimum == 2  # what the extended policy says of a language stands
    assert second.for_language("zh")["lines"].maximum == 7
    assert second.for_language("en") == second.rules
    write(folder, "third", "extends: first\nrules: {words: {minimum: 6}}")
    assert load_policy("third").for_language("zh")["words"].minimum == 6  # unless the rule itself is changed
    write(folder, "other", "rules: {words: {minimum: 8}, symbols: {maximum: 0.1}}\nlanguages: {ru: {symbols: null}}")
    write(folder, "both", "extends: [first, other]")
    both = load_policy("both")
    assert both.rules["words"].minimum == 8
    assert set(both.for_language("ru")) == {"words", "lines"}
    assert both.for_language("zh")["words"].minimum == 8


def test_changes_of_the_parameters() -> None:
    policy = load_policy("base").changed({"too_short": Bound(minimum=3), "symbols": Bound(off=True)})
    assert policy.rules["too_short"].minimum == 3
    assert "symbols" not in policy.rules
    with pytest.raises(InkwellError, match=r"no rule 'too_shrt'; did you mean 'too_short'\?"):
        load_policy("base").changed({"too_shrt": Bound(minimum=3)})


def test_reasons_are_sentences() -> None:
    rules = load_policy("base").rules
    assert rules["too_short"].bound(10) is None
    assert rules["too_short"].bound(9) == 10
    assert rules["too_short"].reason(9) == "its number of characters is 9, less than 10"
    assert (
        rules["symbols"].reason(0.5)
        == "its share of characters that are neither letters, marks, digits, punctuation nor blanks is 50 %, more than 30 %"
    )
    assert rules["symbols"].bound(float("nan")) is None  # what was not measured drops nothing


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "must be a table of summary, extends, rules, languages, sources"),
        ("rules: [", "is not valid YAML"),
        ("rule: {}", "unknown key 'rule'"),
        ("rules: [words]", "rules must be a table"),
        ("languages: {no: {words: null}}", "False is no language"),
        ("languages: {zh: [words]}", "language zh: the rules must be a table"),
        ("rules: {words: 5}", "rule 'words' is written as"),
        ("rules: {word: {minimum: 5}}", "bounds 'word', which nobody measures; did you mean 'words'?"),
        ("rules: {words: {minimum: many}}", "the bounds of rule 'words' are numbers"),
        ("rules: {words: {minimum: true}}", "the bounds of rule 'words' are numbers"),
        ("rules: {words: {minimum: null}}", "rule 'words' has neither minimum nor maximum"),
        ("rules: {words: {minimum: 5, maximum: 4}}", "would drop everything"),
        (
            "rules: {words: {minimum: 5}}\nlanguages: {ru: {wrds: null}}",
            "'wrds' is switched off, but there is no such rule; did you mean 'words'?",
        ),
        ("extends: {a: b}", "extends must be the name of a policy"),
        ("extends: bad", "extends itself (bad > bad)"),
        ("extends: bda", "there is no policy 'bda' in components/corpus/policies; did you mean 'bad'?"),
    ],
)
def test_mistakes_are_told_in_one_sentence(folder: Path, content: str, said: str) -> None:
    write(folder, "bad", content)
    with pytest.raises(InkwellError) as caught:
        load_policy("bad")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
