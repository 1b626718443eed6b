"""Batches are a pure function of (seed, epoch, data), whole in what they predict, and go on from a position."""

from __future__ import annotations

import tracemalloc
from itertools import islice

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from components.training.order import IGNORED, PackedLoader, epoch_order
from components.training.packing import Packer, Piece


class Numbered:
    """Sequences of distinct tokens: sequence i is 1000 i, 1000 i + 1, ..."""

    fingerprint = "numbered"

    def __init__(self, lengths: list[int], answers_only: bool = False) -> None:
        self.lengths: NDArray[np.int64] = np.array(lengths)
        self.answers_only = answers_only

    def __len__(self) -> int:
        return len(self.lengths)

    def tokens(self, index: int) -> NDArray[np.int64]:
        return 1000 * index + np.arange(self.lengths[index])

    def counted(self, index: int) -> NDArray[np.bool_] | None:
        return np.arange(self.lengths[index]) % 2 == 0 if self.answers_only else None


def _loader(data: Numbered, steps: int = 12, seed: int = 1) -> PackedLoader:
    return PackedLoader(data, steps=steps, accumulation=2, micro_batch=3, block=32, seed=seed)


@pytest.mark.parametrize("epochs", [1, 2])
def test_every_token_but_the_first_is_predicted_once_an_epoch_also_across_cuts(epochs: int) -> None:
    data = Numbered([5, 40, 7, 100, 31, 32, 33])
    rows_an_epoch = 8  # six are filled by pieces of 32 tokens, the other 56 tokens take two in any order
    loader = PackedLoader(data, steps=epochs * rows_an_epoch, accumulation=1, micro_batch=1, block=32, seed=4)
    found: list[int] = []
    for inputs, targets, _ in loader:
        counted = targets != IGNORED
        assert bool((targets[counted] == inputs[counted] + 1).all())
        found += targets[counted].tolist()
    wanted = [1000 * i + j for i, length in enumerate(data.lengths) for j in range(1, length)]
    assert sorted(found) == sorted(epochs * wanted)
    assert loader.epoch == epochs - 1


def test_a_row_numbers_its_sequences() -> None:
    data = Numbered([10, 12, 5])
    inputs, _, numbers = next(iter(PackedLoader(data, steps=1, accumulation=1, micro_batch=1, block=32, seed=1)))
    owners = inputs[0, 0, :27] // 1000
    found = numbers[0, 0, :27]
    assert bool(((owners[:, None] == owners[None, :]) == (found[:, None] == found[None, :])).all())
    assert set(numbers[0, 0, 27:].tolist()) == {3}, "padding is nobody's"


def test_only_answers_count_where_the_data_says_so() -> None:
    for _, targets, _ in _loader(Numbered([20] * 50, answers_only=True)):
        assert bool((targets[targets != IGNORED] % 2 == 0).all())


def test_a_row_copies_its_piece_of_a_long_sequence_only() -> None:
    class Book:
        """Two million tokens of two bytes, as a mapped file has them."""

        fingerprint = "book"
        lengths: NDArray[np.int64] = np.array([2_000_000])
        content = (np.arange(2_000_000) % 60_000).astype("<u2")

        def __len__(self) -> int:
            return 1

        def tokens(self, index: int) -> NDArray[np.uint16]:
            return self.content

        def counted(self, index: int) -> NDArray[np.bool_] | None:
            return None

    loader = iter(PackedLoader(Book(), steps=50, accumulation=1, micro_batch=4, block=32, seed=1))
    next(loader)  # cuts it into pieces
    tracemalloc.start()
    for inputs, targets, _ in islice(loader, 10):
        assert bool((targets == (inputs + 1) % 60_000).all())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 200_000


