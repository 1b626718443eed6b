"""What MinHash missed does not lie on both sides of the split, however much is held out and however it is read."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from components.clean import leakage
from components.corpus.documents import clean_schema, removed_schema
from components.corpus.shingles import comparison_key, jaccard, shingles
from tests.curated import clean, rows_of, write_tagged


@pytest.mark.parametrize("at_once", [10, 200, 8_000_000])
def test_no_held_out_document_resembles_one_that_is_trained_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(leakage, "_HELD_OUT_AT_ONCE", at_once)
    rng = random.Random(3)
    texts = ["".join(rng.choices("春江花月夜潮水连海平абвгдежз", k=30)) for _ in range(60)]
    texts += [text[:27] + "雪雪雪" for text in texts[:30]]
    # Nobody recorded a pair: all have clusters of their own.
    write_tagged(tmp_path, [{"text": text, "tags": {"characters": float(len(text))}} for text in texts])
    context = clean(tmp_path, validation_fraction=0.4)
    kept = rows_of(tmp_path / "clean/documents.parquet", clean_schema())
    sides = {
        split: [shingles(comparison_key(row["text"]), 3) for row in kept if row["split"] == split]
        for split in ("train", "validation")
    }
    assert all(jaccard(one, other) < 0.5 for one in sides["validation"] for other in sides["train"])
    trained = {row["id"] for row in kept if row["split"] == "train"}
    removed = rows_of(tmp_path / "clean/removed.parquet", removed_schema())
    assert {row["duplicate_of"] for row in removed} <= trained
    assert len(removed) == context.metrics["held_out_resembling_training"] > 10
    assert context.metrics["dropped_near_duplicate"] == len(removed)
