"""The n-gram bar: a proper distribution, and the method of the paper."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from components.errors import InkwellError
from components.model.kneser_ney import KneserNey, _sorted, bits_per_character
from tests.conftest import SHARED_WAR_AND_PEACE
from tests.tiny_corpus import clean_rows

_CONTENTS = [row["content"] for row in clean_rows(300)]
_TRAIN, _HELD_OUT = _CONTENTS[30:], _CONTENTS[:30]


@pytest.mark.parametrize("order", [1, 2, 3, 5])
@pytest.mark.parametrize("context", ["", "春", _TRAIN[0][:3], _TRAIN[5], _HELD_OUT[2][:17], "字典外文", "春Ω山"])
def test_probabilities_sum_to_one_in_every_context(order: int, context: str) -> None:
    model = KneserNey.train(_TRAIN, order)
    characters = sorted(set("".join(_TRAIN)))
    continued = [context + character for character in [*characters, "\uffff"]]
    ends = np.cumsum([len(text) + 1 for text in continued])
    of_characters = model.probabilities(continued)[ends - 2]
    of_end = model.probabilities([context])[-1]
    assert len(continued) + 1 == model.symbols
    assert of_characters.min() > 0
    assert of_characters.sum() + of_end == pytest.approx(1, abs=1e-9)


def _oracle(train: Sequence[str], held_out: Sequence[str], order: int) -> float:
    """The same method told in dictionaries, straight from the paper's equations; slow and independent of the other."""
    counts: list[Counter[tuple[str, ...]]] = [Counter() for _ in range(order + 1)]
    left: defaultdict[tuple[str, ...], set[str]] = defaultdict(set)
    for text in train:
        tokens = ["<begin>", *text, "<end>"]
        for k in range(1, order + 1):
            for at in range(k - 1, len(tokens)):
                gram = tuple(tokens[at - k + 1 : at + 1])
                if gram != ("<begin>",):
                    counts[k][gram] += 1
                    if at >= k:
                        left[gram].add(tokens[at - k])
    for k in range(1, order):
        counts[k] = Counter({g: n if g[0] == "<begin>" else len(left[g]) for g, n in counts[k].items()})
    discounts: list[list[float]] = [[]]
    contexts: list[dict[tuple[str, ...], tuple[int, float]]] = [{}]
    for k in range(1, order + 1):
        n = [sum(1 for count in counts[k].values() if count == c) for c in range(5)]
        y = n[1] / (n[1] + 2 * n[2]) if n[1] and n[2] and n[3] else 0.0
        found = (
            [0, 1 - 2 * y * n[2] / n[1], 2 - 3 * y * n[3] / n[2], 3 - 4 * y * n[4] / n[3]] if y else [0, 0.5, 1, 1.5]
        )
        if any(d < 0 for d in found):
            found = [0, 0.5, 1, 1.5]
        discounts.append(found)
        totals: defaultdict[tuple[str, ...], list[float]] = defaultdict(lambda: [0, 0.0])
        for gram, count in counts[k].items():
            totals[gram[:-1]][0] += count
            totals[gram[:-1]][1] += found[min(count, 3)]
        contexts.append({gram: (int(total), mass / total) for gram, (total, mass) in totals.items()})
    vocabulary = len(set("".join(train))) + 2

    def probability(context: tuple[str, ...], character: str) -> float:
        k = len(context) + 1
        lower = probability(context[1:], character) if k > 1 else 1 / vocabulary
        if context not in contexts[k]:
            return lower
        total, backoff = contexts[k][context]
        count = counts[k][(*context, character)]
        return (count - discounts[k][min(count, 3)]) / total + backoff * lower

    bits = 0.0
    for text in held_out:
        tokens = ["<begin>", *text, "<end>"]
        for at in range(1, len(tokens)):
            bits -= math.log2(probability(tuple(tokens[max(0, at - order + 1) : at]), tokens[at]))
    return bits / sum(len(text) + 1 for text in held_out)


