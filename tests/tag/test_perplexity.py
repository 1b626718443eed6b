"""Bits per character of each document: nobody is scored by a model that has read him."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from components.configuration.tag import Perplexity
from components.corpus.documents import raw_schema, write_documents
from components.errors import InkwellError
from components.model.kneser_ney import KneserNey
from components.tag.perplexity import load, train
from tests.conftest import SHARED_WAR_AND_PEACE
from tests.tag.test_contamination import row
from tests.tiny_corpus import poems

_POEMS = ["\n".join(poem["paragraphs"]) for poem in poems(400)]


def written(path: Path, texts: Sequence[str]) -> Path:
    write_documents(path, [row("corpus", number, text) for number, text in enumerate(texts)], raw_schema())
    return path


def trained(folder: Path, texts: Sequence[str], seed: int = 1, **settings: Any) -> dict[str, float]:
    part = written(folder / "part.parquet", texts)
    return train([part], None, Perplexity(**{"order": 4, **settings}), seed, folder / "model")


def test_noise_surprises_more_than_verse(tmp_path: Path) -> None:
    rng = random.Random(1)
    noise = ["".join(rng.sample(text, len(text))) for text in _POEMS[:40]]
    figures = trained(tmp_path, [*_POEMS, *noise])
    scores = load(tmp_path / "model").score([*_POEMS, *noise])
    assert figures["perplexity_models"] == 2
    assert scores.dtype == np.float64
    assert scores[:400].max() < scores[400:].min()


def test_a_text_does_not_flatter_itself_however_often_it_is_there(tmp_path: Path) -> None:
    rng = random.Random(2)
    odd = "".join(chr(rng.randrange(0x4E00, 0x9F00)) for _ in range(200))
    corpus = [*_POEMS, *[odd] * 50]
    figures = trained(tmp_path, corpus)
    honest = float(load(tmp_path / "model").score([odd])[0])
    naive = float(KneserNey.train(corpus, 4).document_bits([odd])[0]) / (len(odd) + 1)
    assert naive < 1, "a model that has read it knows it by heart"
    assert honest > 6
    assert figures["perplexity_characters"] == sum(map(len, set(corpus))), "each text is counted once"


def test_sources_of_role_reference_score_everything(tmp_path: Path) -> None:
    part = written(tmp_path / "part.parquet", ["not looked at"])
    reference = written(tmp_path / "reference.parquet", [text.replace("春", "X") for text in _POEMS[100:]])
    settings = Perplexity(order=3)
    figures = train([part], reference, settings, 1, tmp_path / "model", lambda text: text.replace("X", "春"))
    assert figures["perplexity_models"] == 1
    scores = load(tmp_path / "model").score(_POEMS[:10])
    model = KneserNey.train(list(dict.fromkeys(_POEMS[100:])), 3)
    expected = model.document_bits(_POEMS[:10]) / np.array([len(text) + 1 for text in _POEMS[:10]])
    assert scores.tolist() == pytest.approx(expected.tolist())


def test_the_sample_is_spread_and_independent_of_files_and_order(tmp_path: Path) -> None:
    long = "".join(_POEMS)  # 16,000 characters, one document
    texts = [*_POEMS, long]
    total = sum(map(len, texts))
    figures = trained(tmp_path, texts, characters=total // 4)
    assert figures["perplexity_characters"] == pytest.approx(total / 4, rel=0.35)
    scores = load(tmp_path / "model").score(texts)
    parts = [written(tmp_path / f"{n}.parquet", some) for n, some in enumerate((texts[200:][::-1], texts[:200]))]
    for seed, same in ((1, True), (2, False)):
        train(parts, None, Perplexity(order=4, characters=total // 4), seed, tmp_path / "other")
        again = load(tmp_path / "other").score(texts)
        assert np.allclose(again, scores, rtol=1e-12) == same


def test_scores_do_not_depend_on_company_and_odd_texts_have_one(tmp_path: Path) -> None:
    trained(tmp_path, _POEMS[:200])
    scorer = load(tmp_path / "model")
    texts = [*_POEMS[190:210], "", "\ud800", "x" * 1_200_000, "Тихий вечер"]
    together = scorer.score(texts)
    assert np.isfinite(together).all()
    assert together.tolist() == pytest.approx([float(scorer.score([text])[0]) for text in texts], rel=1e-12)
    assert scorer.score([]).shape == (0,)


def test_a_corpus_of_one_text_is_scored_all_the_same(tmp_path: Path) -> None:
    figures = trained(tmp_path, ["春山空城，秋水人家。" * 20])
    assert figures["perplexity_models"] == 1
    assert np.isfinite(load(tmp_path / "model").score(["春山"])).all()


def test_mistakes_are_told_in_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(InkwellError, match="the corpus holds no text to train the model"):
        trained(tmp_path, ["", ""])
    with pytest.raises(InkwellError, match=r"holds no model of tag\.perplexity"):
        load(tmp_path / "nowhere")


@pytest.mark.skipif(not SHARED_WAR_AND_PEACE.is_dir(), reason="the shared test data is not beside the project")
def test_french_stands_out_in_a_russian_novel(tmp_path: Path) -> None:
    text = (SHARED_WAR_AND_PEACE / "wap1.txt").read_bytes().decode("cp1251")
    paragraphs = [part for part in text[:400_000].split("\r\n") if len(part) > 80]
    scores_of = dict(zip(paragraphs, scored(tmp_path, paragraphs), strict=True))
    latin = [share(part) for part in scores_of]
    french = [score for score, some in zip(scores_of.values(), latin, strict=True) if some > 0.7]
    russian = [score for score, some in zip(scores_of.values(), latin, strict=True) if some < 0.05]
    assert len(french) > 5
    assert np.median(french) > np.median(russian)


def scored(folder: Path, texts: Sequence[str]) -> list[float]:
    trained(folder, texts)
    return [float(score) for score in load(folder / "model").score(texts)]


def share(text: str) -> float:
    """Of Latin letters among letters."""
    letters = [character for character in text if character.isalpha()]
    return sum(character < "\u0250" for character in letters) / max(1, len(letters))
