"""Whether a generated poem has the form that was asked for."""

from __future__ import annotations

from dataclasses import dataclass

from components.corpus.verse import verse_lines

FORM_NAMES = {4: "four", 5: "five", 6: "six", 7: "seven"}
_BROKEN = "\ufffd"  # what half a character spelled in bytes decodes to


def form_metric(form: int) -> str:
    """Name of the score for poems of `form` characters a line: "five_char_lines"."""
    return f"{FORM_NAMES.get(form, form)}_char_lines"


@dataclass(frozen=True)
class Verdict:
    """`even`: at least two lines, all of the asked length (of one length where none was asked), no broken character,
    ended by itself. `counted`: ended by itself with the asked number of lines (true where none was asked).
    """

    lengths: tuple[int, ...]
    even: bool
    counted: bool


def judge(text: str, finished: bool, form: int | None, lines: int | None) -> Verdict:
    """Judge one text. `finished` is false where the token limit cut it: then nothing counts as right."""
    lengths = tuple(len(line) for line in verse_lines(text))
    right = {form} if form is not None else set(lengths[:1])
    whole = finished and _BROKEN not in text
    return Verdict(
        lengths,
        even=whole and len(lengths) >= 2 and set(lengths) == right,
        counted=whole and (lines is None or len(lengths) == lines),
    )
