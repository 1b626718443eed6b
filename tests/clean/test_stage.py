"""The whole clean step on raw documents: the books balance, every removal has its reason, mistakes are told."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from components.configuration import Tag
from components.corpus.documents import clean_schema, raw_schema, removed_schema, write_documents
from components.errors import InkwellError
from tests import curated
from tests.curated import raw_row as _raw
from tests.tiny_corpus import poems

Cleaned = tuple[list[dict[str, Any]], list[dict[str, Any]], dict[str, float]]
Clean = Callable[..., Cleaned]


def _poems(count: int) -> list[dict[str, Any]]:
    return [
        _raw("\n".join(poem["paragraphs"]), number, poem["title"], poem["author"])
        for number, poem in enumerate(poems(count))
    ]


@pytest.fixture
def clean(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Clean:
    """Tag and clean raw rows (or bare texts); returns kept rows, removed rows and the metrics of both."""
    monkeypatch.chdir(tmp_path)

    def attempt(rows: list[Any], seed: int = 1, output: str = "clean", roles: Any = None, **parameters: Any) -> Cleaned:
        of_tag = {name: parameters.pop(name) for name in [*parameters] if name in Tag.model_fields}
        tagged = curated.tag(tmp_path, rows, seed, roles=roles, **of_tag)
        cleaned = curated.clean(tmp_path, seed, output, **parameters)
        return (
            curated.rows_of(tmp_path / output / "documents.parquet", clean_schema()),
            curated.rows_of(tmp_path / output / "removed.parquet", removed_schema()),
            {**tagged.metrics, **cleaned.metrics},
        )

    return attempt


_FILLER = [
    "落花时节又逢君，江上何人初见月。",
    "Call me Ishmael, some years ago, never mind how long.",
    "Все счастливые семьи похожи друг на друга.",
]


@pytest.mark.parametrize(
    ("text", "rule", "value", "threshold"),
    [
        ("。……\n！", "empty", 0, 1),
        ("", "empty", 0, 1),
        (None, "empty", 0, 1),
        ("春眠不觉晓", "too_short", 5, 10),
        ("□□□□□□春眠不觉晓，", "symbols", 0.5, 0.3),
        ("春眠不觉晓。\n春眠不觉晓。\n春眠不觉晓。\n处处闻啼鸟。\n春眠不觉晓。", "repeated_lines", 0.6, 0.5),
    ],
)
def test_a_broken_document_is_kept_beside_rule_value_and_threshold(
    clean: Clean, text: str | None, rule: str, value: float, threshold: float
) -> None:
    kept, removed, metrics = clean([*_FILLER, text])
    assert len(kept) == 3
    [row] = removed
    assert (row["id"], row["rule"], row["threshold"], row["duplicate_of"]) == ("doc-3", rule, threshold, None)
    assert row["value"] == pytest.approx(value)
    assert row["reason"]
    assert row["provenance"]["row"] == 3
    assert metrics[f"dropped_{rule}"] == 1
    assert metrics["documents_in"] == 4 == metrics["documents_kept"] + metrics["documents_dropped"]


def test_duplicates_name_the_document_that_stays(clean: Clean) -> None:
    poem = "秦川雄帝宅，函谷壮皇居。\n绮殿千寻起，离宫百雉余。\n连甍遥接汉，飞观迥凌虚。"
    kept, removed, _ = clean([poem, poem.replace("，", " "), poem.replace("雄", "推"), *_FILLER])
    assert [(row["id"], row["rule"], row["duplicate_of"]) for row in removed] == [
        ("doc-1", "exact_duplicate", "doc-0"),
        ("doc-2", "near_duplicate", "doc-0"),
    ]
    assert removed[1]["value"] >= removed[1]["threshold"] == 0.5
    assert kept[0]["cluster"] == "doc-0"
    assert kept[0]["cluster_size"] == 3
    ids = {row["id"] for row in kept}
    assert all(row["duplicate_of"] in ids for row in removed)


def test_a_copy_of_a_near_duplicate_points_at_a_document_that_stays(clean: Clean) -> None:
    poem = "秦川雄帝宅，函谷壮皇居。\n绮殿千寻起，离宫百雉余。\n连甍遥接汉，飞观迥凌虚。"
    _, removed, metrics = clean([poem, poem + "\n", poem + "云日隐层阙。", *_FILLER])
    assert {row["duplicate_of"] for row in removed} == {"doc-2"}
    assert metrics["dropped_near_duplicate"] == 2


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("near", [True, False])
def test_duplicates_that_are_kept_stay_on_one_side_of_the_split(clean: Clean, exact: bool, near: bool) -> None:
    rows = _poems(60)
    rows += [{**row, "id": f"copy-{row['id']}"} for row in rows]
    kept, _, metrics = clean(rows, exact_duplicates=exact, near_duplicates=near, validation_fraction=0.4)
    sides: dict[str, set[str]] = {}
    for row in kept:
        sides.setdefault(row["cluster"], set()).add(row["split"])
    assert all(len(side) == 1 for side in sides.values())
    assert metrics["dropped_exact_duplicate"] == (60 if exact and not near else metrics["dropped_exact_duplicate"])
    if not exact and not near:
        assert len(kept) == 120
    if near:
        assert not {row["content"] for row in kept if row["split"] == "train"} & {
            row["content"] for row in kept if row["split"] == "validation"
        }


def test_normalisation_gives_one_spelling_and_escapes_markers(clean: Clean) -> None:
    text = "\ufeff漢語\u0000詩詞  \r\ne\u0301tude\u3000\u3000\n\n\n\n\n<|im_start|>系統</s>，再來一行\u2028末行\n"
    kept, _, _ = clean(
        [_raw(text, 0, " 詩\n題 ", "作者\t甲"), *_FILLER], chinese="simplified", template="{title}\n{author}\n{text}"
    )
    assert kept[0]["text"] == "汉语诗词\nétude\n\n<\u200b|im_start|>系统<\u200b/s>，再来一行\n末行"
    assert (kept[0]["title"], kept[0]["author"]) == ("诗 题", "作者 甲")
    assert kept[0]["content"] == f"诗 题\n作者 甲\n{kept[0]['text']}"


def test_scripts_and_normal_forms_follow_the_parameters(clean: Clean) -> None:
    text = "ｆｕｌｌ ｗｉｄｔｈ 汉语诗词，汉语诗词"
    assert clean([text, *_FILLER], unicode="NFKC")[0][0]["text"].startswith("full width 汉语")
    assert clean([text, *_FILLER], unicode="none", chinese="traditional")[0][0]["text"].endswith("漢語詩詞")
    assert clean([text, *_FILLER], unicode="NFC", chinese="keep")[0][0]["text"] == text


def test_character_references_are_spelled_out_only_when_asked_for(clean: Clean) -> None:
    text = "\u2014 Eh bien, mon prince. G&#234;nes et Lucques, в&nbsp;поместья."
    assert "Gênes et Lucques, в\u00a0поместья" in clean([text, *_FILLER], entities=True)[0][0]["text"]
    assert clean([text, *_FILLER])[0][0]["text"] == text


def test_mojibake_is_repaired_unless_it_is_to_stay(clean: Clean) -> None:
    right = "Все смешалось в доме Облонских. «Où sont les neiges?»"
    wrong = right.encode().decode("latin-1")
    kept, _, metrics = clean([wrong, *_FILLER])
    assert kept[0]["text"] == right
    assert metrics["documents_kept"] == 4
    assert clean([wrong, *_FILLER], mojibake=False)[0][0]["text"] != right


def test_missing_fields_vanish_with_their_line_end(clean: Clean) -> None:
    rows = [
        _raw(_FILLER[0], 0, None, "李白"),
        _raw(_FILLER[1], 1, "T"),
        _raw(_FILLER[2], 2, "", " "),
        _raw("十个字以上的一首诗在这里。", 3, "<", "/s>"),
    ]
    kept, _, _ = clean(rows, template="{title}\n{author}\n{text}")
    assert [row["content"] for row in kept[:3]] == ["李白\n" + _FILLER[0], "T\n" + _FILLER[1], _FILLER[2]]
    assert kept[2]["title"] is None
    joined, _, _ = clean(rows, template="{title}{author}\n{text}")
    assert "</s>" not in joined[3]["content"], "a marker put together by the template"


def test_long_documents_are_divided_without_loss_and_parts_are_counted(clean: Clean) -> None:
    book = "\n".join(f"Line {number} of a long book about nothing {number * 7919 % 997}." for number in range(200))
    kept, removed, metrics = clean(
        [book, "单" + "".join(chr(0x4E00 + at * 37 % 5000) for at in range(950)), *_FILLER], maximum_characters=400
    )
    parts = [row for row in kept if row["id"].startswith("doc-0#")]
    assert "\n".join(row["text"] for row in parts) == book
    assert max(len(row["text"]) for row in kept) <= 400
    assert min(len(row["text"]) for row in parts) >= 100
    assert [row["id"] for row in kept if row["id"].startswith("doc-1")] == ["doc-1#1", "doc-1#2", "doc-1#3"]
    assert metrics["documents_read"] == 5
    assert metrics["documents_in"] == 3 + len(parts) + 3 == len(kept) + len(removed)
    assert {row["provenance"]["row"] for row in parts} == {0}


def test_the_same_input_gives_the_same_bytes_and_another_seed_another_split(clean: Clean, tmp_path: Path) -> None:
    first, _, metrics = clean(_poems(200), template="{title}\n{author}\n{text}")
    clean(_poems(200), template="{title}\n{author}\n{text}", output="again")
    names = ["documents.parquet", "removed.parquet", "review.jsonl", "summary.json"]
    assert sorted(path.name for path in (tmp_path / "clean").iterdir()) == names
    for name in names:
        assert (tmp_path / "clean" / name).read_bytes() == (tmp_path / "again" / name).read_bytes()
    other, _, _ = clean(_poems(200), seed=2)
    assert [row["split"] for row in first] != [row["split"] for row in other]
    summary = json.loads((tmp_path / "clean" / "summary.json").read_text(encoding="utf-8"))
    lengths = summary["length_histogram"]
    assert sum(count for split in lengths.values() for _, count in split) == metrics["documents_kept"]
    assert (
        metrics["characters"]
        == metrics["train_characters"] + metrics["validation_characters"]
        == sum(len(row["content"]) for row in first)
    )


def test_a_document_keeps_its_side_when_the_corpus_grows(clean: Clean) -> None:
    few, _, _ = clean(_poems(150), near_duplicates=False)
    many, _, _ = clean(_poems(250), near_duplicates=False)
    sides = {row["cluster"]: row["split"] for row in many}
    same = [row["split"] == sides[row["cluster"]] for row in few if row["cluster"] in sides]
    assert len(same) > 50
    assert all(same)


def test_two_documents_suffice_for_two_splits(clean: Clean) -> None:
    for fraction in (0.001, 0.999):
        kept, _, metrics = clean(_FILLER[:2], validation_fraction=fraction)
        assert sorted(row["split"] for row in kept) == ["train", "validation"]
        assert metrics["kneser_ney_bits_per_char"] > 0


def test_the_bar_reads_at_most_the_characters_asked_for(clean: Clean) -> None:
    _, _, whole = clean(_poems(200))
    _, _, part = clean(_poems(200), kneser_ney_characters=1000)
    assert whole["kneser_ney_characters"] == whole["train_characters"]
    assert 500 < part["kneser_ney_characters"] <= 1100
    assert part["kneser_ney_bits_per_char"] > whole["kneser_ney_bits_per_char"]


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        ([], "holds no documents"),
        (_FILLER[:1], "at least 2 are needed"),
        ([_FILLER[0], _FILLER[0]], "at least 2 are needed"),
        (["短", "诗"], "clean.rules.too_short"),
        (["", "。"], "give sources that hold text"),
        ([_raw(_FILLER[0], 0), _raw(_FILLER[1], 0)], "more than once"),
    ],
)
def test_what_cannot_be_cleaned_is_told_in_one_sentence(
    clean: Clean, tmp_path: Path, rows: list[Any], told: str
) -> None:
    with pytest.raises(InkwellError, match=told) as failure:
        clean(rows)
    assert "\n" not in str(failure.value)
    assert not (tmp_path / "clean").exists()


@pytest.mark.parametrize("template", ["{title}", "{titel}\n{text}"])
def test_a_template_without_text_or_with_an_unknown_field_is_refused(clean: Clean, template: str) -> None:
    with pytest.raises(InkwellError, match=r"clean\.template"):
        clean(_FILLER, template=template)


def test_the_command_line_writes_folder_and_metrics_and_help_needs_no_library(tmp_path: Path) -> None:
    write_documents(tmp_path / "data" / "raw" / "documents.parquet", _poems(60), raw_schema())
    (tmp_path / "params.yaml").write_text(
        "ingest: {sources: [{name: a, kind: path, location: a}]}\ntracking: {enabled: false}\n"
    )
    environment = {"PYTHONPATH": str(Path(__file__).parents[2]), "PATH": "/usr/bin:/bin"}
    for step, change in (("tag", "tag.workers=1"), ("clean", "clean.rules.too_short.minimum=20")):
        command = [sys.executable, "-m", f"components.{step}", "--set", change]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    metrics = json.loads((tmp_path / "metrics" / "clean.json").read_text())
    assert metrics["documents_in"] == 60 == metrics["documents_kept"] + metrics["documents_dropped"]
    assert {"seconds", "peak_gib"} <= set(metrics)
    imported = "import sys, components.clean.__main__, components.validate.__main__; print(sorted({'numpy', 'pyarrow', 'pydantic', 'pandas', 'great_expectations', 'rensa', 'opencc'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", imported], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_what_the_patterns_match_is_taken_out_and_counted(clean: Clean, tmp_path: Path) -> None:
    patterns = [r"(?m)^(?:（[^（）]*）)*[。．]?\s*(?:\n|\Z)", r"（[^（）]*）"]
    text = "阑风长雨（一作「东风细雨」）秋纷纷，四海八荒同一云。\n（注一）\n去马来牛不复辨，浊泾清渭何当分。\n（此见残本。\n）（又见）。\n。"
    kept, _, metrics = clean([_raw(text, 0, "题（一）"), *_FILLER], remove=patterns)
    assert kept[0]["text"] == "阑风长雨秋纷纷，四海八荒同一云。\n去马来牛不复辨，浊泾清渭何当分。"
    assert kept[0]["title"] == "题（一）"
    assert metrics["characters_taken_out"] == len(text) - len(kept[0]["text"]) - 1
    summary = json.loads((tmp_path / "clean" / "summary.json").read_text(encoding="utf-8"))
    assert sum(summary["characters_taken_out"].values()) == metrics["characters_taken_out"]
    with pytest.raises(InkwellError, match=r"tag\.remove.*no regular expression"):
        clean(_FILLER, remove=["("])
