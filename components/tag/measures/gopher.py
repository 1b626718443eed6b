"""Gopher's statistics of words and of repetition (Rae et al. 2021, table A1), as datatrove computes them.

Two things differ from datatrove. Words are those of `components.corpus.language_facts`: punctuation is none. And an n-gram is as long as
it stands in the text, so that where words are characters no blanks are counted between them; datatrove joins any words by
blanks, which triples the share of characters in, say, two-character words.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence

from components.tag.measures.reading import Reading

WORD_NAMES = (
    "words",
    "mean_word_length",
    "hashes_and_ellipses",
    "bullet_lines",
    "ellipsis_lines",
    "alphabetic_words",
    "stop_words",
)
REPETITION_NAMES = (
    "duplicate_lines",
    "duplicate_line_characters",
    "duplicate_paragraphs",
    "duplicate_paragraph_characters",
    "top_2gram",
    "top_3gram",
    "top_4gram",
    *(f"duplicate_{n}grams" for n in range(5, 11)),
)
_TOP = (2, 3, 4)
_DUPLICATE = (5, 6, 7, 8, 9, 10)
_LINE_ENDS = re.compile(r"\n+")
_PARAGRAPH_ENDS = re.compile(r"\n{2,}")
_BULLETS = frozenset("•-*·‣▪●■◦▶")
_ELLIPSES = ("...", "…")
_UNKNOWN = float("nan")


def word_statistics(reading: Reading) -> tuple[float, ...]:
    """The statistics of `WORD_NAMES`; `stop_words` counts different ones, and is NaN where none of the language are known."""
    text, words = reading.text, reading.words
    n = len(words)
    printed = text.splitlines()
    m = max(len(printed), 1)
    bullets = sum([line.lstrip()[:1] in _BULLETS for line in printed]) / m
    dots = text.count("...") + text.count("…")
    ellipses = sum([line.rstrip().endswith(_ELLIPSES) for line in printed]) / m if dots else 0.0
    known = reading.facts.function_words
    if not n:
        return (0.0, 0.0, 0.0, bullets, ellipses, 0.0, 0.0 if known else _UNKNOWN)
    classes = reading.classes
    if "d" in classes or "n" in classes:
        alphabetic = sum([word[0].isalpha() or any(map(str.isalpha, word)) for word in words])
    else:
        alphabetic = n
    vocabulary = set(words)
    if "u" in classes:
        vocabulary = {word.lower() for word in vocabulary}
    return (
        n,
        sum(map(len, words)) / n,
        max(text.count("#"), dots) / n,
        bullets,
        ellipses,
        alphabetic / n,
        len(vocabulary & known) if known else _UNKNOWN,
    )


def repetition_statistics(reading: Reading) -> tuple[float, ...]:
    """The statistics of `REPETITION_NAMES`. Shares that exceed 1 because n-grams overlap are 1."""
    text = reading.text
    n = len(text)
    if not n:
        return (0.0,) * len(REPETITION_NAMES)
    several = "\n\n" in text
    lines = _LINE_ENDS.split(text) if several else text.split("\n")
    paragraphs = _PARAGRAPH_ENDS.split(text.strip()) if several else [text]
    repeated, repeated_characters = _repeats(lines)
    again, again_characters = _repeats(paragraphs)
    blank = 1 if reading.facts.segmentation == "blanks" else 0
    return (
        repeated / len(lines),
        repeated_characters / n,
        again / len(paragraphs),
        again_characters / n,
        *(min(1.0, characters / n) for characters in _ngrams(reading.words, blank)),
    )


def _repeats(parts: Sequence[str]) -> tuple[int, int]:
    """How many parts repeat an earlier one, and their characters."""
    if len(parts) == 1 or len(set(parts)) == len(parts):
        return 0, 0
    seen: set[str] = set()
    count = characters = 0
    for part in parts:
        if part in seen:
            count += 1
            characters += len(part)
        else:
            seen.add(part)
    return count, characters


def _ngrams(words: Sequence[str], blank: int) -> list[int]:
    """Characters in the most frequent n-gram (2 to 4), then in n-grams that occurred before (5 to 10).

    Where no n-gram occurs twice, no longer one does: most texts are done after a look or two.
    """
    found = []
    unique = False
    for n in _TOP:
        if len(words) < n:
            found.append(0)
            continue
        unique = unique or len(set(_grams(words, n))) == len(words) - n + 1
        if unique:
            found.append(sum(map(len, words[:n])) + (n - 1) * blank)
        else:
            gram, times = Counter(_grams(words, n)).most_common(1)[0]
            found.append((sum(map(len, gram)) + (n - 1) * blank) * times)
    for n in _DUPLICATE:
        repeated = 0 if unique else _characters_said_before(words, n)
        unique = repeated == 0
        found.append(repeated)
    return found


def _grams(words: Sequence[str], n: int) -> Iterator[tuple[str, ...]]:
    return zip(*[words[i:] for i in range(n)], strict=False)


def _characters_said_before(words: Sequence[str], n: int) -> int:
    """Characters (without blanks) of n-grams that occurred before, none counted twice: after a hit the search goes on behind it."""
    if len(set(_grams(words, n))) == max(0, len(words) - n + 1):
        return 0
    grams = list(_grams(words, n))
    seen = set()
    characters = i = 0
    while i < len(grams):
        gram = grams[i]
        if gram in seen:
            characters += sum(map(len, gram))
            i += n
        else:
            seen.add(gram)
            i += 1
    return characters
