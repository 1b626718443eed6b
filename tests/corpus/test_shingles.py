"""What works on many texts at once gives what sets of strings give."""

from __future__ import annotations

import itertools
import random
import unicodedata

import numpy as np
import pytest

from components.corpus import shingles as module
from components.corpus.shingles import (
    code_points,
    comparison_key,
    comparison_keys,
    distinct,
    gram_hashes,
    jaccard,
    sets_of,
    shingles,
    similarities,
)

_ALPHABET = "春江花月夜ßİΣσabc ,.!\ud800😀é\u0301१\n\u200dﬁ"


def _texts(count: int, seed: int = 1) -> list[str]:
    rng = random.Random(seed)
    return ["".join(rng.choices(_ALPHABET, k=rng.randint(0, 30))) for _ in range(count)]


def test_a_key_is_letters_marks_and_digits_without_case() -> None:
    assert comparison_key("Ах, «Straße» № 12!\n春、眠；") == "ахstrasse12春眠"
    assert comparison_key("…—🎉") == ""
    assert all(unicodedata.category(letter)[0] in "LMN" for letter in comparison_key(_ALPHABET))


def test_many_keys_equal_single_ones_also_where_texts_are_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_KEYED_AT_ONCE", 17)
    texts = _texts(300)
    codes, offsets = comparison_keys(texts)
    spelled = ["".join(map(chr, codes[a:b])) for a, b in itertools.pairwise(offsets)]
    assert spelled == [comparison_key(text) for text in texts]
    codes, offsets = code_points(texts)
    assert "".join(map(chr, codes)) == "".join(texts)
    assert np.diff(offsets).tolist() == [len(text) for text in texts]
    assert [part.tolist() for part in comparison_keys([])] == [[], [0]]


@pytest.mark.parametrize("length", [1, 2, 3, 4, 6, 12])
def test_similarities_are_those_of_sets_of_strings(length: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_COMPARED_AT_ONCE", 500)
    keys = [comparison_key(text) for text in _texts(300)]
    keys += keys[:50]
    sets = [shingles(key, length) for key in keys]
    hashes, offsets = sets_of(keys, length)
    assert np.diff(offsets).tolist() == list(map(len, sets))
    rng = random.Random(2)
    one, other = (np.array(rng.choices(range(350), k=3000)) for _ in range(2))
    wanted = [jaccard(sets[a], sets[b]) for a, b in zip(one, other, strict=True)]
    assert similarities((hashes, offsets), (hashes, offsets), (one, other)).tolist() == wanted
    floored = similarities((hashes, offsets), (hashes, offsets), (one, other), 0.5)
    assert [value for value in floored if value >= 0.5] == [value for value in wanted if value >= 0.5]


def test_short_ngrams_never_share_a_hash() -> None:
    points = np.array([0x61, 0x62, 0x4E00, 0x10FFFF, 0x1F600], dtype=np.uint32)
    grams = np.stack(np.meshgrid(points, points, points), axis=-1).reshape(-1)
    hashes, _ = gram_hashes(grams, np.arange(0, len(grams) + 1, 3), 3)
    assert len(set(hashes.tolist())) == 125
    assert int(hashes.max()) < 2**63


def test_ngrams_do_not_cross_from_one_text_into_the_next() -> None:
    codes, offsets = code_points(["ab", "", "cde", "f"])
    hashes, grams = gram_hashes(codes, offsets, 2)
    assert grams.tolist() == [0, 1, 1, 3, 3]
    assert len(distinct(hashes, grams)[0]) == 3
    assert hashes[0] == gram_hashes(*code_points(["ab"]), 2)[0][0]
