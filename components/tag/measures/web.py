"""Statistics of web pages: what C4 (Raffel et al. 2020) and FineWeb (Penedo et al. 2024) look at."""

from __future__ import annotations

import re
import unicodedata
from functools import cache

from components.corpus.language_facts import Facts
from components.tag.measures.reading import Reading

NAMES = ("punctuated_lines", "short_lines", "newlines_per_word", "sentences", "braces", "placeholder_text")
_SHORT = {"blanks": 30, "characters": 10}
_PLACEHOLDER = re.compile("lorem ipsum", re.IGNORECASE)
# These end a sentence even where no blank follows them.
_CLEAR_ENDS = "。！？।॥｡"


def web(reading: Reading) -> tuple[float, ...]:
    """The statistics of `NAMES`.

    A sentence ends with punctuation that a blank or a line end follows (ideographic and Indic stops need none), or with its
    line; abbreviations count as ends, so the number is a rough one, as C4's bound of five needs it.
    """
    text, lines, facts = reading.text, reading.lines, reading.facts
    if not lines:
        return (0.0,) * len(NAMES)
    n = len(lines)
    limit = _SHORT[facts.segmentation]
    pattern, ends, marks, closing = _sentences(facts)
    last = [line[-1] for line in lines]
    finished = sum(
        [
            c in marks or (c in closing and line.rstrip(closing)[-1:] in marks)
            for c, line in zip(last, lines, strict=True)
        ]
    )
    return (
        sum([c in ends for c in last]) / n,
        sum([len(line) <= limit for line in lines]) / n,
        text.count("\n") / max(len(reading.words), 1),
        len(pattern.findall(text)) + n - finished,
        text.count("{") + text.count("}"),
        len(_PLACEHOLDER.findall(text)) if "psum" in text or "PSUM" in text else 0,
    )


@cache
def _sentences(facts: Facts) -> tuple[re.Pattern[str], frozenset[str], frozenset[str], str]:
    """What ends a sentence: a pattern; all that may stand last; the marks; quotation marks that may close behind them."""
    ends = frozenset(facts.terminal_punctuation)
    closing = "".join(
        c for c in facts.terminal_punctuation if c in "\"'" or unicodedata.category(c) in ("Pi", "Pf", "Pe")
    )
    marks = "".join(c for c in facts.terminal_punctuation if c not in closing)
    if not marks:
        return re.compile(r"(?!)"), ends, frozenset(), closing
    one = f"[{re.escape(marks)}]"
    clear = "".join(mark for mark in marks if mark in _CLEAR_ENDS)
    behind = f"|(?<=[{re.escape(clear)}])" if clear else ""
    quotes = f"[{re.escape(closing)}]*+" if closing else ""
    # Looking back forbids to begin inside a run of marks, so that a million of dots is read once, not once for each dot.
    pattern = re.compile(rf"{one}(?<!{one}{one})(?:{one}*+{quotes}(?:(?=\s)|\Z){behind})")
    return pattern, ends, frozenset(marks), closing
