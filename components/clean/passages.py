"""Passages that an earlier document holds: taken out where `clean.substrings` says so, and the document with them if little is left."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from components.chat.markup import escape
from components.clean.verdicts import Verdicts
from components.corpus.shingles import comparison_key
from components.errors import InkwellError

if TYPE_CHECKING:
    import pyarrow as pa
    from numpy.typing import NDArray

    from components.clean.tagged import Tagged
    from components.configuration import Clean
    from components.corpus.policy import Policy

COLUMNS = ("text", "repeated_spans")  # of the tables that `texts` reads


def texts(table: pa.Table, settings: Clean) -> list[str]:
    """The texts of a tagged table as they are trained on."""
    found: list[str] = table["text"].to_pylist()
    if settings.substrings == "keep":
        return found
    spans = table["repeated_spans"].to_pylist()
    return [_cut(text, passages) if passages else text for text, passages in zip(found, spans, strict=True)]


def lengths(tagged: Tagged, settings: Clean) -> NDArray[np.float64]:
    """Characters of each document's text as it is trained on."""
    characters = tagged.statistic("characters")
    if settings.substrings == "cut":
        return characters * (1 - np.nan_to_num(tagged.statistic("substrings")))
    return characters


def drop_repeated(tagged: Tagged, settings: Clean, policy: Policy, verdicts: Verdicts) -> None:
    """Remove documents of which too little is left by the policy's bound on `characters`, or no letter and no digit.

    InkwellError when passages are to be cut that nobody looked for.
    """
    if settings.substrings == "keep":
        return
    if "substrings" not in tagged.measured():
        raise InkwellError(
            "clean.substrings = cut: repeated passages were not looked for; set tag.duplicates.substring_characters, or clean.substrings to keep."
        )
    share = tagged.statistic("substrings")
    goes = share >= 1.0
    fewest = {language: _fewest(policy, language) for language in tagged.language.names}
    for start, table in tagged.batches(COLUMNS):
        rows = np.flatnonzero((share[start : start + len(table)] > 0) & verdicts.kept[start : start + len(table)])
        for row, text in zip(rows.tolist(), texts(table.take(rows), settings), strict=True):
            if len(text) < fewest[tagged.language[start + row]] or not comparison_key(text):
                goes[start + row] = True
    verdicts.remove("repeated_elsewhere", goes, share)


def _fewest(policy: Policy, language: str) -> float:
    rules = policy.for_language(language).values()
    return max((rule.minimum or 0 for rule in rules if rule.statistic == "characters"), default=0)


def _cut(text: str, spans: Sequence[dict[str, int]]) -> str:
    for span in reversed(spans):
        text = text[: span["start"]] + text[span["end"] :]
    # Escaped once more: what was cut may have stood between two harmless halves of a marker.
    return escape(text.strip("\n"))
