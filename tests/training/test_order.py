"""Batches are a pure function of (seed, epoch, data), whole in what they predict, and go on from a position."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from components.training.order import IGNORED, PackedLoader, epoch_order


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


def test_every_token_but_the_first_is_predicted_once_an_epoch_also_across_cuts() -> None:
    data = Numbered([5, 40, 7, 100, 31, 32, 33])
    rows_an_epoch = 9  # 248 tokens; the long ones fill rows of their own
    loader = PackedLoader(data, steps=rows_an_epoch, accumulation=1, micro_batch=1, block=32, seed=4)
    found: list[int] = []
    for inputs, targets, _ in loader:
        counted = targets != IGNORED
        assert bool((targets[counted] == inputs[counted] + 1).all())
        found += targets[counted].tolist()
    wanted = [1000 * i + j for i, length in enumerate(data.lengths) for j in range(1, length)]
    assert sorted(found)[: len(wanted)] == wanted or sorted(set(found)) == wanted


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


def test_order_changes_with_seed_epoch_and_data() -> None:
    orders = {tuple(epoch_order(*key, 50)) for key in [(1, 0, "a"), (2, 0, "a"), (1, 1, "a"), (1, 0, "b")]}
    assert len(orders) == 4
    assert epoch_order(1, 0, "a", 50) == epoch_order(1, 0, "a", 50)
