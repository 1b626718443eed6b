"""Every held-out document that resembles a training document is found, the most similar one first."""

from __future__ import annotations

import random

import pytest

from components.clean import held_out as module
from components.clean.held_out import resembling
from components.corpus.shingles import jaccard, shingles


def _by_hand(train: list[str], held_out: list[str], length: int, threshold: float) -> dict[int, tuple[int, float]]:
    found = {}
    for number, key in enumerate(held_out):
        values = [jaccard(shingles(key, length), shingles(other, length)) for other in train]
        if values and max(values) >= threshold:
            found[number] = (values.index(max(values)), max(values))
    return found


@pytest.mark.parametrize("threshold", [0.1, 0.3, 0.5, 0.8, 1.0])
@pytest.mark.parametrize(("letters", "length"), [("春江花月夜", 3), ("абвг", 5), ("ab", 2)])
def test_all_pairs_are_found_and_no_others(
    letters: str, length: int, threshold: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_READ_AT_ONCE", 700)  # several batches
    rng = random.Random(12)
    train = ["".join(rng.choices(letters, k=rng.randint(0, 14))) for _ in range(300)]
    held_out = ["".join(rng.choices(letters, k=rng.randint(0, 14))) for _ in range(60)]
    held_out += [text[:-1] + "雪" for text in train[:20]] + train[20:25]
    wanted = _by_hand(train, held_out, length, threshold)
    assert resembling(iter(train), held_out, length, threshold) == wanted
    assert wanted


def test_texts_without_a_shingle_resemble_nothing() -> None:
    assert resembling(["", "春"], ["", "春"], 3, 0.5) == {}


def test_nothing_resembles_nothing() -> None:
    assert resembling([], [], 3, 0.5) == {}
    assert resembling(["春江花月夜"], [], 3, 0.5) == {}
    assert resembling([], ["春江花月夜"], 3, 0.5) == {}
