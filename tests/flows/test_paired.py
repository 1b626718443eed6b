"""The paired bootstrap against cases whose answer is known."""

from __future__ import annotations

import math

import numpy as np
import pytest

from flows.promotion.paired import compare, holm


def _trial(seed: int, gain: float) -> dict[str, float]:
    """p values of three tasks as evaluation gives them: bits with characters, a share, and a rare success."""
    rng = np.random.default_rng(seed)
    characters = rng.integers(20, 200, 150)
    bits = characters * (rng.normal(gain, 0.5, 150))
    share = rng.binomial(1, 0.6 + gain, 120) - rng.binomial(1, 0.6, 120)
    rare = rng.binomial(1, 0.03 + gain, 60) - rng.binomial(1, 0.03, 60)
    pairs = {"bits": (bits, characters), "share": (share, np.ones(120)), "rare": (rare, np.ones(60))}
    return {name: compare(list(d), list(w), 1000, seed).p for name, (d, w) in pairs.items()}


def test_equal_models_are_promoted_no_more_often_than_the_error_rate() -> None:
    false = sum(min(holm(_trial(seed, 0.0)).values()) <= 0.05 for seed in range(200))
    # at most the rate; 200 trials of exactly 5 % exceed 17 once in a hundred
    assert false <= 17, false


def test_a_clear_difference_is_seen_in_every_trial() -> None:
    assert all(min(holm(_trial(seed, 0.3)).values()) <= 0.05 for seed in range(20))


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    held = 0
    for seed in range(300):
        rng = np.random.default_rng(seed)
        weights = rng.integers(20, 200, 60).astype(float)
        # skewed, as likelihoods of documents are
        found = compare(list(weights * (rng.exponential(1.0, 60) - 0.8)), list(weights), 1000, seed)
        held += found.low <= 0.2 <= found.high
    assert 0.91 <= held / 300 <= 0.985, held


def test_the_same_seed_gives_the_same_figures() -> None:
    d, w = list(np.random.default_rng(3).normal(0.1, 1, 50)), [1.0] * 50
    assert compare(d, w, 2000, 7) == compare(d, w, 2000, 7)
    assert compare(d, w, 2000, 7).p != compare(d, w, 2000, 8).p


def test_the_same_answers_are_no_difference() -> None:
    found = compare([0.0] * 40, [1.0] * 40, 1000, 1)
    assert (found.gain, found.low, found.high, found.p, found.differing) == (0, 0, 0, 1, 0)


def test_a_few_lucky_answers_prove_nothing() -> None:
    found = compare([1.0] * 3 + [0.0] * 97, [1.0] * 100, 2000, 1)
    assert found.p >= 0.125  # three heads of three
    assert compare([1.0] * 12 + [0.0] * 88, [1.0] * 100, 2000, 1).p < 0.01


def test_one_uniform_gain_is_judged_by_its_sign() -> None:
    found = compare([1.0] * 10, [1.0] * 10, 1000, 1)
    assert found.p == pytest.approx(2**-10)
    assert found.low == found.high == 1


def test_holm_against_a_worked_example() -> None:
    # 0.01 x 4, 0.02 x 3, 0.03 x 2, 0.04 x 1, made monotone
    found = holm({"a": 0.04, "b": 0.01, "c": 0.03, "d": 0.02})
    assert found == pytest.approx({"b": 0.04, "d": 0.06, "c": 0.06, "a": 0.06})
    assert holm({}) == {}
    assert not math.isnan(holm({"x": 1.0})["x"])
