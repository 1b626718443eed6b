"""Held-out documents that resemble a training document after all: MinHash misses some pairs, and these are looked for exactly."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from components.clean import passages
from components.clean.duplicates import drop_duplicates
from components.clean.held_out import resembling
from components.clean.verdicts import Verdicts
from components.corpus.shingles import comparison_key
from components.errors import InkwellError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from components.clean.tagged import Tagged
    from components.configuration import Clean

_HELD_OUT_AT_ONCE = 8_000_000  # characters of held-out documents that are indexed together: about 1 GiB


def drop_resembling(
    tagged: Tagged, settings: Clean, verdicts: Verdicts, train: NDArray[np.bool_], order: NDArray[np.int64]
) -> int:
    """Remove held-out documents that resemble a training document; returns how many these were.

    Duplicates of one that goes lose the document that stood for them: they come back and are looked at themselves.
    `order`: see `components.clean.duplicates.preference`.
    """
    if not settings.near_duplicates:
        return 0
    held_out = int((verdicts.kept & ~train).sum())
    if not held_out:
        return 0
    alike = _alike(tagged, settings, verdicts, train)
    candidates = verdicts.kept & ~train
    count = 0
    while True:
        goes, value = np.zeros(len(tagged), dtype=bool), np.full(len(tagged), np.nan)
        twin = np.full(len(tagged), -1, dtype=np.int64)
        for row, (trained, similarity) in alike.items():
            if candidates[row]:
                goes[row], value[row], twin[row] = True, similarity, trained
        if not goes.any():
            break
        verdicts.remove("near_duplicate", goes, value, settings.jaccard, twin)
        count += int(goes.sum())
        orphans = ~verdicts.kept & np.isin(verdicts.twin, np.flatnonzero(goes))
        verdicts.restore(orphans)
        drop_duplicates(tagged, settings, verdicts, order)
        candidates = orphans & verdicts.kept
    if not (verdicts.kept & ~train).any():
        raise InkwellError(
            f"all {count} held-out documents resemble a training document: add more different text, raise "
            "clean.validation_fraction or clean.jaccard."
        )
    return count


def _alike(
    tagged: Tagged, settings: Clean, verdicts: Verdicts, train: NDArray[np.bool_]
) -> dict[int, tuple[int, float]]:
    """Held-out documents that resemble a training document: row to the row of that one and their similarity.

    Those that went as duplicates of a held-out document are looked at as well, since they may come back.
    """
    trained = np.flatnonzero(verdicts.kept & train)
    duplicates = verdicts.removed_by("exact_duplicate", "near_duplicate")
    rows = np.flatnonzero((verdicts.kept | duplicates) & ~train)
    found = {}
    for some in _runs(rows, passages.lengths(tagged, settings)):
        resembled = resembling(
            _keys(tagged, settings, trained),
            list(_keys(tagged, settings, some)),
            tagged.summary["shingle_characters"],
            settings.jaccard,
        )
        for number, (position, similarity) in resembled.items():
            found[int(some[number])] = (int(trained[position]), similarity)
    return found


def _runs(rows: NDArray[np.int64], sizes: NDArray[np.float64]) -> Iterator[NDArray[np.int64]]:
    """`rows` in runs that hold as many characters as are indexed at once."""
    number = (np.cumsum(sizes[rows]) - sizes[rows]) // _HELD_OUT_AT_ONCE
    yield from np.split(rows, np.flatnonzero(np.diff(number)) + 1)


def _keys(tagged: Tagged, settings: Clean, rows: NDArray[np.int64]) -> Iterator[str]:
    """What documents are compared by, of some rows in their order."""
    wanted = np.zeros(len(tagged), dtype=bool)
    wanted[rows] = True
    for start, table in tagged.batches(passages.COLUMNS if settings.substrings == "cut" else ("text",)):
        chosen = table.filter(wanted[start : start + len(table)])
        yield from map(comparison_key, passages.texts(chosen, settings))
