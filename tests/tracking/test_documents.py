"""The index of a corpus by document."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from components.corpus.documents import clean_schema, iterate
from components.errors import InkwellError
from components.tracking.documents import build_index, find, text_key


def test_every_document_is_found_by_id_and_by_text(clean_folder: Path, token_folder: Path, tmp_path: Path) -> None:
    index = tmp_path / "index.parquet"
    rows = list(iterate(clean_folder / "documents.parquet", clean_schema()))
    assert build_index(clean_folder, index, token_folder) == len(rows)
    for row in rows[:3]:
        (found,) = find(index, [row["id"]])
        assert (found["split"], found["repeats"]) == (row["split"], row["repeats"])
        assert row["id"] in [f["id"] for f in find(index, texts=[" " + row["text"].replace("\n", " \n")])]
    assert find(index, ["nobody"], ["no such text"]) == []
    assert find(index) == []


def test_the_same_corpus_gives_the_same_bytes(clean_folder: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        build_index(clean_folder, tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_tokens_of_another_version_are_refused(clean_folder: Path, token_folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "tokens"
    shutil.copytree(token_folder, other)
    meta = json.loads((other / "meta.json").read_text())
    meta["splits"]["train"]["documents"] += 1
    (other / "meta.json").write_text(json.dumps(meta))
    with pytest.raises(InkwellError, match="run the tokenize step again"):
        build_index(clean_folder, tmp_path / "index.parquet", other)
    assert not (tmp_path / "index.parquet").exists()


def test_a_broken_index_is_told(tmp_path: Path) -> None:
    (tmp_path / "index.parquet").write_text("no parquet")
    with pytest.raises(InkwellError, match="delete it"):
        find(tmp_path / "index.parquet", ["a"])


def test_texts_are_equal_but_for_white_space_and_forms() -> None:
    assert text_key("春山 入\n故园") == text_key("春山入故园")
    assert text_key("Ａ１") == text_key("A1")
    assert text_key("a") != text_key("b")
