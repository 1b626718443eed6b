"""The benchmark of curation in miniature: what it measures with has to be right."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest

from benchmarks.curation import Cost, main, measured
from benchmarks.synthetic import synthetic, write_synthetic
from components.corpus.documents import raw_schema, read_table
from components.errors import InkwellError

ROOT = Path(__file__).parents[2]


def test_synthetic_documents_are_the_same_every_time_and_a_smaller_number_is_a_beginning(tmp_path: Path) -> None:
    batches = list(synthetic(10_300))
    assert [len(batch) for batch in batches] == [10_000, 300]
    assert batches[0][:200] == next(synthetic(200))
    texts = batches[0]
    copies = len(texts) - len(set(texts))
    assert 100 < copies < 400, "two in a hundred"
    scripts = ["".join(texts[start::3]) for start in range(3)]
    assert all("\u4e00" <= c <= "\u9fff" or c in "，。\n" for c in scripts[0])
    assert all("а" <= c <= "я" or c in "ё,. \n" for c in scripts[1])
    assert scripts[2].isascii()
    characters = write_synthetic(tmp_path / "documents.parquet", 250)
    table = read_table(tmp_path / "documents.parquet", raw_schema())
    assert table["text"].to_pylist() == texts[:250]
    assert sum(map(len, texts[:250])) == characters
    assert len(set(table["id"].to_pylist())) == 250


def test_seconds_and_memory_are_those_of_the_whole_tree(tmp_path: Path) -> None:
    child = "import time; held = b'x' * 300_000_000; time.sleep(1.0)"
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}], check=True)"
    cost = measured([sys.executable, "-c", code], tmp_path)
    assert 1.0 < cost.seconds < 20
    assert 0.28 < cost.peak_gib < 0.5
    assert Cost(1, 2) + Cost(3, 1) == Cost(4, 2)
    with pytest.raises(InkwellError, match="ended with status 3: 坏了"):
        measured([sys.executable, "-c", "print('坏了'); raise SystemExit(3)"], tmp_path)


def test_both_sides_of_the_race_judge_alike_where_the_rules_are_alike(tmp_path: Path) -> None:
    """datatrove's filters with our policy, one rule at a time, on texts made to break one each."""
    from benchmarks.datatrove_race import verdicts
    from components.corpus.policy import Rule

    verse = "床前明月光，疑是地上霜。\n举头望明月，低头思故乡。\n"
    prose = "Мы долго ехали молча. Потом начался дождь, и все уснули. Никто не помнил дороги."
    texts = [verse, prose, "太短。", verse + "{x}", verse + "- 一\n" * 40, (verse + "\n\n") * 8, "没有标点\n" * 9]
    rules = {
        "word_count": Rule("word_count", "words", minimum=12),
        "braces": Rule("braces", "braces", maximum=0),
        "duplicate_paragraphs": Rule("duplicate_paragraphs", "duplicate_paragraphs", maximum=0.3),
        "bullet_lines": Rule("bullet_lines", "bullet_lines", maximum=0.9),
        "punctuated_lines": Rule("punctuated_lines", "punctuated_lines", minimum=0.12),
        "newlines_per_word": Rule("newlines_per_word", "newlines_per_word", maximum=0.3),
        "sentences": Rule("sentences", "sentences", minimum=2),
    }
    kept = dict(verdicts(texts, rules))
    dropped = {name: [at for at, keeps in enumerate(found) if not keeps] for name, found in kept.items()}
    assert dropped["word_count"] == [2]
    assert dropped["braces"] == [3]
    assert dropped["duplicate_paragraphs"] == [5]
    assert dropped["bullet_lines"] == [4]
    assert dropped["punctuated_lines"] == [4, 6]
    assert dropped["newlines_per_word"] == [4]
    assert dropped["sentences"] == [2]


def test_the_policy_of_the_race_is_a_policy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import components.corpus.policy

    shutil.copyfile(ROOT / "benchmarks" / "race_policy.yaml", tmp_path / "race.yaml")
    monkeypatch.setattr(components.corpus.policy, "FOLDER", tmp_path)
    assert len(components.corpus.policy.load_policy("race").rules) == 25


def test_growth_in_miniature_ends_with_one_json_object(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("benchmarks.curation.SIZES", (150, 300))
    assert main(["--only", "growth", "--workspace", str(tmp_path / "w")]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert all(isinstance(value, float) for value in found.values())
    assert set(found) == {
        *(
            f"{name}_{size}"
            for name in ("growth_seconds", "seconds_per_million", "growth_peak_gib")
            for size in (150, 300)
        ),
        "growth_exponent",
        "growth_exponent_end",
        "growth_gib_per_million",
    }
    assert found["seconds_per_million_300"] == pytest.approx(found["growth_seconds_300"] / 300e-6, rel=1e-3)
    documents = read_table(tmp_path / "w" / "growth" / "synthetic" / "300" / "documents.parquet", raw_schema())
    assert len(documents) == 300


def test_parts_that_there_are_not_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--only", "rce"]) == 2
    assert "there are recall, speed, race, growth" in capsys.readouterr().err
