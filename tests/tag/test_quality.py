"""The classifier by examples: it tells them apart, is honest about how well, and says the same every time."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from components.configuration.tag import Quality
from components.corpus.documents import raw_schema, write_documents
from components.errors import InkwellError
from components.tag.quality import FILE, load, train
from tests.tag.test_contamination import row
from tests.tiny_corpus import poems

_RUSSIAN = ["тихий", "вечер", "над", "рекой", "старый", "дом", "и", "сад", "где", "поёт", "соловей", "снова", "весна"]
_ADVERTS = ["СКИДКА", "купи", "дёшево", "жми", "сюда", "!!!", "кредит", "без", "залога", "100%", "акция", "www"]


def sentences(words: list[str], count: int, seed: int) -> list[str]:
    rng = random.Random(seed)
    return [" ".join(rng.choices(words, k=rng.randint(8, 30))) for _ in range(count)]


def shuffled(texts: list[str], seed: int) -> list[str]:
    """The same characters in no order: bad verse."""
    rng = random.Random(seed)
    return ["".join(rng.sample(text, len(text))) for text in texts]


@pytest.fixture(scope="module")
def examples() -> dict[str, tuple[list[str], list[str]]]:
    verse = ["\n".join(poem["paragraphs"]) for poem in poems(160)]
    return {
        "zh": (verse, shuffled(verse, 1)),
        "ru": (sentences(_RUSSIAN, 120, 1), sentences(_ADVERTS, 60, 2)),
    }


def trained(folder: Path, good: list[str], bad: list[str], **settings: Any) -> dict[str, float]:
    for role, texts in (("good", good), ("bad", bad)):
        rows = [row(role, number, text) for number, text in enumerate(texts)]
        write_documents(folder / f"{role}.parquet", rows, raw_schema())
    return train(folder / "good.parquet", folder / "bad.parquet", Quality(**settings), 1337, folder / "model")


@pytest.mark.parametrize("language", ["zh", "ru"])
def test_good_and_bad_are_told_apart(
    language: str, examples: dict[str, tuple[list[str], list[str]]], tmp_path: Path
) -> None:
    good, bad = examples[language]
    figures = trained(tmp_path, good[10:], bad[10:])
    assert figures["quality_good_examples"] == len(set(good[10:]))
    assert figures["quality_holdout_examples"] == pytest.approx((len(good) + len(bad) - 20) * 0.2, abs=2)
    assert figures["quality_roc_auc"] > 0.95
    assert figures["quality_accuracy"] > 0.85
    assert figures["quality_brier"] < 0.15
    scores = load(tmp_path / "model").score([*good[:10], *bad[:10]])
    assert scores.dtype == np.float64
    assert scores.min() >= 0
    assert scores.max() <= 1
    assert scores[:10].mean() > 0.7 > 0.3 > scores[10:].mean()


def test_scores_do_not_depend_on_company_and_odd_texts_have_one(
    examples: dict[str, tuple[list[str], list[str]]], tmp_path: Path
) -> None:
    good, bad = examples["zh"]
    trained(tmp_path, good, bad, ngram=2)
    model = load(tmp_path / "model")
    odd = ["", "\ud800", " ", "x" * 3_000_000]
    together = model.score([*good[:5], *odd])
    assert np.isfinite(together).all()
    assert together.tolist() == [float(model.score([text])[0]) for text in [*good[:5], *odd]]
    assert model.score([]).shape == (0,)


def test_the_same_examples_make_the_same_file(examples: dict[str, tuple[list[str], list[str]]], tmp_path: Path) -> None:
    files = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        trained(tmp_path / name, *examples["ru"], ngram=2)
        files.append((tmp_path / name / "model" / FILE).read_bytes())
    assert files[0] == files[1]


def test_examples_that_are_both_and_copies_do_not_count(
    examples: dict[str, tuple[list[str], list[str]]], tmp_path: Path
) -> None:
    good, bad = examples["ru"]
    figures = trained(tmp_path, [*good, *good, bad[0]], bad, ngram=1)
    assert figures["quality_ambiguous_examples"] == 1
    assert figures["quality_good_examples"] == len(set(good))
    assert figures["quality_bad_examples"] == len(set(bad)) - 1


def test_examples_are_normalised_as_the_corpus_is(
    examples: dict[str, tuple[list[str], list[str]]], tmp_path: Path
) -> None:
    trained(tmp_path, *examples["ru"], ngram=1)
    good, bad = tmp_path / "good.parquet", tmp_path / "bad.parquet"
    with pytest.raises(InkwellError, match="holds 0 distinct examples"):  # all of them are the same text, and ambiguous
        train(good, bad, Quality(ngram=1), 1, tmp_path / "model", lambda text: "one text")


def test_mistakes_are_told_in_one_sentence(examples: dict[str, tuple[list[str], list[str]]], tmp_path: Path) -> None:
    good, bad = examples["ru"]
    with pytest.raises(InkwellError, match=r"bad\.parquet holds 3 distinct examples .* at least 20 of either kind"):
        trained(tmp_path, good, [*bad[:3], *bad[:3]])
    with pytest.raises(InkwellError, match=r"add a source of role bad to ingest\.sources"):
        train(tmp_path / "good.parquet", tmp_path / "absent.parquet", Quality(), 1, tmp_path / "model")
    with pytest.raises(InkwellError, match="is no quality classifier"):
        load(tmp_path / "nowhere")
    (tmp_path / FILE).write_bytes(b"PK\x03\x04 cut short")
    with pytest.raises(InkwellError, match="is no quality classifier"):
        load(tmp_path)
