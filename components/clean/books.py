"""What is counted while documents are written: the figures of the step and what the report draws."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from components.corpus.documents import TRAIN, VALIDATION
from components.corpus.shingles import code_points
from components.corpus.statistics import LENGTH_EDGES

if TYPE_CHECKING:
    from numpy.typing import NDArray

EXAMPLES = 3  # of a rule
_MOST = 20  # names in a list of the commonest
_EDGES = np.array(LENGTH_EDGES)


@dataclass
class Books:
    """`counted`: contents that the n-gram model reads, `held_out`: that it predicts; of each split every so many-th document."""

    every: dict[str, int]
    counted: list[str] = field(default_factory=list)
    held_out: list[str] = field(default_factory=list)
    documents: Counter[str] = field(default_factory=Counter)
    characters: Counter[str] = field(default_factory=Counter)
    lengths: dict[str, NDArray[np.int64]] = field(
        default_factory=lambda: {split: np.zeros(len(_EDGES), np.int64) for split in (TRAIN, VALIDATION)}
    )
    authors: Counter[str] = field(default_factory=Counter)
    distinct: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0x110000, np.int64))  # by code point
    with_title: int = 0
    with_author: int = 0
    examples: dict[str, list[dict[str, Any]]] = field(default_factory=dict)

    def keep(
        self, contents: Sequence[str], train: NDArray[np.bool_], titles: list[str | None], authors: list[str | None]
    ) -> None:
        """Count a batch of kept documents; `train`: which of them are trained on."""
        sizes = np.fromiter(map(len, contents), np.int64, len(contents))
        for split, chosen, read in ((TRAIN, train, self.counted), (VALIDATION, ~train, self.held_out)):
            places = np.flatnonzero(chosen)
            read += [
                contents[place] for place in places[-self.documents[split] % self.every[split] :: self.every[split]]
            ]
            self.documents[split] += len(places)
            bins = np.searchsorted(_EDGES, sizes[chosen], side="right") - 1
            self.lengths[split] += np.bincount(bins, minlength=len(_EDGES))
            self.characters[split] += int(sizes[chosen].sum())
        counts = np.bincount(code_points(contents)[0])
        self.distinct[: len(counts)] += counts
        self.authors.update(filter(None, authors))
        self.with_title += len(titles) - titles.count(None)
        self.with_author += len(authors) - authors.count(None)

    def figures(self) -> dict[str, float]:
        """Flat numbers for the metrics."""
        return {
            "characters": self.characters.total(),
            "train_documents": self.documents[TRAIN],
            "train_characters": self.characters[TRAIN],
            "validation_documents": self.documents[VALIDATION],
            "validation_characters": self.characters[VALIDATION],
        }

    def summary(self) -> dict[str, Any]:
        """What the report draws. Histograms are lists of [lowest value of the bin, count]."""
        points = np.flatnonzero(self.distinct)
        commonest = points[np.lexsort((points, -self.distinct[points]))][:_MOST]
        return {
            "examples": self.examples,
            "length_histogram": {split: _histogram(bins) for split, bins in self.lengths.items()},
            "authors": {"distinct": len(self.authors), "most": _most(self.authors)},
            "characters": {
                "distinct": len(points),
                "most": [[chr(point), int(self.distinct[point])] for point in commonest],
            },
            "with_title": self.with_title,
            "with_author": self.with_author,
        }


def _most(counts: Counter[str]) -> list[list[Any]]:
    return [[name, count] for name, count in sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:_MOST]]


def _histogram(bins: NDArray[np.int64]) -> list[list[int]]:
    filled = np.flatnonzero(bins)
    return [[int(_EDGES[at]), int(bins[at])] for at in range(filled[0], filled[-1] + 1)] if len(filled) else []
