"""The README's commands, typed as a newcomer would, in smoke size on the corpus of the tests."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from components.training.dry_run import _parser
from flows.parameters import compose
from tests.infra.reading import installed, missing
from tests.tiny_corpus import poems

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
# What the tiny corpus cannot fill, and what only costs time here.
SMALLER = [
    "tokenizer.vocabulary=600",
    "tokenizer.character_coverage=1.0",
    "pretrain.steps=20",
    "pretrain.sample_every=10",
    "sft.steps=6",
    "align.pairs=16",
    "evaluate.documents=8",
    "evaluate.titles=6",
    "instruct.probe_documents=8",
    "sampling.maximum_tokens=60",
    "export.comparison_documents=3",
    "export.comparison_prompts=2",
]


def _run(*command: str, folder: Path = ROOT, status: int = 0, **more: str) -> str:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    env = {**os.environ, "PATH": path, "INKWELL_TRACKING": "on", **more}
    env.pop("PREFECT_API_URL", None)
    done = subprocess.run(
        command,
        cwd=folder,
        env=env,
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `make smoke` does, with the README's own-corpus file pointing at our poems."""
    folder = tmp_path_factory.mktemp("readme")
    (folder / "texts").mkdir()
    (folder / "texts" / "poems.json").write_text(json.dumps(poems(), ensure_ascii=False), encoding="utf-8")
    three_lines = re.search(r"# conf/corpus/mine.yaml\n(.+?)```", README, re.DOTALL)
    assert three_lines
    mine = three_lines[1].replace("language: ru", "language: zh").replace("~/texts/*.txt", f"{folder}/texts/*.json")
    mine = mine.replace("}]}", ", text_field: paragraphs}]}")
    mine = mine.replace("clean: {", 'clean: {template: "{title}\\n{author}\\n{text}", ')
    (folder / "mine.yaml").write_text(mine, encoding="utf-8")
    space = folder / "space"
    _run("python", "-m", "flows.workspace", str(space), "size=smoke", f"corpus={folder}/mine.yaml", *SMALLER)
    return space


