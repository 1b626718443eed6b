"""The order in which a model sees its data: a pure function of (seed, epoch, fingerprint of the data).

Nothing is remembered but a position, counted in rows, so a resumed run goes on with exactly the rows that an
uninterrupted one would have seen, whatever happened in between. After OLMo-core's data loader, which orders by the same
three.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from components.training.packing import Packer, Piece

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

    def tokens(self, index: int) -> NDArray[np.integer[Any]]:
        """Token ids of one sequence, shape [length], in any type of integers.

        A row often takes but a piece of it: better a view, of a mapped file say, than a copy of the whole.
        """
        ...

    def counted(self, index: int) -> NDArray[np.bool_] | None:
        """Which tokens are to be predicted, shape [length]; None: all but the first."""
        ...


class StepRows(NamedTuple):
    """Which rows an optimizer step is made of: the first, and how many over all processes."""

    start: int
    rows: int


class PackedLoader:
    """Batches for a whole run, each one optimizer step: (inputs, targets, sequence numbers) of shape [A, B, T], int64.

    A: forward passes, B: rows a forward pass, T: tokens a row. Targets are shifted by one; padding, the first token of
    every sequence and what `counted` leaves out are IGNORED. The numbers count a row's sequences from 0 (padding has a
    number of its own), so that attention can stay inside each.

    The run is `total_rows` = steps x accumulation x micro_batch rows long and its position is counted in rows, so that
    a changed batch or number of processes goes on with the right documents. While the first `ramp` (a share) of the rows
    lasts, a step grows from one forward pass to `accumulation`; the rows are the same, the steps are more. Process
    `rank` of `world` gets every `world`-th row of a step; where the rows do not come out even, rows of padding fill up,
    for all batches have B rows and all processes equally many forward passes.
    """

    def __init__(
        self,
        data: Sequences,
        *,
        steps: int,
        accumulation: int,
        micro_batch: int,
        block: int,
        seed: int,
        ramp: float = 0.0,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self.data, self.seed, self.block, self.ramp = data, seed, block, ramp
        self.accumulation, self.micro_batch = accumulation, micro_batch
        self.rank, self.world = rank, world
        self.total_rows = steps * accumulation * micro_batch
        self.rows = 0  # given out so far, over all processes
        self.given = 0  # batches given out so far
        self.last = StepRows(0, 0)
        self.epoch = 0  # passes over the data that are complete
        self.before_reading: Callable[[], None] = lambda: None  # called before each batch is put together
        self._packer = self._pack(0)

    @property
    def rows_a_pass(self) -> int:
        """B: rows that a process sends through the model at once."""
        return min(self.micro_batch, -(-self.micro_batch * self.accumulation // self.world))

    def __len__(self) -> int:
        """Batches of the whole run: those given out and those that are left."""
        rows, left = self.rows, 0
        while rows < self.total_rows and rows < self.ramp * self.total_rows:
            rows += self._step_rows(rows)
            left += 1
        whole = self.accumulation * self.micro_batch
        return self.given + left + -(-(self.total_rows - rows) // whole)

    def state_dict(self) -> dict[str, Any]:
        """Position, and what it is a position in. The same for every process."""
        return {
            "rows": self.rows,
            "given": self.given,
            "total_rows": self.total_rows,
            "epoch": self.epoch,
            "packer": self._packer.state(),
            "of": (self.data.fingerprint, self.seed, self.block),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a saved position; the length of the run is that of the run which was saved."""
        assert tuple(state["of"]) == (self.data.fingerprint, self.seed, self.block), "a position in other data"
        self.rows, self.given, self.total_rows = state["rows"], state["given"], state["total_rows"]
        self.epoch = state["epoch"]
        self._packer = self._pack(self.epoch)
        self._packer.restore(state["packer"])

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
        rows = self._rows()
        while self.rows < self.total_rows:
            self.before_reading()
            count = self._step_rows(self.rows)
            mine = [row for index, row in enumerate(islice(rows, count)) if index % self.world == self.rank]
            self.last = StepRows(self.rows, count)
            self.rows += count
            self.given += 1
            yield self._batch(mine, -(-count // self.world))

    def _step_rows(self, rows: int) -> int:
        """Rows of the step that begins behind `rows`, over all processes."""
        passes, ramp = self.accumulation, self.ramp * self.total_rows
        if rows < ramp:
            passes = 1 + int((self.accumulation - 1) * rows / ramp)
        return min(passes * self.micro_batch, self.total_rows - rows)

    def _pack(self, epoch: int) -> Packer:
        order = epoch_order(self.seed, epoch, self.data.fingerprint, len(self.data))
        return Packer(order, self.data.lengths.tolist(), self.block)

    def _rows(self) -> Iterator[list[Piece]]:
        while True:
            yield from self._packer
            self.epoch += 1
            self._packer = self._pack(self.epoch)

    def _batch(self, rows: list[list[Piece]], needed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """A batch with room for `needed` rows, as many as the process with most of them has."""
        import numpy as np
        import torch

        shape = (-(-needed // self.rows_a_pass), self.rows_a_pass, self.block)
        size = (shape[0] * shape[1], self.block)
        inputs = np.zeros(size, dtype=np.int64)
        targets = np.full(size, IGNORED, dtype=np.int64)
        numbers = np.zeros(size, dtype=np.int64)
        for index, pieces in enumerate(rows):
            self._fill(pieces, inputs[index], targets[index], numbers[index])
        return (
            torch.from_numpy(inputs).view(shape),
            torch.from_numpy(targets).view(shape),
            torch.from_numpy(numbers).view(shape),
        )

    def _fill(
        self,
        pieces: list[Piece],
        inputs: NDArray[np.int64],
        targets: NDArray[np.int64],
        numbers: NDArray[np.int64],
    ) -> None:
        import numpy as np

        at = 0
        numbers[:] = len(pieces)
        for number, piece in enumerate(pieces):
            numbers[at : at + piece.length] = number
            tokens = self.data.tokens(piece.source)
            inputs[at : at + piece.length] = tokens[piece.start : piece.stop]
            # one further than the inputs: a sequence that was cut loses no prediction at the cut
            wanted = tokens[piece.start + 1 : piece.stop + 1].astype(np.int64)  # IGNORED is below zero
            counted = self.data.counted(piece.source)
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
