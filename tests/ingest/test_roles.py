"""Roles: what is trained on, what is held against it, and what examples are, apart from the first document on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.ingest.conftest import Ingest
from tests.tiny_corpus import poems

RUSSIAN = [f"Письмо номер {number}: сегодня выпал первый снег, и в саду стало тихо." for number in range(12)]
CHINESE = ["\n".join(poem["paragraphs"]) for poem in poems(9)]


def lines(path: Path, texts: list[str]) -> str:
    path.write_text("".join(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts), encoding="utf-8")
    return str(path)


@pytest.fixture
def sources(tmp_path: Path) -> list[dict[str, Any]]:
    """Two sources to train on, and between them one of each other role."""
    return [
        {"name": "letters", "kind": "path", "location": lines(tmp_path / "a.jsonl", RUSSIAN[:8])},
        {"name": "exam", "kind": "path", "location": lines(tmp_path / "b.jsonl", RUSSIAN[8:]), "role": "evaluation"},
        {"name": "fine", "kind": "path", "location": lines(tmp_path / "c.jsonl", CHINESE[:3]), "role": "good"},
        {"name": "poor", "kind": "path", "location": lines(tmp_path / "d.jsonl", CHINESE[3:5]), "role": "bad"},
        {"name": "measure", "kind": "path", "location": lines(tmp_path / "e.jsonl", CHINESE[5:6]), "role": "reference"},
        {"name": "poems", "kind": "path", "location": lines(tmp_path / "f.jsonl", CHINESE[6:])},
    ]


def test_each_role_has_its_own_file(ingest: Ingest, sources: list[dict[str, Any]], tmp_path: Path) -> None:
    outcome = ingest(sources)
    assert outcome.texts == RUSSIAN[:8] + CHINESE[6:]
    assert [row["text"] for row in outcome.of_role("evaluation")] == RUSSIAN[8:]
    assert [row["text"] for row in outcome.of_role("good")] == CHINESE[:3]
    assert [row["text"] for row in outcome.of_role("bad")] == CHINESE[3:5]
    assert [row["text"] for row in outcome.of_role("reference")] == CHINESE[5:6]
    assert [source["role"] for source in outcome.sources] == [
        "train",
        "evaluation",
        "good",
        "bad",
        "reference",
        "train",
    ]
    assert {row["provenance"]["source"] for row in outcome.of_role("evaluation")} == {"exam"}
    metrics = outcome.metrics
    assert (metrics["documents"], metrics["documents_evaluation"], metrics["documents_good"]) == (11, 4, 3)
    assert metrics["characters"] == sum(map(len, outcome.texts))
    assert {path.name for path in (tmp_path / "raw").iterdir()} == {
        *("documents.parquet", "evaluation.parquet", "good.parquet", "bad.parquet", "reference.parquet"),
        "sources.json",
    }


def test_a_role_that_no_source_has_leaves_no_file(
    ingest: Ingest, sources: list[dict[str, Any]], tmp_path: Path
) -> None:
    assert ingest(sources).status == 0
    assert ingest([source for source in sources if source["name"] in ("letters", "fine")]).status == 0
    assert {path.name for path in (tmp_path / "raw").iterdir()} == {"documents.parquet", "good.parquet", "sources.json"}


@pytest.mark.parametrize(("limit", "expected"), [(5, RUSSIAN[:5]), (8, RUSSIAN[:8]), (9, RUSSIAN[:8] + CHINESE[6:7])])
def test_the_limit_counts_training_documents_only(
    ingest: Ingest, sources: list[dict[str, Any]], limit: int, expected: list[str]
) -> None:
    outcome = ingest(sources, limit=limit)
    assert outcome.texts == expected
    assert (len(outcome.of_role("evaluation")), len(outcome.of_role("good"))) == (4, 3)
    assert outcome.metrics["documents"] == limit


def test_without_anything_to_train_on_one_sentence_says_so(ingest: Ingest, sources: list[dict[str, Any]]) -> None:
    sentence = ingest(sources[1:5]).refused()
    assert "ingest.sources" in sentence
    assert "no source has the role train" in sentence
    told = sentence.partition("ingest.sources")[2]
    assert len(told) < 150, "without a listing of all sources"
    assert "'evaluaton'" in ingest([{**sources[0], "role": "evaluaton"}]).refused()


def test_blank_training_documents_are_not_saved_by_those_of_other_roles(
    ingest: Ingest, sources: list[dict[str, Any]], tmp_path: Path
) -> None:
    blank = {"name": "blank", "kind": "path", "location": lines(tmp_path / "blank.jsonl", [" "])}
    assert "the corpus is empty" in ingest([blank, sources[1]]).refused()


def test_many_documents_of_two_roles_in_turns_all_arrive(ingest: Ingest, tmp_path: Path) -> None:
    """More than are held before they are written."""
    train = [f"строка {number}" for number in range(12_000)]
    good = [f"第{number}行" for number in range(11_000)]
    outcome = ingest(
        [
            {"name": "a", "kind": "path", "location": lines(tmp_path / "a.jsonl", train[:6_000])},
            {"name": "b", "kind": "path", "location": lines(tmp_path / "b.jsonl", good), "role": "good"},
            {"name": "c", "kind": "path", "location": lines(tmp_path / "c.jsonl", train[6_000:])},
        ]
    )
    assert outcome.texts == train
    assert [row["text"] for row in outcome.of_role("good")] == good
