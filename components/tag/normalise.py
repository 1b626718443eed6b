"""One spelling for one text: Unicode normal form, mojibake, line ends, control characters, blanks, Chinese script, markers."""

from __future__ import annotations

import contextlib
import html
import re
import unicodedata
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from components.chat.markup import escape

if TYPE_CHECKING:
    from components.configuration import Tag

_LINE_ENDS = re.compile("\r\n|[\r\v\f\x85\u2028\u2029]")
# Control characters other than tab and line end, byte order marks, and soft hyphens (they are about paper, not text).
_CONTROLS = re.compile("[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f\ufeff\u00ad]")
_TRAILING = re.compile(r"[^\S\n]+$", re.MULTILINE)
_BLANK_LINES = re.compile(r"\n{3,}")
_ACCENTED = re.compile("[\u00a8\u00b8\u00c0-\u00ff]")  # where windows-1251 has the letters of Russian
_ACCENTED_WORD = re.compile("[\u00a8\u00b8\u00c0-\u00ff]{3,}")
_ASCII_LETTER = re.compile("[A-Za-z]")
_FEWEST_LETTERS = 12
_FREQUENT = "оеаинт"
_SHARE_OF_FREQUENT = 0.35  # of Russian they are 48 % of the letters, of Ukrainian 41 %; of Greek so read, 20 %
_CONFIGURATIONS = {"simplified": "t2s", "traditional": "s2t"}  # opencc's names

Script = Literal["simplified", "traditional", "keep"]


@dataclass
class Normaliser:
    """Brings texts into their one spelling. `removed` counts the characters that `tag.remove` took out, by pattern."""

    settings: Tag
    removed: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self._convert = _converter(self.settings.chinese)
        self._patterns = [re.compile(pattern) for pattern in self.settings.remove]
        self._repair = _repairer() if self.settings.mojibake else None

    def name(self, text: str | None) -> str | None:
        """A title's or an author's name on one line; None when nothing is left."""
        if not text:
            return None
        return one_line(escape(self._convert(self._plain(text)[0])))

    def body(self, text: str | None) -> tuple[str, int]:
        """A text without what `tag.remove` matches, trailing blanks and surplus blank lines; markers are escaped.

        The second value is how many characters had been decoded wrongly and were repaired.
        """
        text, repaired = self._plain(text or "")
        for pattern in self._patterns:
            shorter = pattern.sub("", text)
            self.removed[pattern.pattern] += len(text) - len(shorter)
            text = shorter
        text = _BLANK_LINES.sub("\n\n", _TRAILING.sub("", self._convert(text))).strip("\n")
        return escape(text), repaired

    def _plain(self, text: str) -> tuple[str, int]:
        repaired = 0
        if self.settings.entities:
            text = html.unescape(text)
        if self._repair is not None and not text.isascii():
            # Before control characters go: wrongly decoded text holds some of them as halves of letters.
            text, repaired = self._repair(text)
        text = _CONTROLS.sub("", _LINE_ENDS.sub("\n", text))
        if self.settings.unicode != "none":
            text = unicodedata.normalize(self.settings.unicode, text)
        return text, repaired


def body_of(settings: Tag) -> Callable[[str], str]:
    """What every text of the corpus goes through, for texts that it is compared with."""
    normaliser = Normaliser(settings)
    return lambda text: normaliser.body(text)[0]


def one_line(text: str | None) -> str | None:
    """A title's or an author's name: blanks and line ends become single spaces; None when nothing is left."""
    return " ".join((text or "").split()) or None


def _repairer() -> Callable[[str], tuple[str, int]]:
    """Text that was decoded with the wrong encoding, decoded again (ftfy); line by line, since files are mixed by hand."""
    from ftfy import fix_encoding
    from ftfy.badness import is_bad

    def repair(text: str) -> tuple[str, int]:
        accented = _ACCENTED_WORD.search(text) is not None
        if not accented and not is_bad(text):
            return text, 0
        lines, count = text.split("\n"), 0
        cyrillic = _cyrillic(lines) if accented else {}
        for number, line in enumerate(lines):
            fixed = cyrillic.get(number) or (fix_encoding(line) if line and is_bad(line) else line)
            if fixed != line:
                count += _differing(line, fixed)
                lines[number] = fixed
        return "\n".join(lines), count

    return repair


def _cyrillic(lines: list[str]) -> dict[int, str]:
    """Lines in windows-1251 that were read as Latin-1 or windows-1252, which ftfy cannot tell: number of the line to what it says.

    Such lines have words of nothing but accented letters, as no language has; and read rightly, the commonest letters of
    those that have little else are those of Cyrillic texts.
    """
    found: dict[int, str] = {}
    evidence: list[str] = []
    for number, line in enumerate(lines):
        words = "".join(_ACCENTED_WORD.findall(line))
        if words or (_ACCENTED.search(line) and not _ASCII_LETTER.search(line)):
            for wrong in ("sloppy-windows-1252", "latin-1"):
                with contextlib.suppress(UnicodeError):
                    found[number] = line.encode(wrong).decode("windows-1251")
                    break
            if number in found and len(words) > 2 * sum(map(str.isalpha, _ACCENTED_WORD.sub("", line))):
                evidence.append(found[number])
    letters = "".join(filter(str.isalpha, "".join(evidence))).lower()
    share = sum(map(letters.count, _FREQUENT)) / max(1, len(letters))
    return found if len(letters) >= _FEWEST_LETTERS and share > _SHARE_OF_FREQUENT else {}


def _differing(before: str, after: str) -> int:
    """Length of the part of `before` between the beginning and the end that both share."""
    shorter = min(len(before), len(after))
    start = 0
    while start < shorter and before[start] == after[start]:
        start += 1
    end = 0
    while end < shorter - start and before[-1 - end] == after[-1 - end]:
        end += 1
    return len(before) - start - end


def _converter(script: Script) -> Callable[[str], str]:
    if script == "keep":
        return lambda text: text
    import opencc

    converter = opencc.OpenCC(_CONFIGURATIONS[script])
    return lambda text: str(converter.convert(text))
