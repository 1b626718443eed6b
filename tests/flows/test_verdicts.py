"""What counts as better, and what is noise."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest

from flows.experiments.verdicts import differences, means, verdict


def _cells(
    level: float, seeds: int, spread: float, documents: np.ndarray, generator: np.random.Generator
) -> np.ndarray:
    """Bits of `seeds` models of about `level` bits a character on documents of these lengths."""
    runs = level + spread * generator.standard_normal(seeds)
    hardness = np.random.default_rng(5).normal(1.0, 0.2, len(documents))  # the same documents are hard for every model
    noise = generator.normal(1.0, 0.01, (seeds, len(documents)))
    return runs[:, None] * hardness * documents * noise


@pytest.fixture(scope="module")
def characters() -> np.ndarray:
    return np.random.default_rng(2).integers(20, 400, 300)


def test_a_clear_difference_is_seen_and_its_interval_holds_the_truth(characters: np.ndarray) -> None:
    generator = np.random.default_rng(1)
    bits = {
        "严": _cells(5.5, 3, 0.01, characters, generator),
        "base": _cells(6.0, 3, 0.01, characters, generator),
    }
    (pair,) = differences(bits, characters)
    assert (pair.a, pair.b) == ("严", "base")
    assert pair.beyond_noise
    assert pair.low is not None
    assert pair.high is not None
    assert pair.low < pair.mean < pair.high < 0
    assert verdict([pair]).startswith("严 is better than base (by 0.")
    mean, spread = means(bits, characters)["base"]
    assert mean == pytest.approx(bits["base"].sum(axis=1).mean() / characters.sum())
    assert 0 < spread < 0.1


def test_chance_is_seldom_called_a_difference(characters: np.ndarray) -> None:
    """Many comparisons of variants that do not differ: about one in twenty may be called different, whatever their number."""
    generator = np.random.default_rng(3)
    for variants in (2, 4):
        called = 0
        for _ in range(300):
            bits = {str(name): _cells(6.0, 3, 0.05, characters, generator) for name in range(variants)}
            called += any(pair.beyond_noise for pair in differences(bits, characters))
        assert called / 300 < 0.09


def test_documents_are_noise_too(characters: np.ndarray) -> None:
    """Two models that never scatter, one better on one document alone: nobody knows what other documents would have said."""
    generator = np.random.default_rng(4)
    one = np.repeat(_cells(6.0, 1, 0.0, characters, generator), 3, axis=0)
    other = one.copy()
    other[:, 7] *= 0.5
    (pair,) = differences({"a": one, "b": other}, characters)
    assert pair.a == "b"
    assert pair.seeds == pytest.approx(0, abs=1e-12)
    assert pair.documents > 0
    assert not pair.beyond_noise


def test_one_seed_and_equal_variants_get_no_verdict(characters: np.ndarray) -> None:
    generator = np.random.default_rng(6)
    single = {"a": _cells(5.0, 1, 0, characters, generator), "b": _cells(6.0, 1, 0, characters, generator)}
    (pair,) = differences(single, characters)
    assert pair.low is None
    assert not pair.beyond_noise
    assert math.isnan(means(single, characters)["a"][1])
    assert "one seed has no spread: nothing can be said" in verdict([pair])
    same = _cells(5.0, 3, 0.1, characters, generator)
    (pair,) = differences({"a": same, "b": same.copy()}, characters)
    assert pair.mean == 0
    assert verdict([pair]).startswith("No difference beyond the noise between a and b; one below 0.")


def test_the_best_is_told_from_some_and_not_from_others(characters: np.ndarray) -> None:
    generator = np.random.default_rng(7)
    bits = {
        "вольная": _cells(5.50, 3, 0.005, characters, generator),
        "строгая": _cells(5.5003, 3, 0.005, characters, generator),
        "worst": _cells(7.0, 3, 0.005, characters, generator),
    }
    told = verdict(differences(bits, characters))
    assert "is better than worst (by 1." in told
    assert re.search(
        r"No difference beyond the noise between (вольная and строгая|строгая and вольная); one below", told
    )
