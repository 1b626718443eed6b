"""How long the pages of a full registry take: the report card, a comparison of two runs, and lineage in both directions.

`measure` takes a workspace in which the pipeline has run with tracking on, multiplies what MLflow's database holds to 500 runs and 100 registered
versions, and times whole commands from start to exit, the comparison for two runs of MLflow (with the texts, profile and index of documents that were kept
beside them) and for two workspaces: a page that is quick once everything is imported is of no use to who waits for it. The
workspace itself is only read. The report is made with tracking off: the bar is the page, and telling MLflow of it is the step's affair, not the page's.
"""

from __future__ import annotations

import contextlib
import json
import math
import shutil
import sqlite3
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.commands import seconds_of
from components.errors import InkwellError
from flows.processes import environment

ROOT = Path(__file__).parents[1]
RUNS, VERSIONS = 500, 100
_TIMES = 5
_PATIENCE = 120.0  # seconds after which a command is ended, and the measurement with it
_READ = ("data", "models", "metrics", "reports")
_ANEW = ("metrics/report.json", "reports/index.html")  # the report writes them
_TABLES = (
    *("runs", "tags", "params", "metrics", "latest_metrics", "datasets", "inputs", "input_tags"),
    *("logged_models", "logged_model_tags", "logged_model_params", "model_versions", "model_version_tags"),
)


def measure(finished_workspace: Path, folder: Path) -> dict[str, float]:
    """Median seconds of each page, and how many runs and versions there were.

    Raises InkwellError where the workspace lacks what is asked for, or a command fails.
    """
    workspace = _copy(finished_workspace.resolve(), folder / "workspace")
    beside = _without_a_document(_copy(finished_workspace.resolve(), folder / "beside"))
    database = workspace / ".inkwell" / "mlflow.db"
    runs, versions = multiply(database, RUNS, VERSIONS)
    one, other = _pipelines(database)
    _index_of_its_own(workspace, database, other)
    exported = _exported(workspace)
    document = _document(workspace)
    lineage = [sys.executable, "-m", "flows.lineage"]
    compare = [sys.executable, "-m", "flows.compare", "--output", "compare.html"]
    commands = {
        "report_seconds": [sys.executable, "-m", "components.report"],
        "compare_seconds": [*compare, one, other],
        "compare_workspaces_seconds": [*compare, str(workspace), str(beside)],
        "lineage_back_seconds": [*lineage, exported, "--html", "lineage.html"],
        "lineage_forward_seconds": [*lineage, "--document", document],
    }
    env = {**environment(), "INKWELL_TRACKING": "off", "PYTHONPATH": str(ROOT)}
    found: dict[str, float] = {}
    for name, command in commands.items():
        taken = [seconds_of(command, workspace, env, patience=_PATIENCE) for _ in range(_TIMES + 1)]
        found[name] = round(statistics.median(taken[1:]), 3)  # the first one fills the caches
    return {**found, "registry_runs": runs, "registry_versions": versions}


def multiply(database: Path, runs: int, versions: int) -> tuple[int, int]:
    """Copy what the database holds, by SQL, until it has that many runs and registered versions; how many it has then.

    Of every second copy the hashes are its own, as of pipelines with other parameters; the others made the same bytes again.
    """
    with contextlib.closing(sqlite3.connect(database)) as base:
        base.row_factory = sqlite3.Row
        rows = {table: [dict(row) for row in base.execute(f"SELECT * FROM {table}")] for table in _TABLES}
        if not rows["runs"] or not rows["logged_models"]:
            raise InkwellError(f"{database} holds no runs with models: run the pipeline with tracking.enabled=true.")
        names = _Names(rows)
        for copy in range(math.ceil(runs / len(rows["runs"])) - 1):
            for table in _TABLES:
                for row in rows[table]:
                    copied = {name: names.of_copy(name, value, copy) for name, value in row.items()}
                    _insert(base, table, copied, "IGNORE")  # equal bytes share the row of their dataset
        _register(base, versions)
        base.commit()
        counted = [base.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in ("runs", "model_versions")]
    return int(counted[0]), int(counted[1])