def _pipeline(workspace: Path) -> str:
    """Run all stages, through Prefect on PostgreSQL as CI has it; what `flows.run` says at the end.

    Where PostgreSQL is not installed `flows.run` does it all.
    """
    if not installed("initdb"):
        if os.environ.get("INKWELL_CI"):
            missing("initdb")
        return _run("python", "-m", "flows.run", "--workspace", str(workspace))
    # Asked to end before it would be killed, so that it takes its servers with it.
    said = _run("timeout", "--kill-after=50", "840", "bash", str(ROOT / "infra/smoke.sh"), str(workspace))
    assert "completed runs in PostgreSQL: 1\n" in said
    stages = list(yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"])
    told = re.findall(r"^(\w+) +(\w+) +[\d.]+ s$", said, re.MULTILINE)
    assert {name: state for name, state in told if name in stages} == dict.fromkeys(stages, "ran")
    again = _run("python", "-m", "flows.run", "--workspace", str(workspace))
    assert not re.search(r"^\[\d+/\d+\] ", again, re.MULTILINE)  # no stage has a headline: nothing is left to do
    return again


def test_every_verb_of_the_readme_is_in_the_makefile() -> None:
    verbs = set(re.findall(r"^make ([a-z]+)", README, re.MULTILINE)) | set(re.findall(r"`make ([a-z]+)`", README))
    assert {"run", "smoke", "chat", "ui", "flow", "help", "test", "params"} <= verbs
    assert verbs <= set(re.findall(r"^([a-z]+):", MAKEFILE, re.MULTILINE))


def test_every_page_of_the_readme_exists() -> None:
    for link in re.findall(r"\]\(([^)#]+)\)", README):
        assert (ROOT / link).exists(), link
    linked = set(re.findall(r"\]\(docs/([^)#]+)\)", README[README.index("## Read on") :]))
    assert {page.name for page in (ROOT / "docs").glob("*.md")} <= linked


def test_every_command_of_the_readme_knows_its_options() -> None:
    found = re.findall(r"python -m ((?:flows|components)(?:\.\w+)+)([^`\n#]*)", README)
    modules = {module for module, _ in found}
    assert {
        "flows.lineage",
        "flows.compare",
        "flows.sweep",
        "flows.scaling",
        "flows.promote",
        "flows.rollback",
    } <= modules
    for module in sorted(modules):
        told = _run("python", "-m", module, "--help")
        for flag in {flag for name, typed in found if name == module for flag in re.findall(r"--[a-z-]+", typed)}:
            assert flag in told, f"{module} {flag}"


def test_every_set_of_parameters_of_the_readme_composes() -> None:
    written = re.findall(r'^make params WITH="([^"]+)"|^python -m flows\.parameters ([^#\n]+)', README, re.MULTILINE)
    assert len(written) >= 5
    for made, composed in written:
        compose(ROOT / "conf", [word for word in (made or composed).split() if word != "corpus=mine"])
    (dry_run,) = re.findall(r"^python -m components\.training\.dry_run ([^#\n]+)", README, re.MULTILINE)
    assert _parser().parse_args(dry_run.split()).processes == 8


@pytest.mark.timeout(1500)
def test_the_pipeline_runs_from_texts_to_a_model_that_chats(workspace: Path) -> None:
    printed = _pipeline(workspace)
    stages = list(yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"])
    for stage in stages:
        metrics = json.loads((workspace / "metrics" / f"{stage}.json").read_text())
        assert metrics["seconds"] > 0
        assert metrics["peak_gib"] > 0
    table = README[README.index("## What you get") : README.index("## Your own corpus")]
    promises = re.findall(r"^\| `([^`]+)` \|", table, re.MULTILINE)
    assert len(promises) >= 6
    for promised in promises:
        assert list(workspace.glob(promised)), promised
    assert "reports/index.html" in printed
    assert "make chat" in printed
    clean = json.loads((workspace / "metrics/clean.json").read_text())
    assert clean["documents_in"] == clean["documents_kept"] + clean["documents_dropped"]
    named = {
        "pretrain": ["val_bits_per_char", "tokens_per_second", "parameters"],
        "clean": ["kneser_ney_bits_per_char"],
        # half of the poems have five characters a line
        "evaluate": ["sft.five_char_lines", "base.bits_per_char", "aligned.next_line"],
        "export": ["kl_q8_0", "greedy_identical_f16"],
    }
    for stage, names in named.items():
        metrics = json.loads((workspace / "metrics" / f"{stage}.json").read_text())
        assert set(names) <= set(metrics), stage
    assert len(list((workspace / "models/export").glob("*.gguf"))) == 3

    # a second time nothing runs
    assert "Running stage" not in _run("dvc", "repro", folder=workspace)
    # one changed parameter runs what depends on it and nothing else
    text = (workspace / "params.yaml").read_text()
    (workspace / "params.yaml").write_text(re.sub(r"(\n  samples:) \d+", r"\1 2", text))
    again = _run("dvc", "repro", folder=workspace)
    assert re.findall(r"Running stage '(\w+)'", again) == ["report"]

    # the other commands of the page
    assert _run("python", "-m", "components.generate", "春江", "--maximum-tokens", "8", folder=workspace).strip()
    # and a parameter in the middle of the graph runs what stands behind it
    _run("dvc", "repro", "--dry", folder=workspace)
    text = (workspace / "params.yaml").read_text()
    (workspace / "params.yaml").write_text(text.replace("beta: 0.1", "beta: 0.3"))
    planned = _run("dvc", "repro", "--dry", folder=workspace)
    assert re.findall(r"Running stage '(\w+)'", planned)[0] == "align"
    assert not set(re.findall(r"Running stage '(\w+)'", planned)) & {"ingest", "clean", "pretrain", "instruct", "sft"}
    (workspace / "params.yaml").write_text(text)

    # every stage told MLflow, as a child of one pipeline
    script = (
        "import mlflow, sys; mlflow.set_tracking_uri('sqlite:///' + sys.argv[1]);"
        "runs = mlflow.search_runs(search_all_experiments=True);"
        "print('STAGES', *sorted(set(runs['tags.stage'].dropna())))"
    )
    printed = _run("python", "-c", script, str(workspace / ".inkwell/mlflow.db"))
    assert printed.split("STAGES")[1].split() == sorted(stages)


def _commit(folder: Path, words: str) -> None:
    _run("git", "add", "params.yaml", "dvc.yaml", "dvc.lock", "metrics", folder=folder)
    identity = ("-c", "user.name=test", "-c", "user.email=test@example.invalid")
    _run("git", *identity, "commit", "-q", "-m", words, folder=folder)


@pytest.mark.timeout(1800)
def test_what_was_made_is_proved_compared_promoted_and_taken_back(workspace: Path) -> None:
    """As typed on the page. `flows.sweep` and `flows.scaling` train for longer and have tests of their own."""
    import pyarrow.parquet as pq

    block = re.search(r"```sh\n(.+?)```", README[README.index("## Prove it") :], re.DOTALL)
    assert block
    back, forward, compare, promote, rollback, retrain = (
        line
        for line in block[1].splitlines()
        if line.split()[2].removeprefix("flows.") in ("lineage", "compare", "promote", "rollback", "retrain")
    )

    def typed(line: str, status: int = 0, **more: str) -> str:
        return _run("sh", "-c", line, folder=workspace, status=status, **more)

    _run("python", "-m", "flows.run", "--workspace", str(workspace))  # what the test before this one has not
    typed(back)
    assert "the chain" in (workspace / "lineage.html").read_text(encoding="utf-8").lower()
    documents = pq.ParquetFile(workspace / "data/clean/documents.parquet").read(["id", "split"]).to_pylist()
    poem = next(row["id"] for row in documents if row["split"] == "train")
    assert "saw it in training" in typed(forward.replace("tang-000017", poem))

    _run("git", "init", "-q", folder=workspace)
    _commit(workspace, "all formats")
    assert "version 1 is the champion" in typed(promote)

    text = (workspace / "params.yaml").read_text()
    fewer = text.replace("formats: [f16, q8_0, q4_k_m]", "formats: [f16, q8_0]")
    assert fewer != text
    (workspace / "params.yaml").write_text(fewer)
    _run("dvc", "repro", folder=workspace)
    _commit(workspace, "two formats")
    assert "export.formats" in typed(compare)
    assert "export.formats" in (workspace / ".inkwell" / "compare.html").read_text(encoding="utf-8")

    # the same weights are no better; by hand they are crowned nevertheless, and taken back
    assert "version 1 stays the champion" in typed(promote, status=3)
    _run("python", "-m", "flows.rollback", "--to", "2", "--reason", "by hand", folder=workspace)
    assert "version 1 is the champion in place of version 2" in typed(rollback)
    assert "Nothing to do: the corpus is the champion's." in typed(
        retrain, PREFECT_HOME=str(workspace.parent / "prefect")
    )
