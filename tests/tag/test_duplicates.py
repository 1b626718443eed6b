"""Planted copies are found, strangers are left alone, every verdict can be checked, and the work stays linear."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks.planted_duplicates import edited, outcome, planted
from components.configuration.tag import Duplicates
from components.corpus.shingles import code_points, comparison_key, jaccard, sets_of, shingles
from components.errors import InkwellError
from components.tag.duplicates import SEEN, Found, find, pairs, signatures
from tests import curated
from tests.conftest import SHARED_WAR_AND_PEACE

_LETTERS = {
    "zh": "春秋山水江河日月云雨风雪花草松竹梅兰鸟鱼马舟楼台亭桥城门路客人心情愁思梦酒琴书剑灯火烟霜露星天地东西南北高低远近长短新旧来去归行坐卧闻见听望别逢开落生老青白红黄千万一二三四五六七八九十里年时夜晓暮寒暖清浊古今",
    "ru": "оеаинтсрвлкмдпуяыьгзбчйхжшюцщэфёъ",
    "en": "etaoinshrdlucmfwypvbgkjqxz",
}
_CUMULATED = list(itertools.accumulate(1 / (rank + 5) for rank in range(3000)))


@cache
def _vocabulary(language: str) -> list[str]:
    rng, letters = random.Random(language), _LETTERS[language]
    return ["".join(rng.choices(letters, range(len(letters), 0, -1), k=rng.randint(2, 9))) for _ in range(3000)]


def _document(language: str, rng: random.Random) -> str:
    """60 Chinese characters, or 90 words of made-up Russian or English drawn from a common vocabulary."""
    letters = _LETTERS[language]
    if language == "zh":
        return "\n".join(
            "".join(rng.choices(letters, k=5)) + "，" + "".join(rng.choices(letters, k=5)) + "。" for _ in range(6)
        )
    words = _vocabulary(language)
    return " ".join(rng.choices(words, cum_weights=_CUMULATED, k=90))


def _write(folder: Path, documents: Sequence[str | None], sizes: Sequence[int] = ()) -> list[Path]:
    """Parts of the given sizes, the rest in a last one."""
    borders = [0, *itertools.accumulate(sizes), len(documents)]
    parts = []
    for number, (start, end) in enumerate(itertools.pairwise(borders)):
        parts.append(folder / f"{number:05}.parquet")
        pq.write_table(
            pa.table({"id": [str(row) for row in range(start, end)], "text": pa.array(documents[start:end], "string")}),
            parts[-1],
        )
    return parts


@dataclass
class Look:
    """What `find` found, with the pairs read and the keys by hand."""

    found: Found
    keys: list[str]
    pairs: dict[tuple[int, int], float]

    @property
    def length(self) -> int:
        return int(self.found.figures["shingle_characters"])

    @property
    def clusters(self) -> list[int]:
        clusters: list[int] = self.found.cluster.tolist()
        return clusters

    def similarity(self, one: int, other: int) -> float:
        return jaccard(*(shingles(self.keys[row], self.length) for row in (one, other)))

    def greedy(self, order: Sequence[int], threshold: float = 0.5) -> list[int]:
        """Rows that stay when each, in order of preference, goes if a recorded pair ties it to one that stays."""
        twins: dict[int, list[int]] = {}
        for (a, b), similarity in self.pairs.items():
            if similarity >= threshold:
                twins.setdefault(a, []).append(b)
                twins.setdefault(b, []).append(a)
        kept: set[int] = set()
        for row in order:
            if self.found.same_text[row] == row and kept.isdisjoint(twins.get(row, [])):
                kept.add(row)
        return sorted(kept)


@pytest.fixture
def look(tmp_path: Path) -> object:
    def attempt(
        documents: Sequence[str | None],
        sizes: Sequence[int] = (),
        workers: int = 1,
        seed: int = 1,
        **parameters: object,
    ) -> Look:
        parts = _write(tmp_path, documents, sizes)
        work = tmp_path / "work"
        found = find(parts, Duplicates.model_validate(parameters), seed, work, workers)
        assert [file.name for file in work.iterdir()] == ["pairs.parquet"], "temporary files are left"
        table = pq.read_table(found.pairs)
        rows = zip(*(table[name].to_pylist() for name in ("a", "b")), strict=True)
        return Look(
            found,
            [comparison_key(text or "") for text in documents],
            dict(zip(rows, table["similarity"].to_pylist(), strict=True)),
        )

    return attempt


@pytest.mark.parametrize(("share", "recall"), [(0.01, 0.99), (0.02, 0.99), (0.05, 0.93)])
@pytest.mark.parametrize("language", ["zh", "ru", "en"])
def test_planted_near_duplicates_are_found_and_nothing_else(look, language: str, share: float, recall: float) -> None:
    rng = random.Random(f"{language} {share}")
    originals = [_document(language, rng) for _ in range(300)]
    copies = [edited(text, share, _LETTERS[language], rng) for text in originals[:150]]
    seen = look(originals + copies, sizes=[7, 250])
    assert sum((at, 300 + at) in seen.pairs for at in range(150)) / 150 >= recall
    for (a, b), similarity in seen.pairs.items():
        assert a < b
        assert similarity == seen.similarity(a, b) >= 0.5
        assert a % 300 == b % 300, "strangers"
    for row, root in enumerate(seen.clusters):
        assert root == min(row, *(a for a, b in seen.pairs if b == row), row)


@pytest.mark.parametrize("language", ["zh", "ru", "en"])
def test_recall_through_tag_and_clean_with_no_false_removal(language: str, tmp_path: Path) -> None:
    """What `benchmarks.curation` measures at full size: the same code, small."""
    rng = random.Random(language)

    def clean(documents: Sequence[str]) -> tuple[list[bool], dict[int, int], int]:
        rows = [curated.raw_row(text, number) for number, text in enumerate(documents)]
        curated.tag(tmp_path, rows, language=language)
        curated.clean(tmp_path, policy="none", kneser_ney_order=1, review_sample=0)
        kept = [False] * len(documents)
        for row in pq.read_table(tmp_path / "clean" / "documents.parquet")["id"].to_pylist():
            kept[int(row.removeprefix("doc-"))] = True
        removed = pq.read_table(tmp_path / "clean" / "removed.parquet").to_pylist()
        assert sum(kept) + len(removed) == len(documents)
        twins = {
            int(row["id"].removeprefix("doc-")): int(row["duplicate_of"].removeprefix("doc-"))
            for row in removed
            if row["duplicate_of"]
        }
        length = json.loads((tmp_path / "tagged" / "summary.json").read_text())["shingle_characters"]
        return kept, twins, length

    measured = outcome(planted([_document(language, rng) for _ in range(400)], 100, seed=2), clean)
    assert measured.recall[0.01] >= 0.99
    assert measured.recall[0.02] >= 0.99
    assert measured.recall[0.05] >= 0.93
    assert measured.removed >= 290
    assert measured.false == 0


def test_a_false_removal_would_be_noticed() -> None:
    texts = planted(
        ["春江潮水连海平海上明月共潮生", "何处春江无月明江流宛转绕芳甸", "月照花林皆似霰空里流霜不觉飞"], 1, seed=1
    )
    strangers = outcome(texts, lambda documents: ([True] + [False] * 5, dict.fromkeys(range(1, 6), 0), 3))
    assert strangers.false >= 4
    nobody = outcome(texts, lambda documents: ([True] * 6, {}, 3))
    assert set(nobody.recall.values()) == {0.0}


@pytest.mark.parametrize("language", ["zh", "en"])
def test_whichever_copy_is_preferred_one_of_hundreds_stays(look, language: str) -> None:
    rng = random.Random(11)
    page = "\n".join(_document(language, rng) for _ in range(2))
    copies = [edited(page, 0.03, _LETTERS[language], rng) for _ in range(300)]
    documents = copies + [_document(language, rng) for _ in range(100)]
    seen = look(documents)
    orders = {
        "longest": sorted(range(400), key=lambda row: -len(documents[row])),
        "first": list(range(400)),
        "last": list(range(399, -1, -1)),
        "any": rng.sample(range(400), 400),
    }
    for name, order in orders.items():
        kept = seen.greedy(order)
        assert set(range(300, 400)) <= set(kept), "a stranger went"
        assert len([row for row in kept if row < 300]) <= 3, name


@pytest.mark.parametrize("order", ["longest", "first"])
def test_crowded_buckets_still_lead_to_what_is_preferred_by_default(
    look, order: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pairs, "_BOUNDS", (8,))
    rng = random.Random(12)
    page = _document("ru", rng)
    copies = [edited(page, 0.02, _LETTERS["ru"], rng) for _ in range(300)]
    seen = look([*copies, *(_document("ru", rng) for _ in range(100))])
    assert seen.found.figures["crowded_buckets"] > 0
    assert seen.found.figures["compared_pairs"] < 300 * 299 / 2 / 2
    chosen = (
        sorted(range(400), key=lambda row: -len(copies[row]) if row < 300 else 0) if order == "longest" else range(400)
    )
    assert len([row for row in seen.greedy(list(chosen)) if row < 300]) <= 3
    assert set(seen.clusters[:300]) == {0}


def test_true_copies_behind_a_common_boilerplate_are_found(look, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pairs, "_BOUNDS", (8,))
    rng = random.Random(10)
    boilerplate = "".join(rng.choices(_LETTERS["zh"], k=200))
    pages = [boilerplate + "".join(rng.choices(_LETTERS["zh"], k=150)) for _ in range(600)]
    copies = [edited(page, 0.02, _LETTERS["zh"], rng) for page in pages[:100]]
    seen = look(pages + copies, shingle_characters=3, floor=0.7)
    assert seen.found.figures["crowded_buckets"] > 0
    assert sum((at, 600 + at) in seen.pairs for at in range(100)) >= 95


def test_proposals_grow_with_the_documents_and_not_with_their_square(look, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pairs, "_SMALL_BUDGET", 1000)
    rng = random.Random(10)
    boilerplate = "".join(rng.choices(_LETTERS["zh"], k=220))

    def compared(count: int) -> float:
        documents = [boilerplate + "".join(rng.choices(_LETTERS["zh"], k=110)) for _ in range(count)]
        seen = look(documents, bands=10)
        assert seen.found.figures["crowded_buckets"] > 0
        return seen.found.figures["compared_pairs"]

    assert compared(1200) <= compared(600) * 2.4


def test_neither_processes_nor_parts_nor_files_of_proposals_change_the_outcome(
    look, monkeypatch: pytest.MonkeyPatch
) -> None:
    from components.tag.duplicates import codes

    monkeypatch.setattr(codes, "_SMALL", 0)  # start processes however little there is to do
    rng = random.Random(4)
    documents = [_document("ru", rng) for _ in range(80)]
    documents += [edited(text, 0.03, _LETTERS["ru"], rng) for text in documents] + documents[:10] + ["", "да"]
    alone = look(documents)
    together = look(documents, sizes=[0, 30, 1, 60], workers=2)
    monkeypatch.setattr(pairs, "_PROPOSALS_AT_ONCE", 100)
    spread = look(documents)
    assert alone.pairs
    for other in (together, spread):
        assert other.pairs == alone.pairs
        assert other.clusters == alone.clusters
        assert other.found.same_text.tolist() == alone.found.same_text.tolist()
    assert together.found.figures == alone.found.figures


def test_exact_copies_differ_in_punctuation_and_case_only(look) -> None:
    seen = look(["Hello, quiet world of mine", "hello quiet — WORLD of mine!", "something else altogether, friend"])
    assert seen.found.same_text.tolist() == [0, 0, 2]
    assert seen.clusters == [0, 0, 2]
    assert seen.pairs == {}, "pairs are of first documents only"


def test_documents_shorter_than_a_shingle_match_nothing_but_their_own_copies(look) -> None:
    seen = look(["春", "秋", "春", "", "。", None], shingle_characters=3)
    assert seen.pairs == {}
    assert seen.clusters == seen.found.same_text.tolist() == [0, 1, 0, 3, 4, 5]


@pytest.mark.parametrize("documents", [[], [""], ["春江花月夜"]])
def test_hardly_any_documents(look, documents: list[str]) -> None:
    seen = look(documents)
    assert seen.clusters == list(range(len(documents)))
    assert seen.length == 3


def test_a_chain_is_one_cluster_and_only_its_links_are_pairs(look) -> None:
    rng = random.Random(5)
    river = "".join(rng.choices(_LETTERS["zh"], k=140))
    seen = look([river[:100], river[20:120], river[40:], _document("zh", rng)], shingle_characters=3)
    assert seen.similarity(0, 2) < 0.5, "only the middle one ties the ends together"
    assert set(seen.pairs) == {(0, 1), (1, 2)}
    assert seen.clusters == [0, 0, 0, 3]


def test_a_bloom_filter_knows_what_was_seen_and_not_where(look) -> None:
    rng = random.Random(6)
    texts = [_document("en", rng) for _ in range(50)]
    documents = [*texts, texts[3].upper(), "", "…", texts[7]]
    table, filtered = look(documents), look(documents, bloom=True)
    assert filtered.found.same_text.tolist() == [*range(50), SEEN, 51, 52, SEEN]
    assert table.found.same_text.tolist() == [*range(50), 3, 51, 52, 7]
    assert (filtered.found.figures["bloom_hits"], table.found.figures["bloom_hits"]) == (2, 0)
    assert filtered.clusters == list(range(54))
    rare = look([*texts, texts[0]], bloom=True, bloom_documents=1)
    assert rare.found.figures["bloom_hits"] == 1, "the filter grows with the corpus"


def test_the_shingle_grows_with_what_chance_shares(look) -> None:
    rng = random.Random(8)
    assert look([_document("zh", rng) for _ in range(60)]).length == 3
    assert look(["".join(_document("en", rng) for _ in range(20)) for _ in range(10)]).length >= 4
    mixed = ["".join(_document("en", rng) for _ in range(20)) for _ in range(10)]
    mixed += ["".join(_document("zh", rng) for _ in range(150)) for _ in range(10)]
    assert look(mixed).length >= 4, "that the languages have nothing in common says nothing of either"
    boilerplate = _document("en", rng)
    assert look([boilerplate + boilerplate[at:] for at in range(60)]).length == 3, "copies tell nothing of strangers"


def test_a_very_long_document_is_signed_in_pieces(look, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = random.Random(9)
    documents = ["".join(rng.choices(_LETTERS["ru"], k=3000)) for _ in range(6)] + ["а" * 5000]
    documents += [edited(text, 0.02, _LETTERS["ru"], rng) for text in documents[:6]]
    whole = look(documents, shingle_characters=4)
    monkeypatch.setattr(signatures, "_PIECE", 256)
    monkeypatch.setattr(signatures, "_SIGNED_AT_ONCE", 600)
    assert look(documents, shingle_characters=4).pairs == whole.pairs
    assert len(whole.pairs) == 6


def test_pieces_hold_every_shingle_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signatures, "_PIECE", 10)
    starts, ends = np.array([0, 12, 100]), np.array([12, 15, 141])
    begins, stops, first = signatures.pieces(starts, ends, 3)
    held = [[*range(begin, stop - 2)] for begin, stop in zip(begins.tolist(), stops.tolist(), strict=True)]
    assert sorted(itertools.chain(*held)) == [*range(10), 12, *range(100, 139)]
    assert first.tolist() == [0, 1, 2]
    rng = random.Random(1)
    texts = ["".join(rng.choices("аб春", k=count)) for count in (0, 2, 55, 9, 31)]
    codes, offsets = code_points(texts)
    pieced = signatures.sets_of_stretches(codes, offsets[:-1], offsets[1:], 3)
    whole = sets_of(texts, 3)
    assert [part.tolist() for part in pieced] == [part.tolist() for part in whole]


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    broken = tmp_path / "broken.parquet"
    broken.write_bytes(b"no parquet")
    with pytest.raises(InkwellError, match=r"broken\.parquet is no readable Parquet file"):
        find([broken], Duplicates(), 1, tmp_path / "work", 1)
    pq.write_table(pa.table({"words": ["a"]}), broken)
    with pytest.raises(InkwellError, match="no column 'text'"):
        find([broken], Duplicates(), 1, tmp_path / "work", 1)


@pytest.mark.skipif(not SHARED_WAR_AND_PEACE.is_dir(), reason="the shared test data is not beside the project")
def test_pages_of_a_real_novel_are_not_taken_for_duplicates_and_edited_ones_are(look) -> None:
    text = (SHARED_WAR_AND_PEACE / "wap1.txt").read_bytes().decode("cp1251")
    pages = [text[at : at + 6000] for at in range(0, 600_000, 6000)]
    rng = random.Random(9)
    seen = look([*pages, *(edited(page, 0.05, _LETTERS["ru"], rng) for page in pages[:40])])
    assert seen.length >= 4
    assert all(a % 100 == b % 100 for a, b in seen.pairs)
    assert len(seen.pairs) >= 39
