"""Facts of languages, and the words of a text."""

from __future__ import annotations

from pathlib import Path

import pytest

from components.corpus import language_facts
from components.corpus.language_facts import facts, known_languages, words
from components.errors import InkwellError


def test_every_file_of_the_house_is_right() -> None:
    assert {
        "zh",
        "ja",
        "ko",
        "th",
        "en",
        "ru",
        "uk",
        "de",
        "fr",
        "es",
        "it",
        "pt",
        "ar",
        "hi",
        "tr",
        "vi",
        "pl",
    } <= set(known_languages())
    for code in known_languages():
        known = facts(code)
        assert known.code == code
        assert known.terminal_punctuation, code
        assert all(word == word.lower() for word in known.stop_words | known.function_words), code
        if known.segmentation == "characters":  # longer ones could never be found
            assert all(len(word) == 1 for word in known.function_words), code
        for word in known.function_words:
            assert words(word, known) == [word], (code, word)


def test_classical_chinese_has_its_function_characters() -> None:
    assert set("之乎者也而於于與与") <= facts("zh").function_words


def test_a_language_without_a_file() -> None:
    dutch, unknown = facts("nl"), facts("xx")
    assert (dutch.code, dutch.segmentation) == ("nl", "blanks")
    assert "het" in dutch.stop_words
    assert not unknown.stop_words
    assert facts("und").phone_region is None
    assert facts("../policies/base").name == "../policies/base"  # no file outside the folder is read


@pytest.mark.parametrize(
    ("language", "text", "expected"),
    [
        ("zh", "秦川雄帝宅，函谷。", ["秦", "川", "雄", "帝", "宅", "函", "谷"]),
        ("zh", "我有3个apple's和𠀀", ["我", "有", "3", "个", "apple's", "和", "𠀀"]),
        ("ru", "Ёлки-палки, д'Артаньян 李白 _x_", ["Ёлки", "палки", "д'Артаньян", "李", "白", "x"]),
        ("en", "Don’t 'quote' 3.14", ["Don’t", "quote", "3", "14"]),
        ("en", "cafe\u0301 naïve", ["cafe\u0301", "naïve"]),
        ("hi", "हिन्दी में।", ["हिन्दी", "में"]),
        ("ar", "العَرَبِيَّةُ نص", ["العَرَبِيَّةُ", "نص"]),
        ("fa", "می\u200cخواهم", ["می\u200cخواهم"]),
        ("th", "ที่นี่", ["ที่", "นี่"]),
        ("ja", "東京タワー", ["東", "京", "タ", "ワ", "ー"]),
        ("ko", "한국어 문장", ["한국어", "문장"]),
        ("en", " … — !", []),
    ],
)
def test_words(language: str, text: str, expected: list[str]) -> None:
    assert words(text, facts(language)) == expected


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("name: [", "not valid YAML"),
        ("- a", "must be a table"),
        ("name: X", "lacks 'scripts'"),
        ("{base}\nfoo: 1", "unknown fact 'foo'"),
        ("{base}\nsegmentation: letters", "segmentation must be blanks or characters, not 'letters'"),
        ("{base}\nscripts: [cyrillic]", "scripts must be ISO 15924 codes"),
        ("{base}\nphone_region: Russia", "phone_region must be an ISO 3166 code"),
        ("{base}\npolicy_phrases: cookies", "policy_phrases must be a list of texts"),
        ("{base}\ndashes: 5", "dashes must be a text"),
    ],
)
def test_mistakes_are_told_in_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str, said: str
) -> None:
    base = (language_facts.FOLDER / "default.yaml").read_text(encoding="utf-8")
    (tmp_path / "qq.yaml").write_text(content.replace("{base}", base), encoding="utf-8")
    monkeypatch.setattr(language_facts, "FOLDER", tmp_path)
    facts.cache_clear()
    with pytest.raises(InkwellError) as caught:
        facts("qq")
    assert str(caught.value).startswith("components/corpus/languages/qq.yaml")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    facts.cache_clear()