def test_a_resumed_loader_gives_exactly_the_remaining_batches() -> None:
    data = Numbered(list(range(5, 60)))
    whole = [inputs for inputs, *_ in _loader(data)]
    first = _loader(data)
    batches = iter(first)
    for _ in range(5):
        next(batches)
    second = _loader(data)
    second.load_state_dict(first.state_dict())
    rest = [inputs for inputs, *_ in second]
    assert len(rest) == 7
    assert all(torch.equal(a, b) for a, b in zip(whole[5:], rest, strict=True))


def test_a_resumed_loader_packs_nothing_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """A position is a state of the packer: taking it up costs the same at the end of an epoch as at its beginning."""
    packed = 0
    row = Packer._row

    def counting(packer: Packer) -> list[Piece]:
        nonlocal packed
        packed += 1
        return row(packer)

    monkeypatch.setattr(Packer, "_row", counting)
    data = Numbered([20] * 500)
    first = PackedLoader(data, steps=100, accumulation=1, micro_batch=3, block=32, seed=1)
    assert len(list(islice(first, 90))) == 90
    assert packed == 270
    second = PackedLoader(data, steps=100, accumulation=1, micro_batch=3, block=32, seed=1)
    second.load_state_dict(first.state_dict())
    packed = 0
    assert len(list(second)) == 10
    assert packed == 30


def test_processes_share_a_step_without_overlap_whatever_their_number() -> None:
    data = Numbered(list(range(5, 60)))
    whole = [_rows(inputs) for inputs, *_ in _loader(data)]
    for world in (2, 3, 4, 6, 8):
        loaders = [
            PackedLoader(data, steps=12, accumulation=2, micro_batch=3, block=32, seed=1, rank=rank, world=world)
            for rank in range(world)
        ]
        for step, batches in enumerate(zip(*loaders, strict=True)):
            shapes = {tuple(inputs.shape) for inputs, *_ in batches}
            assert len(shapes) == 1, "all processes have equally many forward passes"
            found = [row for inputs, *_ in batches for row in _rows(inputs)]
            assert sorted(found) == sorted(whole[step])
            assert batches[0][0].shape[1] <= 3


def _rows(inputs: torch.Tensor) -> list[tuple[int, ...]]:
    return [tuple(row.tolist()) for row in inputs.flatten(0, 1) if bool(row.any())]


def test_a_batch_ramp_takes_the_same_rows_in_more_steps() -> None:
    data = Numbered(list(range(5, 60)))
    plain = PackedLoader(data, steps=20, accumulation=4, micro_batch=2, block=32, seed=1)
    ramped = PackedLoader(data, steps=20, accumulation=4, micro_batch=2, block=32, seed=1, ramp=0.5)
    batches = [inputs for inputs, *_ in ramped]
    passes = [len(batch) for batch in batches]
    assert passes == sorted(passes)
    assert set(passes) == {1, 2, 3, 4}
    assert sum(passes) == 80
    assert len(passes) == len(PackedLoader(data, steps=20, accumulation=4, micro_batch=2, block=32, seed=1, ramp=0.5))
    found, wanted = (
        [row for batch in some for row in _rows(batch)] for some in (batches, [inputs for inputs, *_ in plain])
    )
    assert found == wanted


def test_a_batch_that_does_not_divide_the_rows_ends_with_a_smaller_step() -> None:
    data = Numbered([20] * 50)
    first = PackedLoader(data, steps=5, accumulation=1, micro_batch=4, block=32, seed=1)
    next(iter(first))
    second = PackedLoader(data, steps=5, accumulation=1, micro_batch=7, block=32, seed=1)
    second.load_state_dict(first.state_dict())
    assert len(second) == 1 + 3
    counts = [len(_rows(inputs)) for inputs, *_ in second]
    assert counts == [7, 7, 2]


def test_order_changes_with_seed_epoch_and_data() -> None:
    orders = {tuple(epoch_order(*key, 50)) for key in [(1, 0, "a"), (2, 0, "a"), (1, 1, "a"), (1, 0, "b")]}
    assert len(orders) == 4
    assert epoch_order(1, 0, "a", 50) == epoch_order(1, 0, "a", 50)
