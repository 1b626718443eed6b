"""Best-fit packing: sequences of many lengths into rows of one length, cutting only what is longer than a row.

After Ding et al., "Fewer Truncations Improve Language Modeling" (arXiv 2404.10830), over a window of a shuffled
stream instead of the whole corpus, so that the order stays random.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple


class Piece(NamedTuple):
    """Tokens `start`..`stop` of sequence `source`."""

    source: int
    start: int
    stop: int

    @property
    def length(self) -> int:
        """Tokens in the piece."""
        return self.stop - self.start


class Packer:
    """Rows of pieces whose lengths sum to at most `capacity`; every token of every sequence is in exactly one piece.

    order: indices of sequences in the order of reading; lengths: tokens by index. A row starts with the oldest piece
    that waits and is filled with the longest that still fits, out of the `window` pieces that wait. What waits is all
    that a packer remembers, so it can be taken up between any two rows (`state`) without packing again what went before.
    """

    def __init__(self, order: Sequence[int], lengths: Sequence[int], capacity: int, window: int = 512) -> None:
        self._order, self._lengths, self._capacity, self._window = order, lengths, capacity, window
        self._read = 0  # sequences of `order` that were cut into pieces
        self._by_length: dict[int, deque[Piece]] = {}  # oldest first
        self._sizes: list[int] = []  # keys of `_by_length`, ascending
        self._arrived: deque[Piece] = deque()  # oldest first; pieces taken meanwhile stay until they surface
        self._taken: set[Piece] = set()
        self._waiting = 0

    def state(self) -> dict[str, Any]:
        """How far the order was read, and the pieces that wait, oldest first."""
        return {"read": self._read, "waiting": [tuple(piece) for piece in self._arrived if piece not in self._taken]}

    def restore(self, state: dict[str, Any]) -> None:
        """Take up the state of a packer over the same order, lengths and capacity."""
        assert not self._read, "restored after it had begun"
        self._read = state["read"]
        for piece in state["waiting"]:
            self._put(Piece(*piece))

    def __iter__(self) -> Iterator[list[Piece]]:
        while True:
            while self._waiting > self._window:
                yield self._row()
            if self._read == len(self._order):
                break
            index = self._order[self._read]
            for start in range(0, self._lengths[index], self._capacity):
                self._put(Piece(index, start, min(start + self._capacity, self._lengths[index])))
            self._read += 1
        while self._waiting:
            yield self._row()

    def _put(self, piece: Piece) -> None:
        same = self._by_length.get(piece.length)
        if same is None:
            same = self._by_length[piece.length] = deque()
            insort(self._sizes, piece.length)
        same.append(piece)
        self._arrived.append(piece)
        self._waiting += 1

    def _take(self, size: int) -> Piece:
        """The oldest piece of that length."""
        same = self._by_length[size]
        piece = same.popleft()
        if not same:
            del self._by_length[size]
            self._sizes.remove(size)
        self._taken.add(piece)
        self._waiting -= 1
        return piece

    def _row(self) -> list[Piece]:
        while self._arrived[0] in self._taken:
            self._taken.discard(self._arrived.popleft())
        pieces = [self._take(self._arrived[0].length)]  # the oldest of all is the oldest of its length
        room = self._capacity - pieces[0].length
        while room and (fitting := bisect_right(self._sizes, room)):
            pieces.append(self._take(self._sizes[fitting - 1]))
            room -= pieces[-1].length
        return pieces


def pack(order: Iterable[int], lengths: Sequence[int], capacity: int, window: int = 512) -> Iterator[list[Piece]]:
    """All rows of one pass over `order`; see `Packer`."""
    return iter(Packer(list(order), lengths, capacity, window))
