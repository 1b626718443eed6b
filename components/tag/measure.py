"""Statistics of texts: what `components.corpus.statistics` names, computed family by family.

Everything is linear in the length of a text. One of more than half a million characters is measured in pieces of that length, cut
at line ends where there are any, so that memory stays bounded whatever comes: counts add up, the longest stands, shares
and means are averaged by length. What repeats from one piece to the next is then not seen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from components.corpus.language_facts import Facts, facts
from components.tag.measures import gopher, shape, verse, web
from components.tag.measures.reading import Reading

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from components.configuration.tag import Family

# Family to the names of its statistics and the function that measures them.
FAMILIES: dict[Family, tuple[Sequence[str], Callable[[Reading], tuple[float, ...]]]] = {
    "shape": (shape.NAMES, shape.shape),
    "words": (gopher.WORD_NAMES, gopher.word_statistics),
    "repetition": (gopher.REPETITION_NAMES, gopher.repetition_statistics),
    "web": (web.NAMES, web.web),
    "verse": (verse.VERSE_NAMES, verse.verse),
    "dialogue": (verse.DIALOGUE_NAMES, verse.dialogue),
}
_OF_WORDS = frozenset({"words", "repetition", "web"})
_ADDED = frozenset({"characters", "words", "sentences", "braces", "placeholder_text"})
_LARGEST = frozenset({"stop_words"})
PIECE = 500_000  # characters


def measure(
    texts: Sequence[str], languages: Sequence[str], families: Sequence[Family]
) -> dict[str, NDArray[np.float64]]:
    """The statistics of those families for N texts in their languages: name to float64 of shape (N,).

    NaN where nothing could be measured (stop words of a language of which none are known); zero throughout for an empty text.
    """
    chosen = [FAMILIES[family] for family in FAMILIES if family in families]
    names = [name for family_names, _ in chosen for name in family_names]
    functions = [function for _, function in chosen]
    with_words = not _OF_WORDS.isdisjoint(families)
    rows = []
    for text, language in zip(texts, languages, strict=True):
        known = facts(language)
        if len(text) <= PIECE:
            rows.append(_numbers(text, known, functions, with_words))
        else:
            rows.append(_in_pieces(text, known, functions, with_words, names))
    table = np.array(rows, dtype=np.float64).reshape(len(texts), len(names))
    return {name: table[:, column].copy() for column, name in enumerate(names)}


def _numbers(
    text: str, known: Facts, functions: Sequence[Callable[[Reading], tuple[float, ...]]], with_words: bool
) -> list[float]:
    reading = Reading(text, known, with_words)
    found: list[float] = []
    for function in functions:
        found += function(reading)
    return found


def _in_pieces(
    text: str,
    known: Facts,
    functions: Sequence[Callable[[Reading], tuple[float, ...]]],
    with_words: bool,
    names: Sequence[str],
) -> list[float]:
    parts = list(pieces(text, PIECE))
    weights = np.array([len(part) for part in parts]) / len(text)
    table = np.array([_numbers(part, known, functions, with_words) for part in parts])
    together = weights @ table
    lines, longest_line = _lines(text)
    for column, name in enumerate(names):
        if name == "lines":
            together[column] = lines
        elif name == "longest_line":
            together[column] = longest_line
        elif name == "longest_run":  # it may go on from one piece to the next
            together[column] = shape.longest_run(text)
        elif name in _ADDED:
            together[column] = table[:, column].sum()
        elif name in _LARGEST:
            together[column] = table[:, column].max()
    numbers: list[float] = together.tolist()
    return numbers


def _lines(text: str) -> tuple[int, int]:
    """How many lines are not blank, and the longest; one line at a time in memory."""
    count = longest = start = 0
    while start <= len(text):
        end = text.find("\n", start)
        end = len(text) if end < 0 else end
        if length := len(text[start:end].strip()):
            count += 1
            longest = max(longest, length)
        start = end + 1
    return count, longest


def pieces(text: str, size: int) -> Iterator[str]:
    """`text` in parts of at most `size` characters: behind the last line end in the second half of a part, else anywhere."""
    start = 0
    while start < len(text):
        end = min(start + size, len(text))
        if end < len(text):
            line_end = text.rfind("\n", start + size // 2, end)
            end = line_end + 1 if line_end >= 0 else end
        yield text[start:end]
        start = end
