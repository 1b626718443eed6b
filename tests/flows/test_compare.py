"""Two runs on one page: from workspaces, commits and a real MLflow database, with what differs planted."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks.operations import BARS
from components.errors import InkwellError
from components.figures import number
from components.tracking.reading import Run
from flows.compare.__main__ import main
from flows.compare.differing import documents, figures, parameters, repeated
from flows.compare.sides import Side, find
from flows.compare.tracked import Runs, runs_of
from flows.processes import environment
from tests.processes import ROOT
from tests.tiny_corpus import clean_rows

DVC_YAML = """
stages:
  pretrain:
    cmd: python train.py
    params: [pretrain.steps]
    outs: [data/curves, data/clean]
    metrics:
      - metrics/pretrain.json: {cache: false}
plots:
  - held-out:
      x: step
      y: {data/curves/pretrain.csv: validation_bits_per_char}
"""
# The first document is left out, and the loss is lower, where the run is longer.
TRAIN = """
import json, os, yaml
import pyarrow as pa
import pyarrow.parquet as pq
steps = yaml.safe_load(open('params.yaml'))['pretrain']['steps']
for folder in ('metrics', 'data/curves', 'data/clean'):
    os.makedirs(folder, exist_ok=True)
with open('data/curves/pretrain.csv', 'w') as file:
    file.write('step,tokens,loss,validation_bits_per_char\\n')
    for step in range(1, 21):
        file.write(f'{step},100,{9 - step / 10},{8 - step * steps / 1e4 if step % 5 == 0 else ""}\\n')
json.dump({'val_bits_per_char': 6 - steps / 1e4, 'tokens_per_second': 50.0}, open('metrics/pretrain.json', 'w'))
names = [f'd{n}' for n in range(10)][steps > 1000:]
pq.write_table(pa.table({'id': names, 'split': ['train'] * len(names)}), 'data/clean/documents.parquet')
"""


def _git(folder: Path, *arguments: str) -> None:
    identity = ["-c", "user.name=test", "-c", "user.email=test@example.invalid"]
    subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, capture_output=True)


def _dvc(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "dvc", *arguments],
        cwd=folder,
        env=environment(),
        check=True,
        capture_output=True,
        text=True,
    )
    return done.stdout


@pytest.fixture(scope="module")
def history(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with two commits of one pipeline: 100 steps, then 2,000."""
    folder = tmp_path_factory.mktemp("history")
    (folder / "dvc.yaml").write_text(DVC_YAML, encoding="utf-8")
    (folder / "train.py").write_text(TRAIN, encoding="utf-8")
    (folder / ".gitignore").write_text("/data/\n.inkwell/\n", encoding="utf-8")
    _git(folder, "init", "-q")
    _dvc(folder, "init", "-q")
    for steps in (100, 2000):
        (folder / "params.yaml").write_text(f"seed: 1\npretrain: {{steps: {steps}}}\n", encoding="utf-8")
        _dvc(folder, "repro", "-q")
        _git(folder, "add", "--all")
        _git(folder, "commit", "-q", "-m", f"{steps} steps")
    return folder


