"""Which texts a page shows, and how much of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from components.report.evidence import Evidence, Row

SHOWN_CHARACTERS = 320  # of a generated or real text


def spread(items: Sequence[Any], most: int) -> list[Any]:
    """At most `most` items, evenly spaced, the first and the last among them."""
    if len(items) <= most:
        return list(items)
    if most == 1:
        return [items[0]]
    return [items[round(index * (len(items) - 1) / (most - 1))] for index in range(most)]


def cut(text: str, characters: int) -> str:
    """The beginning of a text, with a mark where it goes on."""
    return text if len(text) <= characters else text[:characters].rstrip() + " …"


def held_out(evidence: Evidence, columns: Sequence[str]) -> list[Row]:
    """Rows of the cleaned documents' held-out split; none where there are no documents."""
    from components.corpus.documents import VALIDATION, clean_schema, read_table

    if evidence.documents is None:
        return []
    rows = read_table(evidence.documents, clean_schema(), [*columns, "split"]).to_pylist()
    return [row for row in rows if row["split"] == VALIDATION]
