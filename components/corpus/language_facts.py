"""What is known of a language: how it is written, where sentences end, which words no text of it does without.

The facts of a language are a file of data, `components/corpus/languages/<code>.yaml`; every other language has those of `default.yaml`
and the stop words of `stopwordsiso` (57 languages).

    name: Russian
    scripts: [Cyrl]                # ISO 15924, the usual one first
    segmentation: blanks           # what divides words: blanks; or characters, where each letter counts as a word
    terminal_punctuation: '.!?…»'  # a sentence ends with one of these, closing quotation marks among them
    quotes: '«„'                   # quotation marks that open speech
    dashes: '—–-'                  # dashes that open speech
    phone_region: RU               # ISO 3166, for telephone numbers without a country code; null: none is assumed
    stop_words: и в не             # optional: words that tell nothing of a text's topic, instead of stopwordsiso's
    function_words: и в не         # optional: the few that any text has, for Gopher's stop-word rule; else all stop words
    policy_phrases: [...]          # optional: lower-case phrases of lines about cookies, privacy and terms of use
"""

from __future__ import annotations

import re
import sys
import unicodedata
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, Literal, cast

from components.errors import InkwellError

FOLDER = Path(__file__).parent / "languages"
_REQUIRED = ("name", "scripts", "segmentation", "terminal_punctuation", "quotes", "dashes", "phone_region")
_OPTIONAL = ("stop_words", "function_words", "policy_phrases")

# Scripts that put no blanks between words: Thai, Lao, Burmese, Khmer, New Tai Lue, Tai Tham, Tai Viet, Yi; then the East Asian ones:
# kana and bopomofo, Han with its radicals, numerals and supplements.
_SPACELESS_BLOCKS = (
    (0x0E00, 0x0EFF), (0x1000, 0x109F), (0x1780, 0x17DD), (0x1950, 0x19DF), (0x1A20, 0x1AAD), (0xA9E0, 0xA9FE), (0xAA60, 0xAADF),
    (0x3005, 0x3007), (0x3021, 0x3029), (0x3040, 0x312F), (0x31A0, 0x31BF), (0x31F0, 0x31FF), (0xA000, 0xA48C), (0xFF66, 0xFF9F),
    (0x1B000, 0x1B16F), (0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF), (0x20000, 0x3FFFF),
)  # fmt: skip
_WHOLE_BLOCKS = frozenset({0x3400, 0x4E00, 0xF900, 0x20000})  # nothing but letters, and too large to look at each
_JOINERS = "\u200c\u200d"  # they stand inside words of Persian and of the languages of India
_APOSTROPHES = "'’ʼ"


@dataclass(frozen=True)
class Facts:
    """The facts of one language; see the module's docstring for what each means.

    `code`: ISO 639-1, or ISO 639-3 where there is none. `stop_words` and `function_words` are empty where none are known;
    all of them are in lower case. `policy_phrases` hold the English ones too, for pages in any language borrow them.
    """

    code: str
    name: str
    scripts: tuple[str, ...]
    segmentation: Literal["blanks", "characters"]
    stop_words: frozenset[str]
    function_words: frozenset[str]
    terminal_punctuation: str
    quotes: str
    dashes: str
    phone_region: str | None
    policy_phrases: tuple[str, ...]


@cache
def facts(code: str) -> Facts:
    """The facts of a language by its code (`zh`, `ru`, `und` ...); InkwellError naming file and mistake."""
    path = FOLDER / f"{code}.yaml"
    known = re.fullmatch(r"[a-z]{2,3}", code) is not None and path.exists()
    if not known:
        path = FOLDER / "default.yaml"
    content = _read(path)
    stop_words = _words_of(content["stop_words"]) if "stop_words" in content else _stopwordsiso(code)
    function_words = _words_of(content["function_words"]) if "function_words" in content else stop_words
    phrases = [str(phrase).lower() for phrase in content.get("policy_phrases", ())]
    if code != "en":
        phrases += facts("en").policy_phrases
    return Facts(
        code=code,
        name=content["name"] if known else code,
        scripts=tuple(content["scripts"]),
        segmentation=content["segmentation"],
        stop_words=stop_words,
        function_words=function_words,
        terminal_punctuation=content["terminal_punctuation"],
        quotes=content["quotes"],
        dashes=content["dashes"],
        phone_region=content["phone_region"],
        policy_phrases=tuple(dict.fromkeys(phrases)),
    )