def test_two_commits_differ_in_what_was_changed(
    history: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "page.html"
    assert main(["HEAD~1", "HEAD", "--workspace", str(history), "--output", str(page)]) == 0
    assert "pretrain.steps: 100 -> 2000" in capsys.readouterr().out
    found = json.loads(page.with_suffix(".json").read_text())
    assert found["parameters"] == {"pretrain.steps": ["100", "2000"]}
    assert found["figures"]["pretrain.val_bits_per_char"]["change"] == pytest.approx(-0.19)
    assert found["figures"]["pretrain.val_bits_per_char"]["beyond"] is None, "nothing tells its spread"
    assert (found["documents"]["removed"], found["documents"]["added"]) == (["d0"], [])
    written = page.read_text()
    for said in ("held-out bits a character over tokens", "over seconds", "training loss", "In A only"):
        assert said in written
    assert "http" not in written.replace("http-equiv", "").replace("http://www.w3.org", "")
    # the checkout is the second commit: as a workspace it is the same
    assert main([str(history), "HEAD", "--workspace", str(history), "--output", str(page)]) == 0
    assert json.loads(page.with_suffix(".json").read_text())["parameters"] == {}
    assert find("HEAD~1", history).curves["pretrain"][-1]["seconds"] == pytest.approx(40)


def test_dvc_draws_without_another_host(history: Path, tmp_path: Path) -> None:
    browser = shutil.which("chromium") or shutil.which("chromium-browser")
    _dvc(history, "config", "--local", "plots.html_template", str(ROOT / "conf/dvc-plots/page.html"))
    _dvc(history, "plots", "diff", "HEAD~1", "HEAD", "--out", str(tmp_path / "plots"))
    page = tmp_path / "plots/index.html"
    assert "<script src" not in page.read_text()
    assert "val_bits_per_char" in _dvc(history, "metrics", "diff", "HEAD~1", "HEAD")
    if browser is None:
        pytest.skip("no chromium on this machine: whether the plot is drawn was not looked at")
    command = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=20000", "--dump-dom"]
    command += ["--host-resolver-rules=MAP * ~NOTFOUND", f"--user-data-dir={tmp_path / 'browser'}", page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    assert 'class="marks"' in done.stdout


@pytest.fixture(scope="module")
def tracked(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """A workspace whose database has pipelines that differ in the seed, and one with more steps; ids of all."""
    from mlflow.entities import Metric, Param
    from mlflow.tracking import MlflowClient

    folder = tmp_path_factory.mktemp("tracked")
    (folder / ".inkwell").mkdir()
    (folder / "params.yaml").write_text("seed: 1\n", encoding="utf-8")
    client = MlflowClient(f"sqlite:///{folder / '.inkwell/mlflow.db'}")
    experiment = client.create_experiment("inkwell", artifact_location=(folder / "artifacts").as_uri())
    pipelines = []
    for seed, steps, loss in ((1, 100, 6.00), (2, 100, 6.02), (3, 100, 5.98), (1, 2000, 5.00), (4, 100, 6.01)):
        parent = client.create_run(
            experiment, tags={"inkwell.kind": "pipeline"}, run_name=f"pipeline {seed}"
        ).info.run_id
        tags = {"stage": "pretrain", "mlflow.parentRunId": parent, "inkwell.output.data/clean": "a" * 32}
        child = client.create_run(experiment, tags=tags, run_name="pretrain").info.run_id
        given = [Param("seed", str(seed)), Param("pretrain.steps", str(steps))]
        points = [Metric("validation_bits_per_char", 8 - at / 10, 1000 * at, at) for at in (5, 10)]
        points += [Metric("tokens", 100, 1000 * at, at) for at in range(1, 11)]
        points += [
            Metric("system/cpu_utilization_percentage", 10 * seed, 9, 0),
            Metric("val_bits_per_char", loss, 9, 0),
            Metric("tokens", 1000, 9, 0),
            Metric("seconds", 60 + seed, 9, 0),
        ]
        client.log_batch(child, params=given, metrics=points)
        client.log_batch(
            parent,
            params=given,
            metrics=[Metric("pretrain.val_bits_per_char", loss, 9, 0), Metric("pretrain.tokens", 1000, 9, 0)],
        )
        for run in (child, parent):
            client.set_terminated(run)
        pipelines.append(parent)
    return folder, pipelines


def test_seeds_tell_what_is_chance(tracked: tuple[Path, list[str]]) -> None:
    folder, pipelines = tracked
    first, second, _, longer, _ = (find(name, folder) for name in pipelines)
    of_seeds = {one.name: one for one in figures(first, second)}["pretrain.val_bits_per_char"]
    assert of_seeds.beyond is False
    assert "repeated runs" in of_seeds.source
    of_steps = {one.name: one for one in figures(first, longer)}
    assert of_steps["pretrain.val_bits_per_char"].beyond is True
    assert of_steps["pretrain.seconds"].beyond is False
    assert parameters(first, longer) == [("pretrain.steps", 100, 2000)]
    assert not [name for name in of_steps if "system/" in name], "how busy the machine was is no figure of the step"
    assert first.metrics["pretrain.tokens"] == 1000, "the last point of the curve is not the sum"
    assert first.curves["pretrain"][-1] == {"step": 10, "tokens": 1000, "validation_bits_per_char": 7, "seconds": 9}
    assert first.digests == {"data/clean": "a" * 32}


def test_the_database_is_read_as_mlflow_would(tracked: tuple[Path, list[str]]) -> None:
    from components.tracking.client import Served

    folder, pipelines = tracked
    here = runs_of(folder, None)
    assert here is not None
    served = Runs(Served(f"sqlite:///{folder / '.inkwell/mlflow.db'}"))
    assert here.run(pipelines[0]) == served.run(pipelines[0])
    assert here.children(pipelines[0]) == served.children(pipelines[0])
    child = here.children(pipelines[0])[0].id
    assert here.history(child, "tokens") == served.history(child, "tokens")
    ids = [sorted(run.id for run in one.of_stage("pretrain")) for one in (here, served)]
    assert ids[0] == ids[1]
    assert here.run("0" * 32) is None
    assert served.run("0" * 32) is None


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, str]]]:
    """A workspace whose database has two pipelines with the files that steps keep there; ids of their runs by stage.

    The second one's corpus lacks the first document, which a rule has dropped, and is half Russian.
    """
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq
    from mlflow.tracking import MlflowClient

    from components.corpus.documents import clean_schema, removed_schema, write_documents
    from components.evaluate.stage import _generation_schema, _write_table
    from components.tracking.documents import build_index, index_path
    from components.validate.profile import points

    folder = tmp_path_factory.mktemp("kept")
    (folder / ".inkwell").mkdir()
    (folder / "params.yaml").write_text("seed: 1\n", encoding="utf-8")
    client = MlflowClient(f"sqlite:///{folder / '.inkwell/mlflow.db'}")
    experiment = client.create_experiment("inkwell", artifact_location=(folder / "artifacts").as_uri())
    rows = clean_rows()
    lengths = points(np.array([float(len(row["text"])) for row in rows]))
    found = []
    for which, languages in enumerate(({"zh": 1.0}, {"zh": 0.5, "ru": 0.5})):
        place, digest = tmp_path_factory.mktemp("made"), str(which) * 32
        (place / "clean").mkdir()
        write_documents(place / "clean" / "documents.parquet", rows[which:], clean_schema())
        if which:
            schema = removed_schema()
            dropped = {name: rows[0].get(name) for name in schema.names} | {"rule": "length", "reason": "too short"}
            pq.write_table(pa.Table.from_pylist([dropped], schema=schema), place / "clean" / "removed.parquet")
        build_index(place / "clean", index_path(place, digest))
        sizes = {"documents": len(rows) - which, "characters": 9000, "read": len(rows)}
        profile = {**sizes, "shares": {"languages": languages}, "quantiles": {"lengths": lengths}}
        (place / "profile.json").write_text(json.dumps(profile), encoding="utf-8")
        (place / "pretrain.jsonl").write_text(f'{{"step": 10, "texts": ["spring {which}"]}}\n', encoding="utf-8")
        written = {"model": "sft", "prompt": "写一首诗", "title": "春", "text": f"moon {which}"}
        _write_table(place / "generations.parquet", [written], _generation_schema())
        parent = client.create_run(experiment, tags={"inkwell.kind": "pipeline"}).info.run_id
        ids = {"pipeline": parent}
        for stage, file in {
            "clean": None,
            "tokenize": index_path(place, digest),
            "validate": place / "profile.json",
            "pretrain": place / "pretrain.jsonl",
            "evaluate": place / "generations.parquet",
        }.items():
            tags = {"stage": stage, "mlflow.parentRunId": parent}
            tags |= {"inkwell.output.data/clean": digest} if stage == "clean" else {}
            ids[stage] = client.create_run(experiment, tags=tags, run_name=stage).info.run_id
            if file:
                client.log_artifact(ids[stage], str(file))
        found.append(ids)
    return folder, found


