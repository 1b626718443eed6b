"""A text taken apart once, for all families of statistics to look at."""

from __future__ import annotations

import unicodedata

from components.corpus.language_facts import Facts, is_spaceless, spaceless_letters, words

# What ends a line of verse within a printed line, see `components.corpus.verse`.
_VERSE_ENDS = frozenset("，。！？；：、,.!?;:")
_BY_CATEGORY = {
    "Lu": "u",
    "Lt": "u",
    "Ll": "l",
    "Lm": "o",
    "Lo": "o",
    "Nd": "d",
    "Nl": "n",
    "No": "n",
    "Cc": "C",
    "Cf": "C",
}
_BY_FIRST = {"M": "M", "P": "P", "Z": "Z"}


class _Classes(dict[int, str]):
    """A table for `str.translate` from characters to one letter for their Unicode category; filled as met.

    u capitals, l small letters, H letters of scripts without blanks, o other letters, M marks, d decimal digits, n other
    numbers, e punctuation that ends a line of verse, P other punctuation, Z blanks, C control and format characters (tabs;
    what joins letters in Persian), S everything else. Line ends stay.
    """

    def __missing__(self, point: int) -> str:
        character = chr(point)
        category = unicodedata.category(character)
        if character == "\n":
            value = "\n"
        elif is_spaceless(character):
            value = "H"
        elif character in _VERSE_ENDS:
            value = "e"
        else:
            value = _BY_CATEGORY.get(category) or _BY_FIRST.get(category[0], "S")
        self[point] = value
        return value


_CLASSES = _Classes()


class Reading:
    """One text: its characters' classes, its lines without blanks at their ends (blank ones left out), and its words."""

    __slots__ = ("classes", "facts", "lines", "text", "words")

    def __init__(self, text: str, facts: Facts, with_words: bool) -> None:
        self.text = text
        self.facts = facts
        self.classes = text.translate(_CLASSES)
        self.lines = [line for printed in text.split("\n") if (line := printed.strip())]
        self.words: list[str] = []
        if with_words:
            # The classes tell already what `words` would look for first.
            plain = not any(c in self.classes for c in "uloMdnC")
            self.words = spaceless_letters(text) if plain else words(text, facts)