class _Names:
    """Ids and hashes of the copies: each copy's rows name each other, and none names another's."""

    def __init__(self, rows: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
        self._datasets = {row["dataset_uuid"] for row in rows["datasets"]}
        self._ids = {row["run_uuid"] for row in rows["runs"]} | {row["model_id"] for row in rows["logged_models"]}
        self._ids |= {row["input_uuid"] for row in rows["inputs"]}
        self._ids |= {row["value"] for row in rows["tags"] if row["key"] == "inkwell.pipeline"}
        self._digests = {row["digest"] for row in rows["datasets"]}
        self._digests |= {row["value"] for row in rows["tags"] if row["key"].startswith("inkwell.output.")}

    def of_copy(self, column: str, value: Any, copy: int) -> Any:
        """The value of a column in a copy."""
        if column == "version" and isinstance(value, int):
            return value + 1000 * (copy + 1)
        if not isinstance(value, str) or column in ("name", "experiment_id"):
            return value
        if column == "source" and value.startswith("models:/"):
            return "models:/" + self._renamed(value.removeprefix("models:/"), copy)
        return " ".join(self._renamed(word, copy) for word in value.split(" "))

    def _renamed(self, word: str, copy: int) -> str:
        own = copy % 2 == 1
        if word in self._ids or (own and word in self._datasets):
            return f"m-{copy:05d}{word[7:]}" if word.startswith("m-") else f"{copy:05d}{word[5:]}"
        return f"{copy:06x}{word[6:]}" if own and word in self._digests else word


def _insert(base: sqlite3.Connection, table: str, row: Mapping[str, Any], known: str = "ABORT") -> None:
    """`known`: what SQLite does where the row is there already."""
    columns, holes = ", ".join(f'"{name}"' for name in row), ", ".join("?" * len(row))
    base.execute(f"INSERT OR {known} INTO {table} ({columns}) VALUES ({holes})", [*row.values()])


def _register(base: sqlite3.Connection, wanted: int) -> None:
    """Register logged exports (other models where there are none), until there are as many versions as wanted."""
    missing = wanted - int(base.execute("SELECT count(*) FROM model_versions").fetchone()[0])
    if missing <= 0:
        return
    models = base.execute(
        "SELECT m.model_id, m.source_run_id FROM logged_models AS m "
        "LEFT JOIN logged_model_tags AS t ON t.model_id = m.model_id AND t.tag_key = 'inkwell.path' "
        "ORDER BY t.tag_value IS NOT 'models/export', m.creation_timestamp_ms, m.model_id"
    ).fetchall()
    now = int(time.time() * 1000)
    known = {"workspace": "default", "name": "registry-pages", "creation_time": now, "last_updated_time": now}
    _insert(base, "registered_models", known)
    for number in range(1, missing + 1):
        model, run = models[(number - 1) % len(models)]
        more = {
            "version": number,
            "current_stage": "None",
            "source": f"models:/{model}",
            "run_id": run,
            "status": "READY",
        }
        _insert(base, "model_versions", {**known, **more})
    champion = {"workspace": "default", "name": "registry-pages", "alias": "champion", "version": 1}
    _insert(base, "registered_model_aliases", champion)
    promotion = json.dumps({"at": "2026-11-22", "by": "benchmarks.registry_pages", "reason": "measured"})
    told = {
        "workspace": "default",
        "name": "registry-pages",
        "version": 1,
        "key": "inkwell.promotion",
        "value": promotion,
    }
    _insert(base, "model_version_tags", told)


def _copy(finished: Path, workspace: Path) -> Path:
    """A workspace with the finished one's outputs, a database of its own, and this code instead of a copy of it."""
    import yaml

    database = finished / ".inkwell" / "mlflow.db"
    for needed in (database, finished / "params.yaml", finished / "models" / "export", finished / "data" / "clean"):
        if not needed.exists():
            raise InkwellError(
                f"{needed} does not exist: run the whole pipeline there, with tracking.enabled=true and no tracking.uri."
            )
    shutil.rmtree(workspace, ignore_errors=True)
    (workspace / ".inkwell").mkdir(parents=True)
    values = yaml.safe_load((finished / "params.yaml").read_text(encoding="utf-8"))
    values["tracking"] = {**(values.get("tracking") or {}), "uri": None}
    (workspace / "params.yaml").write_text(yaml.safe_dump(values, allow_unicode=True), encoding="utf-8")
    for name in _READ:
        if (finished / name).exists():
            (workspace / name).mkdir()
            for entry in (finished / name).iterdir():
                if f"{name}/{entry.name}" not in _ANEW:
                    (workspace / name / entry.name).symlink_to(entry)
    if (finished / ".inkwell" / "runs").exists():
        (workspace / ".inkwell" / "runs").symlink_to(finished / ".inkwell" / "runs")
    if (finished / ".inkwell" / "lineage").exists():
        shutil.copytree(finished / ".inkwell" / "lineage", workspace / ".inkwell" / "lineage")
    with (
        contextlib.closing(sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True)) as base,
        contextlib.closing(sqlite3.connect(workspace / ".inkwell" / "mlflow.db")) as copy,
    ):
        base.backup(copy)
    return workspace


