"""Two texts side by side, what is not common to both marked: characters where words are not divided by blanks, words elsewhere."""

from __future__ import annotations

import re
from difflib import SequenceMatcher

from components.corpus.language_facts import is_spaceless

Marked = list[tuple[str, bool]]  # pieces of a text, in order, and whether each stands in this text alone


def differences(first: str, second: str) -> tuple[Marked, Marked]:
    """Both texts in pieces. Cost grows with the product of their lengths: meant for a few hundred characters."""
    one, other = _units(first), _units(second)
    found: tuple[Marked, Marked] = ([], [])
    for kind, a, b, c, d in SequenceMatcher(None, one, other, autojunk=False).get_opcodes():
        for side, units in ((0, one[a:b]), (1, other[c:d])):
            if units:
                found[side].append(("".join(units), kind != "equal"))
    return found


def _units(text: str) -> list[str]:
    if sum(map(is_spaceless, text)) * 2 > len(text):
        return list(text)
    return re.findall(r"\w+|\s+|[^\w\s]", text)
