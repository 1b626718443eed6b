"""The order in which a model sees its data: a pure function of (seed, epoch, fingerprint of the data).

Nothing is remembered but a position, so a resumed run goes on with exactly the rows that an uninterrupted one would
have seen, whatever happened in between. After OLMo-core's data loader, which orders by the same three.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from components.training.packing import pack

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

IGNORED = -100  # target of a position whose prediction does not count


class Sequences(Protocol):
    """What a loader reads: token sequences with the positions that count, and an identity."""

    fingerprint: str

    def __len__(self) -> int: ...

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of every sequence, shape [D]."""
        ...

    def tokens(self, index: int) -> NDArray[np.int64]:
        """Token ids of one sequence, shape [length]."""
        ...

    def counted(self, index: int) -> NDArray[np.bool_] | None:
        """Which tokens are to be predicted, shape [length]; None: all but the first."""
        ...


class PackedLoader:
    """Batches for a whole run: `steps` times (inputs, targets, sequence numbers), each of shape [A, B, T], int64.

    A: accumulation, B: rows a forward pass, T: tokens a row. Targets are shifted by one; padding, the first token of
    every sequence and what `counted` leaves out are IGNORED. The numbers count a row's sequences from 0 (padding has a
    number of its own), so that attention can stay inside each. Lightning saves and restores `state_dict`.
    """

    def __init__(
        self, data: Sequences, *, steps: int, accumulation: int, micro_batch: int, block: int, seed: int
    ) -> None:
        self.data, self.steps, self.seed, self.block = data, steps, seed, block
        self.shape = (accumulation, micro_batch, block)
        self.position = 0  # steps already given out

    def __len__(self) -> int:
        return self.steps

    def state_dict(self) -> dict[str, Any]:
        """Position, and what it is a position in."""
        return {"position": self.position, "fingerprint": self.data.fingerprint, "shape": self.shape}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a saved position."""
        assert state["fingerprint"] == self.data.fingerprint, "checkpoint of other data"
        assert tuple(state["shape"]) == self.shape, "checkpoint of another batch shape"
        self.position = state["position"]

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
        import numpy as np
        import torch

        rows = self._rows()
        accumulation, micro_batch, block = self.shape
        size = accumulation * micro_batch
        skip = self.position * size
        for _ in range(skip):
            next(rows)
        while self.position < self.steps:
            inputs = np.zeros((size, block), dtype=np.int64)
            targets = np.full((size, block), IGNORED, dtype=np.int64)
            numbers = np.zeros((size, block), dtype=np.int64)
            for row in range(size):
                self._fill(next(rows), inputs[row], targets[row], numbers[row])
            self.position += 1
            yield (
                torch.from_numpy(inputs).view(self.shape),
                torch.from_numpy(targets).view(self.shape),
                torch.from_numpy(numbers).view(self.shape),
            )
        # a further pass over a finished run has nothing left to give
        self.position = self.steps

    def _rows(self) -> Iterator[Sequence[Any]]:
        lengths = self.data.lengths.tolist()
        epoch = 0
        while True:
            yield from pack(epoch_order(self.seed, epoch, self.data.fingerprint, len(self.data)), lengths, self.block)
            epoch += 1

    def _fill(
        self,
        pieces: Sequence[Any],
        inputs: NDArray[np.int64],
        targets: NDArray[np.int64],
        numbers: NDArray[np.int64],
    ) -> None:
        import numpy as np

        at = 0
        numbers[:] = len(pieces)
        for number, piece in enumerate(pieces):
            numbers[at : at + piece.length] = number
            tokens = self.data.tokens(piece.index)
            inputs[at : at + piece.length] = tokens[piece.start : piece.stop]
            # one further than the inputs: a sequence that was cut loses no prediction at the cut
            wanted = tokens[piece.start + 1 : piece.stop + 1]
            counted = self.data.counted(piece.index)
            if counted is not None:
                wanted = np.where(counted[piece.start + 1 : piece.stop + 1], wanted, IGNORED)
            targets[at : at + len(wanted)] = wanted
            at += piece.length


def epoch_order(seed: int, epoch: int, fingerprint: str, count: int) -> list[int]:
    """A permutation of `count` sequences, a new one every epoch."""
    import numpy as np

    digest = hashlib.sha256(f"{seed}:{epoch}:{fingerprint}".encode()).digest()
    order: list[int] = np.random.default_rng(int.from_bytes(digest[:16], "little")).permutation(count).tolist()
    return order
