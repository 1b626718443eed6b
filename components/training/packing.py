"""Best-fit packing: sequences of many lengths into rows of one length, cutting only what is longer than a row.

After Ding et al., "Fewer Truncations Improve Language Modeling" (arXiv 2404.10830), over a window of a shuffled
stream instead of the whole corpus, so that the order stays random.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections.abc import Iterable, Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Piece:
    """Tokens `start`..`stop` of sequence `index`."""

    index: int
    start: int
    stop: int

    @property
    def length(self) -> int:
        """Tokens in the piece."""
        return self.stop - self.start


def pack(order: Iterable[int], lengths: list[int], capacity: int, window: int = 512) -> Iterator[list[Piece]]:
    """Rows of pieces whose lengths sum to at most `capacity`; every token of every sequence is in exactly one piece.

    order: indices of sequences in the order of reading; lengths: tokens by index. A row starts with the oldest piece
    that waits and is filled with the longest that still fits, out of the `window` pieces that wait.
    """
    waiting: dict[int, list[Piece]] = {}  # by length, oldest last
    sizes: list[int] = []  # keys of `waiting`, ascending
    oldest: list[Piece] = []  # order of arrival, oldest first; entries taken meanwhile stay until they surface
    taken: set[Piece] = set()
    count = 0

    def put(piece: Piece) -> None:
        nonlocal count
        if piece.length not in waiting:
            waiting[piece.length] = []
            insort(sizes, piece.length)
        waiting[piece.length].insert(0, piece)
        oldest.append(piece)
        count += 1

    def take(size: int, piece: Piece | None = None) -> Piece:
        nonlocal count
        same = waiting[size]
        if piece is None:
            piece = same.pop()
        else:
            same.remove(piece)
        if not same:
            del waiting[size]
            sizes.remove(size)
        taken.add(piece)
        count -= 1
        return piece

    def row() -> list[Piece]:
        while oldest[0] in taken:
            taken.discard(oldest.pop(0))
        first = oldest.pop(0)
        take(first.length, first)
        taken.discard(first)
        pieces, room = [first], capacity - first.length
        while room and (fitting := bisect_right(sizes, room)):
            pieces.append(take(sizes[fitting - 1]))
            room -= pieces[-1].length
        return pieces

    for index in order:
        for start in range(0, lengths[index], capacity):
            put(Piece(index, start, min(start + capacity, lengths[index])))
        while count > window:
            yield row()
    while count:
        yield row()
