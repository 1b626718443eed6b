"""Looking for evaluation sets in the corpus: nothing missed, no false alarm, in scripts with blanks and without."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from components.corpus.documents import raw_schema, write_documents
from components.errors import InkwellError
from components.tag.contamination import Index, build, listing

_ENGLISH = "Which of the following rivers flows northward through eleven countries before it reaches the sea?"
_RUSSIAN = "Какая из этих рек течёт на север через одиннадцать стран, прежде чем она впадает в далёкое море?"
_CHINESE = "下列哪一条河流向北穿过十一个国家，最后注入遥远的大海？请选出正确的答案。"
_SHORT = "Who painted the ceiling of the old town hall?"  # nine words
_TOO_SHORT = "What is true?"
_SETS = {"quiz": [_ENGLISH, _RUSSIAN, _TOO_SHORT], "quiz/zh": [_CHINESE], "short": [_SHORT, "白日依山尽黄河入海流。"]}


def row(source: str, number: int, text: str) -> dict[str, Any]:
    provenance = {"source": source, "origin": "tests", "member": "quiz", "row": number}
    return {
        "id": f"q{number}",
        "text": text,
        "title": None,
        "author": None,
        "metadata": "{}",
        "provenance": provenance,
    }


def indexed(folder: Path, sets: dict[str, list[str]], ngram: int | None = None) -> Index:
    rows = [row(source, number, text) for source, texts in sets.items() for number, text in enumerate(texts)]
    write_documents(folder / "evaluation.parquet", rows, raw_schema())
    build(folder / "evaluation.parquet", ngram, folder / "index")
    return Index.open(folder / "index")


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Index:
    return indexed(tmp_path_factory.mktemp("contamination"), _SETS)


@pytest.mark.parametrize(
    ("language", "text", "hit"),
    [
        ("en", _ENGLISH, "quiz/q0: which of the following rivers flows northward through eleven countries before it"),
        ("en", f"Intro. {_ENGLISH.upper()} The end.", "quiz/q0: which of the following rivers"),
        ("en", "- rivers flows, northward:\nthrough eleven COUNTRIES before it reaches the sea", None),
        (
            "en",
            "the following rivers flows, northward:\nthrough eleven countries (before it reaches the sea)",
            "quiz/q0: ",
        ),
        ("ru", "Вопрос: " + _RUSSIAN.replace("ё", "е\u0308"), "quiz/q1: какая из этих рек"),
        ("ru", _RUSSIAN[20:75], None),
        ("zh", f"题目：{_CHINESE}", "quiz/zh/q0: 下列哪一条河流向北穿过十一个国家最后注"),
        ("zh", _CHINESE[4:25].replace("，", "\n"), "quiz/zh/q0: 条河流向北"),
        ("zh", _CHINESE[4:23], None),
        ("zh", f"他问道：{_ENGLISH}没有人回答。", "quiz/q0: "),
        ("en", f"They asked: {_CHINESE}", "quiz/zh/q0: "),
        ("en", f"I wonder: who painted the ceiling of the old town hall? {'Nobody. ' * 20}", "short/q0: who painted"),
        ("en", "who painted the ceiling of the new town hall", None),
        ("zh", "王之涣：白日依山尽，黄河入海流。", None),  # ten letters only
        ("en", f"{_TOO_SHORT} {_TOO_SHORT}", None),
        ("en", "", None),
        ("und", "?!", None),
    ],
)
def test_shared_passages_are_found_and_others_are_not(index: Index, language: str, text: str, hit: str | None) -> None:
    found = index.hit(text, language)
    assert found is None if hit is None else found is not None and found.startswith(hit), found


def test_the_length_of_the_n_gram_is_exact(tmp_path: Path) -> None:
    words = [f"word{number}" for number in range(40)]
    letters = "".join(chr(0x4E00 + number) for number in range(60))
    for ngram, of_words, of_letters in ((None, 13, 20), (5, 5, 5)):
        index = indexed(tmp_path, {"words": [" ".join(words)], "letters": [letters]}, ngram)
        assert index.hit(" ".join(words[7 : 7 + of_words]))
        assert not index.hit(" ".join(words[7 : 6 + of_words]))
        assert index.hit(letters[7 : 7 + of_letters]) == f"letters/q0: {letters[7 : 7 + of_letters]}"
        assert not index.hit(letters[7 : 6 + of_letters])


def test_a_hash_alone_is_never_believed(tmp_path: Path) -> None:
    index = indexed(tmp_path, {"quiz": [_ENGLISH, _RUSSIAN]})
    assert index.hit(_ENGLISH)
    owners = np.load(tmp_path / "index" / "owners.npy")
    np.save(tmp_path / "index" / "owners.npy", 1 - owners)  # every hash now names the text that it is not from
    wrong = Index.open(tmp_path / "index")
    assert wrong.hit(_ENGLISH) is None
    assert wrong.hit(_RUSSIAN) is None


def test_a_text_of_millions_of_characters_is_looked_through_in_pieces(index: Index) -> None:
    for fill, question in (("lorem ipsum dolor ", _ENGLISH), ("春夏秋冬", _CHINESE)):
        for place in (999_950, 1_994_980, 2_100_000):
            text = (fill * 130_000)[:place] + " " + question + " " + (fill * 10_000)
            found = index.hit(text)
            assert found is not None, place


def test_texts_are_normalised_as_the_corpus_is(tmp_path: Path) -> None:
    write_documents(
        tmp_path / "evaluation.parquet", [row("quiz", 0, _ENGLISH.replace("rivers", "streams"))], raw_schema()
    )
    build(tmp_path / "evaluation.parquet", None, tmp_path / "index", lambda text: text.replace("streams", "rivers"))
    assert Index.open(tmp_path / "index").hit(_ENGLISH)


def test_counts_and_the_listing_add_up(tmp_path: Path) -> None:
    index = indexed(tmp_path, _SETS)
    figures = build(tmp_path / "evaluation.parquet", None, tmp_path / "index")
    assert figures["evaluation_sets"] == 3
    assert figures["evaluation_documents"] == 6
    assert figures["evaluation_documents_too_short"] == 2
    corpus = [_ENGLISH, "nothing of the kind", _CHINESE + _CHINESE, f"{_ENGLISH} again"]
    hits = [(f"d{number}", index.hit(text)) for number, text in enumerate(corpus)]
    listed = {entry.source: entry for entry in listing(tmp_path / "index", hits, examples=1)}
    assert [listed["quiz"].contaminated, listed["quiz"].found, listed["quiz"].documents] == [2, 1, 3]
    assert [listed["quiz/zh"].contaminated, listed["quiz/zh"].found] == [1, 1]
    assert [listed["short"].contaminated, listed["short"].ngrams, listed["short"].too_short] == [0, 1, 1]
    assert listed["quiz"].examples[0][0] == "d0"
    assert len(listed["quiz"].examples) == 1
    with pytest.raises(InkwellError, match="does not know: run tag again"):
        listing(tmp_path / "index", [("d0", "elsewhere/q1: words")])


def test_an_index_is_the_same_however_often_it_is_built(tmp_path: Path) -> None:
    indexed(tmp_path, _SETS)
    before = {path.name: path.read_bytes() for path in (tmp_path / "index").iterdir()}
    indexed(tmp_path, _SETS)
    assert before == {path.name: path.read_bytes() for path in (tmp_path / "index").iterdir()}


def test_an_evaluation_set_without_text_finds_nothing(tmp_path: Path) -> None:
    index = indexed(tmp_path, {"quiz": ["", "?"]})
    assert index.hit(_ENGLISH) is None


def test_what_is_no_index_is_told_in_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(InkwellError, match="holds no index of evaluation sets"):
        Index.open(tmp_path)
    (tmp_path / "index.json").write_text(json.dumps({"version": 0}))
    with pytest.raises(InkwellError, match="written by another version"):
        Index.open(tmp_path)
    with pytest.raises(InkwellError, match="does not exist"):
        build(tmp_path / "absent.parquet", None, tmp_path / "index")
