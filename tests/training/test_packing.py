"""Packing drops nothing and fills rows."""

import random

from components.training.packing import pack


def _rows(lengths: list[int], capacity: int, window: int = 512) -> list[list[tuple[int, int, int]]]:
    packed = pack(range(len(lengths)), lengths, capacity, window)
    return [[(p.source, p.start, p.stop) for p in row] for row in packed]


def test_every_token_is_in_exactly_one_piece() -> None:
    rng = random.Random(3)
    lengths = [rng.choice([1, 2, 5, 30, 64, 65, 200]) for _ in range(700)]
    seen: dict[int, list[int]] = {i: [] for i in range(len(lengths))}
    for row in _rows(lengths, 64, window=50):
        assert 0 < sum(stop - start for _, start, stop in row) <= 64
        for index, start, stop in row:
            seen[index] += range(start, stop)
    assert all(sorted(seen[i]) == list(range(length)) for i, length in enumerate(lengths))


def test_rows_of_short_sequences_are_nearly_full() -> None:
    rng = random.Random(5)
    lengths = [rng.randint(20, 130) for _ in range(3000)]
    rows = _rows(lengths, 256)
    assert sum(lengths) / (256 * len(rows)) > 0.98


def test_a_longer_sequence_is_cut_into_rows_of_its_own() -> None:
    assert sorted(_rows([150], 64)) == [[(0, 0, 64)], [(0, 64, 128)], [(0, 128, 150)]]


def test_no_sequences_give_no_rows() -> None:
    assert _rows([], 64) == []
