"""Cutting text where a reader would: at line ends, else after sentences, else between words, else anywhere."""

from __future__ import annotations

import re

# What may follow a sentence before the next begins; Han text has no spaces there, others do.
_SENTENCE = re.compile(r".*?(?:[。！？；…]+[”’」』）]*|[.!?;]+[\"»”’)]*(?=\s|$)|$)\s*", re.DOTALL)
_CLAUSE = re.compile(r".*?(?:[，、：,:]+\s*|\s+|$)", re.DOTALL)


def units(text: str, limit: int) -> list[str]:
    """Pieces of at most `limit` characters, each as long as a line where lines are short; joined they are `text`."""
    pieces = []
    for line in text.splitlines(keepends=True):
        pieces += [line] if len(line) <= limit else _split(line, limit)
    return pieces


def _split(line: str, limit: int) -> list[str]:
    pieces = []
    for sentence in filter(None, _SENTENCE.findall(line)):
        clauses = [sentence] if len(sentence) <= limit else _gather(_CLAUSE.findall(sentence), limit)
        for clause in clauses:
            pieces += [clause[start : start + limit] for start in range(0, len(clause), limit)]
    return pieces


def _gather(clauses: list[str], limit: int) -> list[str]:
    gathered = [""]
    for clause in filter(None, clauses):
        if gathered[-1] and len(gathered[-1]) + len(clause) > limit:
            gathered.append("")
        gathered[-1] += clause
    return gathered


def head(text: str, limit: int) -> str:
    """The beginning of a text, of at most `limit` characters, cut at a line end where there is one."""
    taken = ""
    for unit in units(text.strip(), limit):
        if len((taken + unit).rstrip()) > limit:
            break
        taken += unit
    return taken.strip()


def parts(text: str, limit: int) -> list[str]:
    """Units of a text of which some are shown and others asked for: lines, or the two halves of a single line."""
    text = text.strip()
    pieces = units(text, limit)
    if len(pieces) == 1 and len(text) >= 2:
        sentences = [piece for piece in _SENTENCE.findall(text) if piece]
        clauses = sentences if len(sentences) > 1 else [piece for piece in _CLAUSE.findall(text) if piece]
        if len(clauses) > 1:
            middle = len(clauses) // 2
            return ["".join(clauses[:middle]), "".join(clauses[middle:])]
        return [text[: len(text) // 2], text[len(text) // 2 :]]
    return pieces