def test_runs_of_mlflow_are_compared_by_texts_and_data_too(
    kept: tuple[Path, list[dict[str, str]]], tmp_path: Path
) -> None:
    folder, (one, other) = kept
    page = tmp_path / "page.html"
    where = ["--workspace", str(folder), "--output", str(page)]
    assert main([one["pipeline"], other["pipeline"], *where]) == 0
    found = json.loads(page.with_suffix(".json").read_text())
    rows = clean_rows()
    assert found["documents"] == {"added": [], "removed": [rows[0]["id"]], "moved": 0, "kept": len(rows) - 1}
    drift = found["drift"]
    assert drift["languages"]["distance"] > drift["languages"]["allowed"]
    assert drift["lengths"]["distance"] == 0
    written = page.read_text()
    for said in ("写一首诗", "moon 0", "moon 1", "Distributions, from A to B"):
        assert said in written
    assert "spring" not in written, "what the finished models wrote goes before what they wrote on the way"
    # a step alone has what was kept beside it
    assert main([one["pretrain"], other["pretrain"], *where]) == 0
    written = page.read_text()
    for said in ("after step 10", "spring 0", "spring 1"):
        assert said in written
    assert json.loads(page.with_suffix(".json").read_text())["documents"] is None


def test_a_torn_file_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "torn"
    for name, words in {
        "data/samples/pretrain.jsonl": "pretrain.jsonl is no list of samples",
        "data/evaluation/generations.parquet": "generations.parquet is no table of what the models wrote",
        "data/clean/documents.parquet": "documents.parquet is no table of documents",
    }.items():
        shutil.rmtree(folder, ignore_errors=True)
        (folder / name).parent.mkdir(parents=True)
        (folder / "params.yaml").write_text("seed: 1\n")
        (folder / name).write_text('{"step": 10, "te')
        assert main([str(folder), str(folder), "--output", str(tmp_path / "page.html")]) == 2
        error = capsys.readouterr().err
        assert words in error
        assert error.count("\n") == 1


