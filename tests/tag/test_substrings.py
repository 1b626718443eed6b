"""Passages that an earlier document holds: found exactly, against two oracles, at any size of the files in between."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from components.corpus.tagged_documents import tagged_schema
from components.tag.duplicates import substrings
from components.tag.duplicates.substrings import Spans, repeated_spans, rolling_hashes

_ALPHABET = "春江 花月😀аé"


def _write(folder: Path, documents: Sequence[str | None], size: int = 7) -> list[Path]:
    parts = []
    for start in range(0, max(1, len(documents)), size):
        parts.append(folder / f"{start:05}.parquet")
        pq.write_table(pa.table({"text": pa.array(documents[start : start + size], "string")}), parts[-1])
    return parts


def _find(folder: Path, documents: Sequence[str | None], length: int) -> Spans:
    found = repeated_spans(_write(folder, documents), length, folder / "work", 1)
    assert not list((folder / "work").iterdir()), "temporary files are left"
    return found


def _spans(found: Spans) -> list[list[tuple[int, int]]]:
    rows = found.between(0, len(found.shares)).to_pylist()
    return [[(span["start"], span["end"]) for span in row] for row in rows]


def _joined(covered: Sequence[bool]) -> list[tuple[int, int]]:
    borders = np.flatnonzero(np.diff([False, *covered, False]))
    return list(zip(borders[::2].tolist(), borders[1::2].tolist(), strict=True))


def _by_hand(documents: Sequence[str], length: int) -> list[list[tuple[int, int]]]:
    """Every stretch looked up in a dictionary of the first documents that hold it."""
    first: dict[str, int] = {}
    found = []
    for number, text in enumerate(documents):
        covered = [False] * len(text)
        for at in range(len(text) - length + 1):
            if first.setdefault(text[at : at + length], number) < number:
                covered[at : at + length] = [True] * length
        found.append(_joined(covered))
    return found


def _by_suffix_array(documents: Sequence[str], length: int) -> list[list[tuple[int, int]]]:
    """Suffixes of the whole corpus that are neighbours in the order and share `length` characters form groups."""
    from pydivsufsort import divsufsort, kasai

    codes = np.array([ord(character) for character in "".join(documents)], dtype=np.uint32)
    owner = np.repeat(np.arange(len(documents)), [len(text) for text in documents])
    suffixes = divsufsort(np.unique(codes, return_inverse=True)[1].astype(np.uint8))
    common = kasai(np.unique(codes, return_inverse=True)[1].astype(np.uint8), suffixes)
    covered = np.zeros(len(codes), dtype=bool)
    group: list[int] = []
    for at, suffix in enumerate(suffixes.tolist()):
        if suffix + length <= len(codes) and owner[suffix] == owner[suffix + length - 1]:
            group.append(suffix)
        if at == len(suffixes) - 1 or common[at] < length:
            for place in group:
                if owner[place] > min(owner[other] for other in group):
                    covered[place : place + length] = True
            group = []
    starts = np.cumsum([0, *(len(text) for text in documents)])
    return [_joined(covered[a:b].tolist()) for a, b in itertools.pairwise(starts)]


def _corpus(rng: random.Random) -> list[str]:
    common = "".join(rng.choices(_ALPHABET, k=60))
    documents = []
    for _ in range(rng.randint(1, 25)):
        text = "".join(rng.choices(_ALPHABET, k=rng.randint(0, 30)))
        if rng.random() < 0.5:
            at, start = rng.randint(0, len(text)), rng.randrange(50)
            text = text[:at] + common[start : start + rng.randint(1, 20)] + text[at:]
        documents.append(text)
    return documents


@pytest.mark.parametrize("seed", range(12))
def test_spans_equal_those_of_a_dictionary_and_of_a_suffix_array(
    seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = random.Random(seed)
    # small blocks and files, so that stretches lie across their borders
    monkeypatch.setattr(substrings, "_BLOCK", rng.choice([7, 50, 2**22]))
    monkeypatch.setattr(substrings, "_TOGETHER", rng.choice([20, 100, 2**23]))
    length, documents = rng.choice([3, 5, 8]), _corpus(rng)
    found = _find(tmp_path, documents, length)
    wanted = _by_hand(documents, length)
    assert _spans(found) == wanted == _by_suffix_array(documents, length)
    shares = [sum(b - a for a, b in spans) / max(1, len(text)) for spans, text in zip(wanted, documents, strict=True)]
    assert found.shares.tolist() == pytest.approx(shares)
    assert found.figures["repeated_passages"] == sum(map(len, wanted))
    assert found.figures["documents_with_repeated_passages"] == sum(map(bool, wanted))


def test_passages_are_what_a_reader_would_mark(tmp_path: Path) -> None:
    passage = "Все счастливые семьи похожи друг на друга, каждая несчастливая семья несчастлива по-своему."
    documents = [f"Эпиграф. {passage}", f"{passage} — так начинается роман.", passage.replace("друг", "враг"), None, ""]
    found = _find(tmp_path, documents, 40)
    start = len("Все счастливые семьи похожи враг на вра")
    assert _spans(found) == [[], [(0, len(passage))], [(start, len(passage))], [], []]
    assert documents[2] is not None
    assert documents[2][start:] == passage[start:]
    assert found.shares[1] == pytest.approx(len(passage) / len(documents[1] or ""))
    column = tagged_schema().field("repeated_spans").type
    assert found.between(1, 3).cast(column).to_pylist() == [
        [{"start": 0, "end": 91}],
        [{"start": start, "end": 91}],
    ]


def test_a_refrain_inside_one_document_is_its_own_business(tmp_path: Path) -> None:
    refrain = "路漫漫其修远兮，吾将上下而求索。"
    assert _spans(_find(tmp_path, [refrain * 5, "春" * 40, "春" * 30], 10)) == [[], [], [(0, 30)]]


def test_a_million_repeated_characters_and_no_text_at_all(tmp_path: Path) -> None:
    found = _find(tmp_path, ["а" * 1_000_000, "б" + "а" * 500], 100)
    assert _spans(found) == [[], [(1, 501)]]
    assert _spans(_find(tmp_path, ["", "短"], 100)) == [[], []]


def test_stretches_that_only_share_a_hash_are_not_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = random.Random(1)
    documents = _corpus(rng)
    # Two bits of the hash are left: nearly everything collides, and only what is really the same may be marked.
    monkeypatch.setattr(
        substrings, "rolling_hashes", lambda codes, length: rolling_hashes(codes, length) & np.uint64(3)
    )
    wanted = _by_hand(documents, 5)
    for spans, right in zip(_spans(_find(tmp_path, documents, 5)), wanted, strict=True):
        assert all(any(a <= start and end <= b for a, b in right) for start, end in spans)


def test_rolling_hashes_do_not_depend_on_where_a_stretch_stands() -> None:
    codes = np.array([3, 1, 4, 1, 5, 9, 2, 6, 3, 1, 4, 1, 5], dtype=np.uint32)
    hashes = rolling_hashes(codes, 4)
    assert len(hashes) == 10
    assert (hashes[0], hashes[1]) == (hashes[8], hashes[9])
    assert len(set(hashes.tolist())) == 8
    assert rolling_hashes(codes[:3], 4).tolist() == []
