"""What MLflow wrote is read alike from its database's file and through its client, and a file that does not fit goes to the client."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from components.errors import InkwellError
from components.tracking.client import Served
from components.tracking.database import Database
from components.tracking.reading import Dataset, Question, Store, local_copy, open_store

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Written:
    """A database that MLflow wrote: a pipeline with two steps, a deleted run, a deleted experiment, a registered model."""

    uri: str
    pipeline: str
    steps: tuple[str, str]
    deleted: str
    model: str

    @property
    def path(self) -> Path:
        return Path(self.uri.removeprefix("sqlite:///"))


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Written:
    from mlflow.data.code_dataset_source import CodeDatasetSource
    from mlflow.data.meta_dataset import MetaDataset
    from mlflow.entities import DatasetInput, InputTag, LoggedModelOutput, Metric, Param
    from mlflow.tracking import MlflowClient

    folder = tmp_path_factory.mktemp("written")
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", uri)  # the registry asks there for models, whatever its client says
        client = MlflowClient(uri, registry_uri=uri)
        experiment = client.create_experiment("inkwell", artifact_location=(folder / "some files").as_uri())
        pipeline = client.create_run(experiment, start_time=1000, tags={"inkwell.kind": "pipeline"}).info.run_id
        steps = []
        for number, stage in enumerate(("pretrain", "export")):
            tags = {"stage": stage, "mlflow.parentRunId": pipeline, "inkwell.output.models/base": f"{number}" * 32}
            run = client.create_run(experiment, start_time=2000 + number, tags=tags, run_name=stage).info.run_id
            source = CodeDatasetSource(tags={"path": "data/clean", "license": "MIT"})
            given = MetaDataset(source=source, name="data/clean", digest="a" * 32)
            entry = DatasetInput(given._to_mlflow_entity(), [InputTag("mlflow.data.context", "input")])
            client.log_inputs(run, datasets=[entry])
            points = [Metric("loss", 4.0 - at, 3000 + at, at) for at in range(3)]
            points += [Metric("loss", float("nan"), 3009, 9), Metric("broken", float("nan"), 3000, 0)]
            client.log_batch(run, metrics=points, params=[Param("seed", "1"), Param("empty", "")])
            client.set_terminated(run, end_time=9000 + number)
            steps.append(run)
        found = client.create_logged_model(
            experiment, "export", steps[1], {"inkwell.path": "models/export", "inkwell.digest": "1" * 32}
        )
        client.finalize_logged_model(found.model_id, "READY")
        client.log_outputs(steps[1], [LoggedModelOutput(found.model_id, step=0)])
        (folder / "note.txt").write_text("kept", encoding="utf-8")
        client.log_artifact(steps[1], str(folder / "note.txt"))
        gone = client.create_run(experiment, tags={"stage": "pretrain"}).info.run_id
        client.delete_run(gone)
        other = client.create_experiment("another")
        client.create_run(other, tags={"stage": "pretrain"})
        client.delete_experiment(other)
        client.create_registered_model("poet")
        for _ in range(2):
            client.create_model_version("poet", f"models:/{found.model_id}", steps[1], tags={"said": "so"})
        client.create_model_version("poet", (folder / "elsewhere").as_uri(), steps[0])
        client.delete_model_version("poet", "2")
        client.set_registered_model_alias("poet", "champion", "1")
    return Written(uri, pipeline, (steps[0], steps[1]), gone, found.model_id)


@pytest.fixture
def both(written: Written) -> tuple[Store, Store]:
    local = open_store(written.uri)
    assert isinstance(local, Database)
    return local, Served(written.uri)


@pytest.mark.parametrize(
    "question",
    [
        Question({"stage": "pretrain"}, whole=True),
        Question({"stage": "pretrain"}, deleted=True, whole=True),
        Question({"stage": "export"}, status="FINISHED", whole=True),
        Question({"stage": "export"}, status="RUNNING", whole=True),
        Question(digest="a" * 32, whole=True),
        Question(digest="a" * 32, latest=True, at_most=1, whole=True),
        Question({"inkwell.output.models/base": "1" * 32}, whole=True),
        Question({"stage": "export", "inkwell.output.models/base": "0" * 32}, whole=True),
        Question({"stage": "nothing"}, whole=True),
    ],
)
def test_runs_are_the_same_both_ways(both: tuple[Store, Store], question: Question) -> None:
    here, served = both
    assert here.runs(question) == served.runs(question)


def test_what_is_asked_for_is_found(written: Written, both: tuple[Store, Store]) -> None:
    for store in both:
        assert [run.id for run in store.runs(Question({"mlflow.parentRunId": written.pipeline}))] == list(written.steps)
        (latest,) = store.runs(Question(digest="a" * 32, latest=True, at_most=1, whole=True))
        assert latest.id == written.steps[1]
        assert latest.datasets[0] == Dataset(
            "data/clean", "a" * 32, "input", {**latest.datasets[0].facts, "license": "MIT"}
        )
        assert latest.models == (written.model,)
        assert latest.metrics == {}, "the last points are no numbers"
        assert latest.outputs == {"models/base": "1" * 32}
        assert (latest.stage, latest.seconds) == ("export", 7.0)
        assert [run.id for run in store.runs(Question({"stage": "pretrain"}, deleted=True))] == [written.deleted]


def test_one_run_a_curve_models_and_versions_are_the_same_both_ways(
    written: Written, both: tuple[Store, Store]
) -> None:
    here, served = both
    for run in (written.pipeline, *written.steps, written.deleted, "0" * 32):
        assert here.run(run) == served.run(run)
    assert here.run(written.deleted) is None
    assert here.history(written.steps[0], "loss") == served.history(written.steps[0], "loss")
    assert [point[0] for point in here.history(written.steps[0], "loss")] == [0, 1, 2]
    assert here.model(written.model) == served.model(written.model)
    assert here.model("m-" + "0" * 32) is None
    assert served.model("m-" + "0" * 32) is None
    for tag, value in (("inkwell.digest", "1" * 32), ("inkwell.path", "models/none")):
        assert here.models(tag, value) == served.models(tag, value)
    assert here.versions() == served.versions()
    assert [(one.number, one.aliases, one.model) for one in here.versions()] == [("1", ("champion",), written.model), ("3", (), "")]  # fmt: skip


def test_files_of_a_run_are_copied(written: Written, both: tuple[Store, Store], tmp_path: Path) -> None:
    for number, store in enumerate(both):
        run = store.run(written.steps[1])
        assert run is not None
        found = store.fetch(run.artifacts, "note.txt", tmp_path / str(number))
        assert found is not None
        assert found.read_text(encoding="utf-8") == "kept"
        assert store.fetch(run.artifacts, "none.txt", tmp_path / str(number)) is None
    with pytest.raises(ValueError, match="s3"):
        local_copy("s3://bucket/runs", "note.txt", tmp_path)


def test_tables_that_are_not_as_expected_are_left_to_mlflow(written: Written, tmp_path: Path) -> None:
    """A table under another name, which MLflow does not need for these runs."""
    changed = tmp_path / "changed.db"
    shutil.copyfile(written.path, changed)
    with sqlite3.connect(changed) as base:
        base.execute("ALTER TABLE registered_model_aliases RENAME TO other_aliases")
    store = open_store(f"sqlite:///{changed}")
    assert isinstance(store, Served)
    question = Question({"mlflow.parentRunId": written.pipeline}, whole=True)
    assert store.runs(question) == open_store(written.uri).runs(question)


def test_the_journal_of_a_killed_writer_is_no_obstacle(written: Written, tmp_path: Path) -> None:
    """A reader may not roll back; MLflow does, and nothing of the broken transaction is seen."""
    database = tmp_path / "killed.db"
    shutil.copyfile(written.path, database)
    code = (
        "import os, sqlite3, sys\n"
        "base = sqlite3.connect(sys.argv[1], isolation_level=None)\n"
        "base.execute('PRAGMA cache_size = 1'); base.execute('BEGIN IMMEDIATE')\n"
        "base.execute(\"UPDATE tags SET value = 'lost' || value\")\n"
        "many = 'WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 5000)'\n"
        "one = '(SELECT run_uuid FROM runs LIMIT 1)'\n"
        "base.execute(f\"INSERT INTO tags (key, value, run_uuid) {many} SELECT 'k' || i, hex(zeroblob(500)), {one} FROM n\")\n"
        "os.kill(os.getpid(), 9)\n"
    )
    subprocess.run([sys.executable, "-c", code, str(database)], check=False)
    assert database.with_name("killed.db-journal").exists()
    store = open_store(f"sqlite:///{database}")
    assert len(store.runs(Question({"mlflow.parentRunId": written.pipeline}))) == 2


def test_mistakes_are_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(InkwellError, match="does not exist"):
        open_store(f"sqlite:///{tmp_path / 'none.db'}")
    (tmp_path / "text.db").write_text("this is a letter and no database " * 100, encoding="utf-8")
    with pytest.raises(InkwellError, match="cannot be read as MLflow's database"):
        open_store(f"sqlite:///{tmp_path / 'text.db'}")
    with pytest.raises(InkwellError, match="does not answer") as told:
        open_store("http://reader:planted-word@127.0.0.1:9")
    assert "planted-word" not in str(told.value)


def test_a_local_database_is_read_without_mlflow(written: Written) -> None:
    code = "import sys; from components.tracking.reading import open_store, Question; open_store(sys.argv[1]).runs(Question({'stage': 'export'}, whole=True)); sys.exit('mlflow' in sys.modules)"
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    assert subprocess.run([sys.executable, "-c", code, written.uri], env=env, check=False).returncode == 0


def test_queries_go_by_the_indices_of_mlflow(written: Written) -> None:
    """No table of runs, points or tags is gone through from one end to the other."""
    store = open_store(written.uri)
    assert isinstance(store, Database)
    asked: list[str] = []
    store._base.set_trace_callback(asked.append)
    store.runs(Question({"stage": "export"}, whole=True))
    store.runs(Question(digest="a" * 32, whole=True))
    store.history(written.steps[0], "loss")
    store.models("inkwell.digest", "1" * 32)
    store._base.set_trace_callback(None)
    assert asked
    for question in asked:
        values = [""] * question.count("?")  # where the trace shows the question without its values
        plan = [str(row[3]) for row in store._base.execute(f"EXPLAIN QUERY PLAN {question}", values)]
        # a curve is found by its run, not among the curves of that name of all runs
        assert all("run_uuid=?" in line for line in plan if line.split()[1] == "metrics"), plan
        for table in ("tags", "params", "metrics", "latest_metrics", "inputs", "i", "d", "t", "runs"):
            assert not any(line.split()[:2] == ["SCAN", table] and "INDEX" not in line for line in plan), (
                question,
                plan,
            )