@pytest.mark.parametrize("order", [1, 2, 3, 5])
def test_bits_agree_with_an_independent_computation(order: int) -> None:
    held_out = [*_HELD_OUT, "Ω春山", "春"]
    assert bits_per_character(_TRAIN, held_out, order) == pytest.approx(_oracle(_TRAIN, held_out, order), rel=1e-9)


def test_tiny_texts_fall_back_to_fixed_discounts_and_stay_finite() -> None:
    assert 0 < bits_per_character(["春"], ["山"], 5) < 20
    assert bits_per_character(["a b", "a c"], ["a b"], 3) == pytest.approx(_oracle(["a b", "a c"], ["a b"], 3))


def test_end_marks_count_as_characters_and_copies_are_cheap() -> None:
    assert len(KneserNey.train(_TRAIN, 3).probabilities(["春山", ""])) == 4
    assert bits_per_character(_TRAIN, _TRAIN[:20], 5) < bits_per_character(_TRAIN, _HELD_OUT, 5) < 8


@pytest.mark.parametrize("order", [1, 2, 5])
def test_a_stored_model_and_one_that_is_counted_on_the_way_say_the_same(order: int, tmp_path: Path) -> None:
    model = KneserNey.train(_TRAIN, order)
    model.save(tmp_path / "model.npz")
    stored = KneserNey.load(tmp_path / "model.npz")
    bits = stored.document_bits(_HELD_OUT)
    assert np.array_equal(stored.probabilities(_HELD_OUT), model.probabilities(_HELD_OUT))
    assert bits.shape == (len(_HELD_OUT),)
    characters = sum(len(text) + 1 for text in _HELD_OUT)
    assert bits.sum() / characters == pytest.approx(bits_per_character(_TRAIN, _HELD_OUT, order), rel=1e-12)
    alone = [float(stored.document_bits([text])[0]) for text in _HELD_OUT]
    assert bits.tolist() == pytest.approx(alone, rel=1e-12), "documents do not see each other"
    assert stored.document_bits([]).shape == (0,)


def test_what_is_no_model_is_told_in_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "model.npz").write_bytes(b"PK\x03\x04 cut short")
    for path in (tmp_path / "model.npz", tmp_path / "absent.npz"):
        with pytest.raises(InkwellError, match="is no Kneser-Ney model"):
            KneserNey.load(path)


def test_both_ways_of_sorting_agree() -> None:
    keys = np.random.default_rng(1).integers(0, 500, 4000)
    for packed in (True, False):
        ordered, places = _sorted(keys.copy(), 500, packed)
        assert np.array_equal(ordered, np.sort(keys))
        assert np.array_equal(keys[places], ordered)
        assert np.array_equal(np.sort(places), np.arange(len(keys)))
    # Too large to be one number with the place: the second way is chosen.
    large = keys * 2**53
    ordered, places = _sorted(large.copy(), 500 * 2**53)
    assert np.array_equal(large[places], np.sort(large))


def test_characters_beyond_the_basic_plane_and_lone_surrogates_are_characters() -> None:
    texts = ["\U00020000山\ud800", "\U00020000水"]
    assert len(KneserNey.train(texts, 2).probabilities(texts)) == 7
    assert KneserNey.train(texts, 2).symbols == 6
    assert bits_per_character(texts, texts, 2) == pytest.approx(_oracle(texts, texts, 2), rel=1e-9)


@pytest.mark.skipif(not SHARED_WAR_AND_PEACE.is_dir(), reason="the shared test data is not beside the project")
def test_longer_context_helps_on_a_real_novel() -> None:
    text = (SHARED_WAR_AND_PEACE / "wap1.txt").read_bytes().decode("cp1251")
    paragraphs = [part for part in text[:400_000].split("\r\n") if part]
    bits = [bits_per_character(paragraphs[20:], paragraphs[:20], order) for order in (1, 3, 5)]
    assert bits[0] > bits[1] > bits[2] > 1.5