def test_five_hundred_runs_are_compared_in_two_seconds(tracked: tuple[Path, list[str]], tmp_path: Path) -> None:
    folder = tmp_path / "many"
    shutil.copytree(tracked[0], folder)
    with sqlite3.connect(folder / ".inkwell/mlflow.db") as base:
        # each run a hundred times: the ids differ in their first four characters, none of them an id of MLflow's
        tables = {
            "runs": "run_uuid",
            "params": "run_uuid",
            "tags": "run_uuid",
            "latest_metrics": "run_uuid",
            "metrics": "run_uuid",
        }
        for table, key in tables.items():
            names = [row[1] for row in base.execute(f"PRAGMA table_info({table})")]
            shown = ", ".join(
                "printf('x%03d', ?) || substr(run_uuid, 5)" if name == key else f'"{name}"' for name in names
            )
            columns = ", ".join(f'"{name}"' for name in names)
            base.execute(f"CREATE TEMP TABLE kept AS SELECT * FROM {table}")
            for copy in range(100):
                base.execute(f"INSERT INTO {table} ({columns}) SELECT {shown} FROM kept", (copy,))
            base.execute("DROP TABLE kept")
        assert base.execute("SELECT count(*) FROM runs").fetchone()[0] >= 1000
    command = [sys.executable, "-m", "flows.compare", *tracked[1][2:4], "--workspace", str(folder)]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    before = os.times()
    done = subprocess.run(
        [*command, "--output", str(tmp_path / "page.html")],
        cwd=ROOT,
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    after = os.times()
    assert done.returncode == 0, done.stderr
    # of the processor: what else runs on this machine is not the page's doing
    spent = after.children_user + after.children_system - before.children_user - before.children_system
    assert spent < BARS["compare_seconds"], f"{number(spent)} s"


def test_repetitions_of_a_seed_are_one_draw() -> None:
    def run(identity: str, seed: int, loss: float, seconds: float) -> Run:
        return Run(identity, "", "FINISHED", 0, {"seed": str(seed)}, {"loss": loss, "seconds": seconds}, {})

    same = [run("a", 1, 3.0, 10.0), run("b", 1, 3.0, 14.0)]
    assert repeated(same) == {"seconds": (pytest.approx(8**0.5), 1)}
    assert repeated([*same, run("c", 2, 5.0, 12.0)])["loss"] == (pytest.approx(2**0.5), 1)


def test_standard_errors_tell_what_is_chance() -> None:
    a, b = Side("a", "x"), Side("b", "x")
    a.metrics = {"evaluate.x": 1.0, "evaluate.x_stderr": 0.3, "evaluate.only": 1.0}
    b.metrics = {"evaluate.x": 2.0, "evaluate.x_stderr": 0.4}
    found = {one.name: one for one in figures(a, b)}
    assert found["evaluate.x"].spread == pytest.approx(1.96 * 0.5)
    assert found["evaluate.x"].beyond is True
    assert found["evaluate.only"].change is None


def test_documents_that_moved_are_counted(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"id": ["a", "b", "c"], "split": ["train", "train", "validation"]}), tmp_path / "1")
    pq.write_table(pa.table({"id": ["b", "c", "d"], "split": ["train", "train", "train"]}), tmp_path / "2")
    found = documents(tmp_path / "1", tmp_path / "2")
    assert (found.added, found.removed, found.moved, found.kept) == (["d"], ["a"], 1, 2)


def test_mistakes_are_one_sentence(history: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["HEAD", "nothing-of-that-name", "--workspace", str(history)]) == 2
    error = capsys.readouterr().err
    assert "nothing-of-that-name is no workspace" in error
    assert error.count("\n") == 1
    (tmp_path / "params.yaml").write_text("a: [\n")
    with pytest.raises(InkwellError, match="is not valid YAML"):
        find(str(tmp_path), history)


def test_help_imports_nothing_heavy() -> None:
    began = time.process_time()
    for module in ("flows.compare", "flows.sweep", "flows.scaling"):
        code = f"import sys, runpy\nsys.argv = ['{module}', '--help']\ntry:\n runpy.run_module('{module}', run_name='__main__')\nexcept SystemExit: pass\n"
        code += "heavy = {'torch', 'mlflow', 'prefect', 'optuna', 'matplotlib', 'numpy'} & set(sys.modules)\nassert not heavy, heavy"
        subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True)
    assert time.process_time() - began < 1
