"""No held-out document resembles one that is trained on: looked for exactly, not by chance.

MinHash misses some pairs near its threshold, and a missed pair may lie on both sides of the split. The held-out side is
small, so here every such pair is found: by prefix filtering (Chaudhuri et al. 2006; Xiao et al. 2008, "Efficient similarity
joins for near duplicate detection"), two sets of Jaccard similarity t or more must share one of their rarest
`|S| - ceil(t |S|) + 1` members, under any one order of members. Here members are ordered by how many held-out documents
have them; one that none has comes first and leads nowhere.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from components.corpus.shingles import firsts, ragged, sets_of, similarities, starts_of

if TYPE_CHECKING:
    from components.corpus.shingles import Hashes, Ints

_READ_AT_ONCE = 1_000_000  # characters of training keys: bounds memory to about 100 MiB beside the held-out side
_SLOTS_A_GRAM = 16  # of the table that tells most absent n-grams from present ones
_LOW = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)


def resembling(
    train: Iterable[str], held_out: Sequence[str], length: int, threshold: float
) -> dict[int, tuple[int, float]]:
    """For each held-out key that resembles a training key: the most similar of these (the first of equals) and how similar.

    Keys are `components.corpus.shingles.comparison_key`s, compared by the Jaccard similarity of their n-grams of `length` characters.
    Numbers are positions in what is given. Training keys are read once, in order, a million characters at a time; memory
    grows with the held-out side: about 100 bytes a character.
    """
    index = _Index(*sets_of(held_out, length), threshold)
    found: dict[int, tuple[int, float]] = {}
    for start, keys in _batches(train):
        sets = sets_of(keys, length)
        positions, numbers = index.candidates(*sets)
        similarity = similarities(sets, (index.sets, index.offsets), (positions, numbers), threshold)
        near = np.flatnonzero(similarity >= threshold)
        for at in near[np.argsort(positions[near], kind="stable")].tolist():
            if similarity[at] > found.get(int(numbers[at]), (0, 0.0))[1]:
                found[int(numbers[at])] = (start + int(positions[at]), float(similarity[at]))
    return found


def _batches(keys: Iterable[str]) -> Iterator[tuple[int, list[str]]]:
    """Lists of keys with the position of the first."""
    start, batch, characters = 0, list[str](), 0
    for key in keys:
        batch.append(key)
        characters += len(key)
        if characters >= _READ_AT_ONCE:
            yield start, batch
            start, batch, characters = start + len(batch), [], 0
    if batch:
        yield start, batch


class _Index:
    """Held-out sets, and for each n-gram the sets that have it among their rarest.

    `_ranks` are in the order of `_grams` (rising hashes): 0 for the n-gram that the fewest held-out documents have.
    """

    def __init__(self, sets: Hashes, offsets: Ints, threshold: float) -> None:
        self.sets, self.offsets, self._threshold = sets, offsets, threshold
        ascending = np.sort(sets)
        fresh = firsts(ascending)
        self._grams = ascending[fresh]
        frequency = np.diff(np.append(np.flatnonzero(fresh), len(ascending)))
        self._ranks = np.empty(len(self._grams), dtype=np.uint64)
        self._ranks[np.lexsort((self._grams, frequency))] = np.arange(len(self._grams), dtype=np.uint64)
        bits = max(8, int(_SLOTS_A_GRAM * len(self._grams)).bit_length())
        self._shift = np.uint64(63 - bits)  # of a hash of 63 bits the topmost
        self._present = np.zeros(2**bits, dtype=bool)
        self._present[self._grams >> self._shift] = True
        owner = np.repeat(np.arange(len(offsets) - 1, dtype=np.int64), np.diff(offsets))
        ranks, owner = self._rarest(self._ranks[np.searchsorted(self._grams, sets)], owner, np.diff(offsets))
        order = np.argsort(ranks, kind="stable")
        self._holders = owner[order]
        self._held = starts_of(np.bincount(ranks.astype(np.int64), minlength=len(self._grams)))

    def _rarest(self, ranks: Hashes, owner: Ints, sizes: Ints) -> tuple[Hashes, Ints]:
        """Of the members of sets, given by rank and owner (only those that a held-out set has), those of the prefixes.

        `sizes` are of the whole sets.
        """
        packed = owner.astype(np.uint64) << _HALF
        packed |= ranks
        packed.sort()
        owner = (packed >> _HALF).astype(np.int64)
        known = np.bincount(owner, minlength=len(sizes))
        needed = np.ceil(self._threshold * sizes - 1e-9).astype(np.int64)
        prefix = sizes - needed + 1 - (sizes - known)  # what nobody has is rarer still and fills the prefix first
        place = np.arange(len(packed)) - starts_of(known)[owner]
        chosen = place < prefix[owner]
        return packed[chosen] & _LOW, owner[chosen]

    def candidates(self, hashes: Hashes, offsets: Ints) -> tuple[Ints, Ints]:
        """Pairs (position of a set given, number of a held-out set) that may be similar enough, each once."""
        owner = np.repeat(np.arange(len(offsets) - 1, dtype=np.int64), np.diff(offsets))
        likely = np.flatnonzero(self._present[hashes >> self._shift])
        places = np.searchsorted(self._grams, hashes[likely])
        places[places == len(self._grams)] = 0
        there = self._grams[places] == hashes[likely] if len(self._grams) else np.zeros(0, dtype=bool)
        ranks, owner = self._rarest(self._ranks[places[there]], owner[likely[there]], np.diff(offsets))
        rows = ranks.astype(np.int64)
        counts = np.diff(self._held)[rows]
        holders = self._holders[ragged(self._held[rows], counts)]
        packed = np.repeat(owner, counts).astype(np.uint64) << _HALF
        packed |= holders.astype(np.uint64)
        packed.sort()
        packed = packed[firsts(packed)]
        return (packed >> _HALF).astype(np.int64), (packed & _LOW).astype(np.int64)