def _without_a_document(workspace: Path) -> Path:
    """The same workspace, whose corpus lacks the first document: equal ones would be compared at a glance."""
    import pyarrow.parquet as pq

    clean = workspace / "data" / "clean"
    table = pq.ParquetFile(clean / "documents.parquet").read()
    clean.unlink()  # the link to the finished workspace's
    clean.mkdir()
    pq.write_table(table.slice(1), clean / "documents.parquet", compression="zstd")
    return workspace


def _index_of_its_own(workspace: Path, database: Path, pipeline: str) -> None:
    """Where the pipeline is a copy with hashes of its own, an index of its corpus' documents: that of the others without the first."""
    import pyarrow.parquet as pq

    question = (
        "SELECT o.value FROM tags AS o JOIN tags AS p ON p.run_uuid = o.run_uuid AND p.key = 'mlflow.parentRunId' "
        "WHERE p.value = ? AND o.key = 'inkwell.output.data/clean'"
    )
    with contextlib.closing(sqlite3.connect(database)) as base:
        found = base.execute(question, (pipeline,)).fetchone()
    known = sorted((workspace / ".inkwell" / "lineage").glob("*.parquet"))
    if found and known and not (target := known[0].with_name(f"{found[0]}.parquet")).exists():
        pq.write_table(pq.ParquetFile(known[0]).read().slice(1), target, compression="zstd")


def _pipelines(database: Path) -> tuple[str, str]:
    """Two runs to compare: pipelines where there are any, with as many steps as any has."""
    question = (
        "SELECT r.run_uuid FROM runs AS r JOIN tags AS k ON k.run_uuid = r.run_uuid AND k.key = 'inkwell.kind' "
        "WHERE r.lifecycle_stage = 'active' ORDER BY k.value = 'pipeline' DESC, "
        "(SELECT count(*) FROM tags AS p WHERE p.key = 'mlflow.parentRunId' AND p.value = r.run_uuid) DESC, r.run_uuid LIMIT 2"
    )
    with contextlib.closing(sqlite3.connect(database)) as base:
        found = [str(row[0]) for row in base.execute(question)]
    if len(found) < 2:
        raise InkwellError(f"{database} holds no two runs to compare.")
    return found[0], found[1]


def _exported(workspace: Path) -> str:
    files = sorted((workspace / "models" / "export").glob("*.gguf"))
    if not files:
        raise InkwellError(f"{workspace / 'models' / 'export'} holds no *.gguf: run the export step.")
    return files[0].relative_to(workspace).as_posix()


def _document(workspace: Path) -> str:
    """The id of a document that was trained on."""
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    table = pq.ParquetFile(workspace / "data" / "clean" / "documents.parquet").read(["id", "split"])
    trained = table.filter(pc.equal(pc.cast(table["split"], "string"), "train"))["id"]
    if not len(trained):
        raise InkwellError(f"{workspace / 'data' / 'clean'} has no training documents.")
    return str(trained[0].as_py())
