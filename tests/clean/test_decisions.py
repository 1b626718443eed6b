"""What clean decides about tagged documents: bounds by language, which duplicate stays, quotas, the mixture, noise."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from components.corpus.documents import clean_schema, removed_schema
from components.errors import InkwellError
from tests.curated import clean as clean_step
from tests.curated import rows_of, write_tagged

Decided = tuple[list[dict[str, Any]], dict[str, dict[str, Any]], dict[str, float]]
Decide = Callable[..., Decided]


@pytest.fixture
def decide(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Decide:
    """Clean tagged rows; returns what was kept, what was removed by id, and the metrics."""
    monkeypatch.chdir(tmp_path)

    def attempt(rows: list[dict[str, Any]], pairs: Any = (), seed: int = 1, **parameters: Any) -> Decided:
        write_tagged(tmp_path, rows, pairs)
        context = clean_step(tmp_path, seed, **parameters)
        removed = rows_of(tmp_path / "clean/removed.parquet", removed_schema())
        kept = rows_of(tmp_path / "clean/documents.parquet", clean_schema())
        assert len(kept) + len(removed) == len(rows)
        return kept, {row["id"]: row for row in removed}, context.metrics

    return attempt


def test_bounds_hold_by_language_and_can_be_moved(
    decide: Decide, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from components.corpus import policy

    monkeypatch.setattr(policy, "FOLDER", tmp_path / "policies")
    (tmp_path / "policies").mkdir()
    (tmp_path / "policies/own.yaml").write_text(
        "summary: own\nrules:\n  wordy: {statistic: words, minimum: 5}\nlanguages:\n  zh:\n    wordy: {minimum: 2}\n  th:\n    wordy: null\n"
    )
    rows = [{"language": code, "tags": {"words": 3.0}} for code in ("ru", "zh", "th", "ru")]
    rows += [{"language": "ru", "tags": {"words": 9.0}}, {"language": "ru", "tags": {"words": None}}]
    _, removed, metrics = decide(rows, policy="own")
    assert set(removed) == {"doc-0", "doc-3"}
    assert removed["doc-0"]["reason"] == "its number of words is 3, less than 5"
    assert (removed["doc-0"]["value"], removed["doc-0"]["threshold"]) == (3, 5)
    assert metrics["dropped_wordy"] == 2
    assert not decide(rows, policy="own", rules={"wordy": {"minimum": 1}})[1]
    assert not decide(rows, policy="own", rules={"wordy": {"off": True}})[1]
    with pytest.raises(InkwellError, match="did you mean 'wordy'"):
        decide(rows, policy="own", rules={"wordi": {"off": True}})
    with pytest.raises(InkwellError, match=r"words was not measured; add words to tag\.families"):
        decide([{}, {}, {}], policy="own")


def test_only_languages_that_were_asked_for_stay(decide: Decide) -> None:
    rows = [{"language": code} for code in ("zh", "ru", "zh", "und", "zh")]
    kept, removed, _ = decide(rows, languages=["zh"])
    assert {row["language"] for row in kept} == {"zh"}
    assert removed["doc-1"]["reason"] == "its language is ru, and clean.languages has zh"


def test_a_contaminated_document_goes_unless_it_may_stay(decide: Decide) -> None:
    rows: list[dict[str, Any]] = [{"contaminated_by": "exam/7: 春眠不觉晓"}, {}, {}]
    removed = decide(rows)[1]
    assert "exam/7: 春眠不觉晓" in removed["doc-0"]["reason"]
    assert not decide(rows, contaminated="keep")[1]


_COPIES = [
    {"text": "甲" * 20, "tags": {"quality": 0.9, "perplexity": 5.0}},
    {"text": "甲" * 30, "tags": {"quality": 0.1, "perplexity": 3.0}, "cluster": 0},
    {"text": "甲" * 25, "tags": {"quality": 0.5, "perplexity": 1.0}, "cluster": 0},
    {"text": "乙丙丁戊己庚辛壬癸子" * 2},
    {"text": "丑寅卯辰巳午未申酉戌" * 2},
]


@pytest.mark.parametrize(
    ("keep", "stays"), [("longest", "doc-1"), ("first", "doc-0"), ("quality", "doc-0"), ("perplexity", "doc-2")]
)
def test_the_preferred_document_of_a_cluster_stays(decide: Decide, keep: str, stays: str) -> None:
    pairs = [(0, 1, 0.8), (0, 2, 0.7), (1, 2, 0.9)]
    kept, removed, _ = decide(_COPIES, pairs, keep=keep)
    assert {row["duplicate_of"] for row in removed.values()} == {stays}
    [row] = [row for row in kept if row["id"] == stays]
    assert (row["cluster"], row["cluster_size"]) == ("doc-0", 3)


def test_a_chain_of_changes_removes_no_stranger_and_a_removed_twin_stands_for_nobody(decide: Decide) -> None:
    rows = [{"text": char * length, "cluster": 0} for char, length in (("甲", 30), ("乙", 20), ("丙", 12))]
    rows += [{}, {}]
    _, removed, _ = decide(rows, [(0, 1, 0.6), (1, 2, 0.6)])
    assert set(removed) == {"doc-1"}  # doc-2 resembles doc-1 only, which does not stay
    # what a rule dropped cannot be the reason for which another goes
    rows[0]["tags"] = {"symbols": 0.9}
    _, removed, _ = decide(rows, [(0, 1, 0.6), (1, 2, 0.6)])
    assert (removed["doc-0"]["rule"], removed["doc-2"]["duplicate_of"]) == ("symbols", "doc-1")
    assert "doc-1" not in removed
    with pytest.raises(InkwellError, match=r"clean\.jaccard = 0\.4 is below tag\.duplicates\.floor = 0\.5"):
        decide(rows, jaccard=0.4)
    assert set(decide(rows, [(0, 1, 0.6), (1, 2, 0.6)], jaccard=0.7)[1]) == {"doc-0"}


def test_a_topic_is_cut_to_its_share_by_its_least_typical_documents(decide: Decide) -> None:
    rows = [{"topic": 0, "tags": {"typicality": at / 100, "characters": 20.0}} for at in range(80)]
    rows += [{"topic": 1 + at % 2, "tags": {"typicality": 0.5, "characters": 20.0}} for at in range(40)]
    kept, removed, _ = decide(rows, topic_quota=0.5)
    shares = Counter(row["topic"] for row in kept)
    assert shares[0] / shares.total() == pytest.approx(0.5, abs=0.02)
    assert {row["rule"] for row in removed.values()} == {"topic_quota"}
    assert max(row["value"] for row in removed.values()) < min(
        int(row["id"].split("-")[1]) / 100 for row in kept if row["topic"] == 0
    )
    assert {row["topic"] for row in decide(rows, topics_dropped=[0, 2])[0]} == {1}


def test_denied_documents_leave_nothing_but_their_ids(decide: Decide, tmp_path: Path) -> None:
    rows = [{"text": "a line that was asked to be forgotten", "title": "forgotten", "tags": {"symbols": 0.9}}]
    rows += [{"text": "".join(chr(0x4E00 + 97 * at + step) for step in range(40))} for at in range(5)]
    kept, removed, metrics = decide(rows, denied=["doc-0", "doc-3"], keep_noise=0.99)
    assert {row["id"] for row in kept} == {"doc-1", "doc-2", "doc-4", "doc-5"}
    assert metrics["dropped_denied"] == 2
    assert (removed["doc-0"]["rule"], removed["doc-0"]["reason"]) == ("denied", "clean.denied names it")
    assert (removed["doc-0"]["text"], removed["doc-0"]["title"]) == ("", None)
    for name in ("review.jsonl", "summary.json"):
        assert "forgotten" not in (tmp_path / "clean" / name).read_text(encoding="utf-8")
    with pytest.raises(InkwellError, match=r"clean\.denied: no document has the id 'doc-33' \(2 of the 3 ids"):
        decide(rows, denied=["doc-0", "doc-33", "doc-44"])


def test_weights_repeat_and_thin_out_sources(decide: Decide) -> None:
    rows = [{"source": name, "tags": {"characters": 30.0}} for name in ["web"] * 200 + ["books"] * 100 + ["code"] * 50]
    kept, removed, _ = decide(rows, mixture={"weights": {"web": 0.5, "books": 2.5}})
    train = [row for row in kept if row["split"] == "train"]
    read = {
        name: sum(row["repeats"] for row in train if row["provenance"]["source"] == name)
        for name in ("web", "books", "code")
    }
    held_out = Counter(row["provenance"]["source"] for row in kept if row["split"] == "validation")
    assert read["code"] == 50 - held_out["code"]
    assert read["books"] / (100 - held_out["books"]) == pytest.approx(2.5, abs=0.15)
    assert 80 <= read["web"] + held_out["web"] <= 120
    assert {row["rule"] for row in removed.values()} == {"mixture"}
    assert {row["repeats"] for row in kept if row["split"] == "validation"} == {1}
    kept, _, _ = decide(
        rows, mixture={"weights": {"web": 1, "books": 1, "code": 1}, "by": "share", "maximum_repetition": 2}
    )
    read = Counter()
    for row in kept:
        if row["split"] == "train":
            read[row["provenance"]["source"]] += row["repeats"]
    assert max(read.values()) / min(read.values()) < 1.3, read
    assert max(row["repeats"] for row in kept) == 2
    with pytest.raises(InkwellError, match="no document is of a source 'book'; did you mean 'books'"):
        decide(rows, mixture={"weights": {"book": 2}})


def test_some_noise_may_stay_in_training_and_is_marked(decide: Decide) -> None:
    rows: list[dict[str, Any]] = [{"tags": {"symbols": 0.9}} for _ in range(200)] + [{} for _ in range(100)]
    kept, removed, metrics = decide(rows, keep_noise=0.3)
    noise = [row for row in kept if row["noise"]]
    assert 35 <= len(noise) <= 80
    assert {row["noise"] for row in noise} == {"symbols"}
    assert {row["split"] for row in noise} == {"train"}
    assert metrics["kept_as_noise"] == len(noise) == 200 - len(removed)
    assert not decide(rows)[2]["kept_as_noise"]


def test_repeated_passages_are_cut_when_asked_for(decide: Decide) -> None:
    text = "开头十个不同的字在此。重复的一段话重复的一段话。结尾的文字也在这里。"
    rows = [
        {"text": text, "repeated_spans": [{"start": 11, "end": 24}], "tags": {"substrings": 0.4}},
        {"text": "全都重复" * 5, "repeated_spans": [{"start": 0, "end": 20}], "tags": {"substrings": 1.0}},
        {"tags": {"substrings": 0.0}},
        {"tags": {"substrings": 0.0}},
    ]
    kept, removed, _ = decide(rows, substrings="cut")
    assert kept[0]["text"] == text[:11] + text[24:]
    assert removed["doc-1"]["rule"] == "repeated_elsewhere"
    assert [row["text"] for row in decide(rows)[0][:2]] == [rows[0]["text"], rows[1]["text"]]


def test_a_person_gets_to_read_what_is_nearest_to_each_bound(decide: Decide, tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [{"tags": {"symbols": at / 100}} for at in range(100)]
    decide(rows, review_sample=4)
    lines = [json.loads(line) for line in (tmp_path / "clean/review.jsonl").read_text(encoding="utf-8").splitlines()]
    sides = {
        side: [row["value"] for row in lines if row["rule"] == "symbols" and row["side"] == side]
        for side in ("dropped", "kept")
    }
    assert {0.31, 0.32} <= set(sides["dropped"])
    assert {0.30, 0.29} <= set(sides["kept"])
    assert len(sides["dropped"]) == len(sides["kept"]) == 4
    assert all(row["reason"] for row in lines if row["side"] == "dropped")


def test_noise_brings_back_nothing_that_is_objectionable_otherwise(decide: Decide) -> None:
    rows: list[dict[str, Any]] = [
        {"contaminated_by": "exam/7: 春眠不觉晓", "topic": at % 2, "tags": {"symbols": 0.9}} for at in range(60)
    ]
    rows += [{"topic": 2} for _ in range(20)]
    kept, removed, _ = decide(rows, keep_noise=0.99)
    assert {row["rule"] for row in removed.values()} == {"contaminated"}
    kept, _, _ = decide(rows, keep_noise=0.99, contaminated="keep", topics_dropped=[0])
    assert {row["topic"] for row in kept} == {1, 2}
    assert sum(bool(row["noise"]) for row in kept) > 20


@pytest.mark.parametrize("seed", range(6))
def test_noise_is_never_held_out_not_even_from_the_smallest_corpus(decide: Decide, seed: int) -> None:
    rows: list[dict[str, Any]] = [{"tags": {"symbols": 0.9}} for _ in range(30)] + [{}, {}]
    kept, _, _ = decide(rows, seed=seed, keep_noise=0.9, validation_fraction=0.01)
    assert len([row for row in kept if row["noise"]]) > 10
    assert [row["noise"] for row in kept if row["split"] == "validation"] == [None]


def test_noise_takes_no_good_document_with_it(decide: Decide) -> None:
    rows: list[dict[str, Any]] = [
        {"text": "甲" * 40, "cluster": 2 * at, "tags": {"symbols": 0.9}} if at % 2 == 0 else {"cluster": 2 * (at - 1)}
        for at in range(40)
    ]
    rows = [{**row, "cluster": at - at % 2} for at, row in enumerate(rows)]
    kept, _, metrics = decide(rows, [(at, at + 1, 0.9) for at in range(0, 40, 2)], keep_noise=0.9)
    assert {row["id"] for row in kept} == {f"doc-{at}" for at in range(1, 40, 2)}
    assert metrics["dropped_near_duplicate"] > 10


def test_a_copy_stays_where_the_mixture_leaves_out_the_document_that_it_copies(decide: Decide) -> None:
    # Each text stands in a long document of the web, which would be preferred, and in a book.
    rows = [
        {"source": ("web", "books")[at % 2], "cluster": at - at % 2, "tags": {"characters": 20.0 - at % 2}}
        for at in range(80)
    ]
    pairs = [(at, at + 1, 0.9) for at in range(0, 80, 2)]
    for weight, mixture in ((0, {"web": 0}), (0.3, {"web": 0.3})):
        kept, removed, _ = decide(rows, pairs, mixture={"weights": mixture})
        by_source = Counter(row["provenance"]["source"] for row in kept)
        assert by_source.total() == 40, "one of each pair"
        assert by_source["web"] == 0 if weight == 0 else 3 < by_source["web"] < 25
        ids = {row["id"] for row in kept}
        assert {row["duplicate_of"] for row in removed.values() if row["duplicate_of"]} <= ids
    assert sum(row["repeats"] for row in decide(rows, pairs, mixture={"weights": {"books": 2}})[0]) == 40


def test_a_mixture_that_reads_nothing_is_told(decide: Decide) -> None:
    for by in ("share", "repetition"):
        with pytest.raises(InkwellError, match=r"source s is read 0 times an epoch.*change clean\.mixture"):
            decide([{}, {}, {}], mixture={"weights": {"s": 0}, "by": by})
    with pytest.raises(InkwellError, match=r"clean\.rules\.symbols"):
        decide([{"tags": {"symbols": 0.9}}] * 3, mixture={"weights": {"s": 2}, "by": "share"})


@pytest.mark.parametrize(
    ("row", "parameters", "told"),
    [
        ({}, {"keep": "quality"}, r"clean\.keep = quality.*roles good and bad"),
        ({}, {"keep": "perplexity"}, r"clean\.keep = perplexity.*set tag\.perplexity\.order"),
        ({}, {"substrings": "cut"}, r"clean\.substrings = cut.*set tag\.duplicates\.substring_characters"),
        ({}, {"topic_quota": 0.5}, r"clean\.topic_quota.*set tag\.topics\.clusters"),
        ({"topic": 0}, {"topic_quota": 0.9}, r"clean\.topic_quota = 0\.9: 1 topic\(s\).*at least 1\.0"),
        ({"topic": 0}, {"topics_dropped": [1]}, r"clean\.topics_dropped: no document is of a topic 1; they are 0 to 0"),
        ({}, {"topics_dropped": [1]}, r"clean\.topics_dropped.*set tag\.topics\.clusters"),
        ({"same_text": -1}, {"exact_duplicates": False}, r"clean\.exact_duplicates.*tag\.duplicates\.bloom"),
    ],
)
def test_what_cannot_be_decided_is_told(
    decide: Decide, row: dict[str, Any], parameters: dict[str, Any], told: str
) -> None:
    with pytest.raises(InkwellError, match=told):
        decide([{}, {}, {}, row] if "same_text" in row else [row] * 4, **parameters)


def test_a_policy_may_not_call_a_rule_like_a_decision(
    decide: Decide, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from components.corpus import policy

    monkeypatch.setattr(policy, "FOLDER", tmp_path / "policies")
    (tmp_path / "policies").mkdir()
    (tmp_path / "policies/own.yaml").write_text("rules:\n  mixture: {statistic: symbols, maximum: 0.1}\n")
    with pytest.raises(InkwellError, match=r"'own' calls a rule 'mixture'"):
        decide([{}, {}], policy="own")


def test_stop_words_that_nobody_knows_are_no_mistake(decide: Decide) -> None:
    rules = {name: {"off": True} for name in ("word_count", "word_length")}
    tags = dict.fromkeys(
        [
            "hashes_and_ellipses",
            "bullet_lines",
            "ellipsis_lines",
            "duplicate_lines",
            "duplicate_line_characters",
            "duplicate_paragraphs",
            "duplicate_paragraph_characters",
            "top_2gram",
            "top_3gram",
            "top_4gram",
        ],
        0.0,
    )
    tags |= {f"duplicate_{n}grams": 0.0 for n in range(5, 11)} | {"alphabetic_words": 1.0, "words": 9.0}
    rows = [{"language": "haw", "tags": tags} for _ in range(3)]
    assert len(decide(rows, policy="gopher", rules=rules)[0]) == 3


def test_what_is_left_of_a_cut_document_is_no_marker_and_not_too_little(decide: Decide) -> None:
    rows = [
        {"text": "头" * 20 + "尾。", "repeated_spans": [{"start": 0, "end": 20}], "tags": {"substrings": 0.9}},
        {"text": "前面的文字在这里<|im_重复的话start|>", "repeated_spans": [{"start": 13, "end": 17}], "tags": {"substrings": 0.2}},
        {"text": "头" * 20 + "？！" * 8, "repeated_spans": [{"start": 0, "end": 20}], "tags": {"substrings": 0.6}},
        {"tags": {"substrings": 0.0}},
    ]  # fmt: skip
    kept, removed, _ = decide(rows, substrings="cut")
    assert [row["id"] for row in kept] == ["doc-1", "doc-3"]
    assert kept[0]["text"] == kept[0]["content"] == "前面的文字在这里<\u200b|im_start|>"
    assert (
        removed["doc-0"]["reason"] == "90.0% of it stands in earlier documents, and what is left is too short"
    )  # policy base: 10
    assert removed["doc-2"]["rule"] == "repeated_elsewhere"  # no letter is left


def test_what_a_person_reads_is_nearest_to_the_bound_of_its_language(
    decide: Decide, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from components.corpus import policy

    monkeypatch.setattr(policy, "FOLDER", tmp_path / "policies")
    (tmp_path / "policies").mkdir()
    (tmp_path / "policies/own.yaml").write_text(
        "rules:\n  wordy: {statistic: words, minimum: 50}\nlanguages:\n  zh:\n    wordy: {minimum: 80}\n  th:\n    wordy: null\n"
    )
    rows = [{"language": code, "tags": {"words": float(at)}} for code in ("ru", "zh", "th") for at in range(1, 200)]
    decide(rows, policy="own", review_sample=4)
    lines = [json.loads(line) for line in (tmp_path / "clean/review.jsonl").read_text(encoding="utf-8").splitlines()]
    kept = [row for row in lines if (row["rule"], row["side"]) == ("wordy", "kept")]
    assert {(row["language"], row["value"], row["threshold"]) for row in kept} >= {("ru", 50, 50), ("zh", 80, 80)}
    assert {row["language"] for row in kept} == {"ru", "zh"}


def test_a_bound_that_would_drop_everything_is_told(decide: Decide) -> None:
    with pytest.raises(
        InkwellError, match=r"clean\.rules\.symbols would drop everything: its minimum 0\.5 exceeds its maximum 0\.3"
    ):
        decide([{}, {}], rules={"symbols": {"minimum": 0.5}})


def test_off_may_be_written_as_yaml_reads_it(tmp_path: Path) -> None:
    from components.configuration import load

    (tmp_path / "params.yaml").write_text(
        "ingest: {sources: [{name: a, kind: path, location: a}]}\nclean: {rules: {symbols: {off: true}}}\n"
    )
    assert load(tmp_path / "params.yaml").clean.rules["symbols"].off
