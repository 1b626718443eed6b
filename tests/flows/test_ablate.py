"""Ablation and the sweep over vocabularies, through their command lines, with models that train for seconds."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from components.errors import InkwellError
from flows.ablate import variants
from flows.tokenizer_sweep import model_parameters, steps_of
from tests.tiny_corpus import poems

ROOT = Path(__file__).parents[2]
TINY = {
    "tokenizer.vocabulary": 420,
    "pretrain.hidden_size": 64,
    "pretrain.layers": 1,
    "pretrain.heads": 2,
    "pretrain.key_value_heads": 2,
    "pretrain.feed_forward_size": 96,
    "pretrain.block": 64,
    "pretrain.steps": 8,
    "pretrain.warmup_steps": 2,
}
CORPUS = """
language: zh
ingest:
  sources:
    - {{name: tiny, kind: path, location: {location}, format: json, text_field: paragraphs}}
tag: {{workers: 1, topics: {{clusters: 0}}}}
clean: {{template: "{{title}}\\n{{author}}\\n{{text}}", near_duplicates: false, validation_fraction: 0.1}}
"""


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus file of poems, some of them with a line of symbols."""
    folder = tmp_path_factory.mktemp("corpus")
    written = poems(500)
    for record in written[::5]:
        record["paragraphs"].append("□" * 120)
    (folder / "poems.json").write_text(json.dumps(written, ensure_ascii=False), encoding="utf-8")
    (folder / "tiny.yaml").write_text(CORPUS.format(location=folder / "poems.json"), encoding="utf-8")
    return folder / "tiny.yaml"


def _run(module: str, corpus: Path, workspace: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    settings = [part for name, value in TINY.items() for part in ("--set", f"{name}={value}")]
    command = [sys.executable, "-m", f"flows.{module}", "--corpus", str(corpus), "--workspace", str(workspace)]
    return subprocess.run(
        [*command, *settings, *arguments],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


def test_policies_are_compared_and_finished_models_are_kept(corpus: Path, tmp_path: Path) -> None:
    workspace = tmp_path / "ablation"
    # `alike` differs from `base` in nothing that matters here: its models are the same, and trained once
    arguments = ["--policies", "none,base", "--set", "alike:clean.policy=base", "--set", "alike:clean.jaccard=0.9"]
    arguments += ["--seeds", "1"]
    done = _run("ablate", corpus, workspace, *arguments)
    assert done.returncode == 0, done.stderr
    assert "none: 500 of 500 documents stay" in done.stdout
    assert "base: 400 of 500 documents stay" in done.stdout
    assert "Training 2 small models" in done.stdout
    assert "[2/2]" in done.stdout
    found = json.loads((workspace / "ablation.json").read_text())
    assert "one seed has no spread" in found["verdict"]
    assert "base and alike train on the same documents" in found["verdict"]
    rows = found["variants"]
    assert rows["base"]["by_seed"] == rows["alike"]["by_seed"]
    assert rows["base"]["by_seed"] != rows["none"]["by_seed"]
    assert rows["none"]["train_characters"] > rows["base"]["train_characters"]
    assert rows["none"]["epochs"] < rows["base"]["epochs"], "the same number of tokens from more text"
    assert all(2 < row["bits_per_character"] < 12 for row in rows.values()), "hardly trained, but trained"
    # The held-out documents stay in all variants: none of them has the line of symbols.
    assert 10 < found["held_out_documents"] < 60
    page = (workspace / "ablation.html").read_text(encoding="utf-8")
    assert found["verdict"].split(".")[0] in page
    assert "<svg" in page
    assert "src=" not in page
    assert "| none |" in (workspace / "ablation.md").read_text(encoding="utf-8")
    again = _run("ablate", corpus, workspace, *arguments)
    assert again.returncode == 0, again.stderr
    assert again.stdout.count("kept from an earlier run") == 2
    assert json.loads((workspace / "ablation.json").read_text()) == found


def test_vocabularies_are_compared_and_what_cannot_be_is_told(corpus: Path, tmp_path: Path) -> None:
    workspace = tmp_path / "sweep"
    arguments = ["--vocabularies", "420,370,330", "--seeds", "1", "--set", "tokenizer.character_coverage=1.0"]
    done = _run("tokenizer_sweep", corpus, workspace, *arguments)
    assert done.returncode == 0, done.stderr
    found = json.loads((workspace / "tokenizer_sweep.json").read_text())
    assert set(found["refused"]) == {"330"}
    assert "has no room for the characters" in found["refused"]["330"]
    rows = found["vocabularies"]
    assert set(rows) == {"370", "420"}
    assert rows["370"]["tokens_per_character"] > rows["420"]["tokens_per_character"]
    assert rows["370"]["steps"] == TINY["pretrain.steps"] > rows["420"]["steps"], "fewer tokens for the same characters"
    assert rows["420"]["parameters"] - rows["370"]["parameters"] == 2 * 50 * 64
    for row in rows.values():
        assert row["operations"] == 6 * row["parameters"] * row["tokens"]
        assert row["characters_read"] == pytest.approx(rows["370"]["characters_read"], rel=0.1)
        assert row["bits_per_character"] == pytest.approx(row["by_seed"][0])
    assert "<svg" in (workspace / "tokenizer_sweep.html").read_text(encoding="utf-8")
    assert "has no room" in (workspace / "tokenizer_sweep.md").read_text(encoding="utf-8")


def test_equal_work_is_measured_in_characters_or_in_operations() -> None:
    from components.configuration import Pretrain

    parameters = Pretrain(steps=100, hidden_size=256, layers=2)
    sizes = {vocabulary: model_parameters(parameters, vocabulary) for vocabulary in (1000, 4000)}
    assert sizes[4000] - sizes[1000] == 2 * 3000 * 256, "rows of the embedding and of the head"
    density = {1000: 2.0, 4000: 1.0}
    assert steps_of(parameters, density, sizes, "characters") == {1000: 100, 4000: 50}
    compute = steps_of(parameters, density, sizes, "compute")
    assert compute[4000] * sizes[4000] == pytest.approx(compute[1000] * sizes[1000], rel=0.02)


@pytest.mark.parametrize(
    ("policies", "settings", "told"),
    [
        (["base"], [], "there is one variant, and at least two are needed"),
        ([], [], "there are no variants"),
        (["base", "gofer"], [], "there is no policy 'gofer'"),
        (["base", "base"], [], "names 'base' twice"),
        (["base"], ["wide:pretrain.layers=2"], "its parameters begin with clean. or tag."),
        (["base"], ["a/b:clean.jaccard=0.5"], "made of letters, digits"),
        (["base"], ["clean.jaccard"], "write it as NAME:clean.key=value"),
    ],
)
def test_what_cannot_be_compared_is_told_before_any_work(policies: list[str], settings: list[str], told: str) -> None:
    with pytest.raises(InkwellError, match=told):
        variants(policies, settings)


def test_variants_are_policies_and_names_and_the_rest_is_common() -> None:
    every, common = variants(
        ["none", "base"], ["pretrain.steps=9", "base:clean.jaccard=0.7", "вариант:tag.unicode=NFKC"]
    )
    assert common == ["pretrain.steps=9"]
    assert {variant.name: variant.overrides for variant in every} == {
        "none": ("clean.policy=none",),
        "base": ("clean.policy=base", "clean.jaccard=0.7"),
        "вариант": ("tag.unicode=NFKC",),
    }
    assert [variant.tagging for variant in every] == [(), (), ("tag.unicode=NFKC",)]