def known_languages() -> list[str]:
    """Codes of the languages that have a file of their own."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml") if path.stem != "default")


def words(text: str, facts: Facts) -> list[str]:
    """The words of a text: runs of letters, marks and digits, with apostrophes between them; punctuation is none.

    A letter of a script without blanks (Han, kana, Thai ...) is a word by itself, with the marks upon it, whatever the
    language: a Chinese name in a Russian text is as many words as in a Chinese one. Hyphens divide words. `facts` is taken
    for languages whose words are found in other ways; as yet no language needs it. Time and memory are linear.
    """
    del facts
    # The commonest short texts, and three times as fast: letters of scripts without blanks, and no others.
    if "x" not in text.translate(_KINDS):
        return spaceless_letters(text)
    return _word().findall(text)


def spaceless_letters(text: str) -> list[str]:
    """The letters of scripts without blanks: all words of a text that has no other letters, marks or digits."""
    return list(text.translate(_ONLY_LETTERS))


class _Letters(dict[int, int | None]):
    """A table for `str.translate` that deletes whatever is no letter of a script without blanks; filled as met."""

    def __missing__(self, point: int) -> int | None:
        value = self[point] = point if is_spaceless(chr(point)) else None
        return value


class _Kinds(dict[int, int]):
    """A table for `str.translate`: x for letters, marks, digits and joiners of other scripts, a dot for the rest."""

    def __missing__(self, point: int) -> int:
        character = chr(point)
        other = unicodedata.category(character)[0] in "LMN" and not is_spaceless(character)
        value = self[point] = ord("x" if other or character in _JOINERS else ".")
        return value


_ONLY_LETTERS = _Letters()
_KINDS = _Kinds()


def is_spaceless(character: str) -> bool:
    """Whether it is a letter of a script that puts no blanks between words, so that it counts as a word."""
    point = ord(character)
    if point < 0x0E00 or not any(first <= point <= last for first, last in _SPACELESS_BLOCKS):
        return False
    return unicodedata.category(character) in ("Lo", "Lm", "Nl")


@lru_cache(maxsize=1)
def _character_classes() -> tuple[str, str]:
    """Insides of two bracket expressions: letters of scripts without blanks; marks and joiners."""
    spaceless = []
    for first, last in _SPACELESS_BLOCKS:
        whole = first in _WHOLE_BLOCKS
        spaceless += [(first, last)] if whole else [(p, p) for p in range(first, last + 1) if is_spaceless(chr(p))]
    marks = [(p, p) for p in range(0x300, 0x20000) if unicodedata.category(chr(p))[0] == "M"]
    marks += [(ord(joiner), ord(joiner)) for joiner in _JOINERS]
    marks += [(0xE0100, 0xE01EF)]  # variants of Han characters
    return _ranges(spaceless), _ranges(marks)


def _ranges(spans: list[tuple[int, int]]) -> str:
    merged: list[list[int]] = []
    for first, last in sorted(spans):
        if merged and first == merged[-1][1] + 1:
            merged[-1][1] = last
        else:
            merged.append([first, last])
    return "".join(chr(first) if first == last else f"{chr(first)}-{chr(last)}" for first, last in merged)


@lru_cache(maxsize=1)
def _word() -> re.Pattern[str]:
    spaceless, marks = _character_classes()
    # Python's \w knows no combining marks. Quantifiers are possessive: no text makes the search go back, so time is linear.
    run = rf"(?:[^\W_{spaceless}]++[{marks}]*+)++"
    return re.compile(rf"[{spaceless}][{marks}]*+|{run}(?:[{_APOSTROPHES}]{run})*+")


def _read(path: Path) -> dict[str, Any]:
    import yaml

    where = f"components/corpus/languages/{path.name}"
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InkwellError(f"{where} is not valid YAML: {' '.join(str(error).split())}.") from error
    if not isinstance(content, dict):
        raise InkwellError(f"{where} must be a table of facts: {', '.join(_REQUIRED)}.")
    for name in _REQUIRED:
        if name not in content:
            raise InkwellError(f"{where} lacks {name!r}; a language needs {', '.join(_REQUIRED)}.")
    for name, value in content.items():
        if name not in (*_REQUIRED, *_OPTIONAL):
            raise InkwellError(f"{where}: unknown fact {name!r}; there are {', '.join((*_REQUIRED, *_OPTIONAL))}.")
        wanted = _mistake(name, value)
        if wanted:
            raise InkwellError(f"{where}: {name} must be {wanted}, not {value!r}.")
    return cast(dict[str, Any], content)


def _mistake(name: str, value: Any) -> str | None:
    """What the value should have been, None where it is right."""
    if name in ("scripts", "policy_phrases"):
        if not isinstance(value, list) or not all(isinstance(part, str) for part in value):
            return "a list of texts"
        if name == "scripts" and not all(re.fullmatch("[A-Z][a-z]{3}", part) for part in value):
            return "ISO 15924 codes such as Cyrl"
        return None
    if name == "segmentation":
        return None if value in ("blanks", "characters") else "blanks or characters"
    if name == "phone_region":
        return None if value is None or re.fullmatch("[A-Z]{2}", str(value)) else "an ISO 3166 code such as RU, or null"
    return None if isinstance(value, str) else "a text"


def _words_of(text: str) -> frozenset[str]:
    return frozenset(sys.intern(word) for word in text.lower().split())


def _stopwordsiso(code: str) -> frozenset[str]:
    import stopwordsiso

    return (
        frozenset(word.lower() for word in stopwordsiso.stopwords(code)) if stopwordsiso.has_lang(code) else frozenset()
    )
