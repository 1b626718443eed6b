"""The form of a poem: its lines and their lengths in characters."""

from __future__ import annotations

import re

# Classical Chinese prints several lines of verse on one printed line; punctuation is what ends a line of verse.
_LINE_END = re.compile(r"[，。！？；：、,.!?;:\s]+")


def verse_lines(text: str) -> list[str]:
    """Lines of verse without their punctuation: "秦川雄帝宅，函谷壮皇居。" gives two lines of five characters."""
    return [line for line in _LINE_END.split(text) if line]


def line_length(text: str) -> int | None:
    """Characters that every line of verse has, or None when the lines differ or there are fewer than two."""
    lengths = {len(line) for line in verse_lines(text)}
    return lengths.pop() if len(lengths) == 1 and len(verse_lines(text)) >= 2 else None
