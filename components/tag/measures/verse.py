"""Statistics of verse and of dialogue: how regular lines are, and who speaks how long."""

from __future__ import annotations

import re
from collections import Counter
from functools import cache

from components.corpus.language_facts import Facts
from components.tag.measures.reading import Reading

VERSE_NAMES = ("regular_lines", "mean_line_length")
DIALOGUE_NAMES = ("speech_lines", "longest_turn")
_LINE_OF_VERSE = re.compile("[uHlModn]+")
_NOT_LETTERS = dict.fromkeys(map(ord, "\nePZCS"))


def verse(reading: Reading) -> tuple[float, ...]:
    """The statistics of `VERSE_NAMES`.

    Lines are the printed ones; where words are characters, punctuation divides lines of verse too, for classical Chinese
    prints two of them on a line (`components.corpus.verse`). Length is in letters, marks and digits.
    """
    classes = reading.classes
    if reading.facts.segmentation == "characters":
        # Quotation marks, brackets and the like stand within a line; blanks do not.
        for inside in "PSC":
            if inside in classes:
                classes = classes.replace(inside, "")
        lengths = [len(line) for line in _LINE_OF_VERSE.findall(classes)]
    else:
        lengths = [length for line in classes.split("\n") if (length := len(line.translate(_NOT_LETTERS)))]
    if not lengths:
        return 0.0, 0.0
    return max(Counter(lengths).values()) / len(lengths), sum(lengths) / len(lengths)


def dialogue(reading: Reading) -> tuple[float, ...]:
    """The statistics of `DIALOGUE_NAMES`.

    A turn reaches from a line that begins as speech does to the next such line. A text without any is one turn, and what
    stands before the first is none.
    """
    lines = reading.lines
    if not lines:
        return 0.0, 0.0
    begins = _speech(reading.facts).match
    turns: list[int] = []
    speech = 0
    for line in lines:
        if begins(line):
            speech += 1
            turns.append(len(line))
        elif turns:
            turns[-1] += len(line)
    return speech / len(lines), max(turns) / sum(map(len, lines)) if turns else 1.0


@cache
def _speech(facts: Facts) -> re.Pattern[str]:
    """How a line of speech begins: a dash, a quotation mark, or a name of at most 30 characters and a colon."""
    long_dashes = re.escape(facts.dashes.replace("-", ""))
    quotes = re.escape(facts.quotes)
    # A hyphen needs a blank behind it, or "-5" would speak.
    return re.compile(rf"[{long_dashes}{quotes}]|-\s|\w[\w .'’·-]{{0,29}}[:：]")
