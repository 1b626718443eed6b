"""MLflow's runs as a comparison needs them: a run, its children, the points of a curve, and repeated runs of a stage.

A local SQLite database is read as what it is: importing MLflow takes longer than the whole comparison. Its tables (runs,
params, tags, latest_metrics, metrics) have had these columns since MLflow 1; a test writes them with MLflow itself.
Everything else goes through MLflow's client.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from components.errors import InkwellError

Point = tuple[int, float, int]  # step, value, milliseconds since 1970


@dataclass(frozen=True)
class TrackedRun:
    """One run: parameters and tags are text, as MLflow keeps them."""

    identity: str
    name: str
    status: str
    started: int  # milliseconds since 1970
    parameters: dict[str, str]
    metrics: dict[str, float]
    tags: dict[str, str]


class Runs(Protocol):
    """A tracking store."""

    def run(self, identity: str) -> TrackedRun | None:
        """The run of that id; None where there is none."""

    def children(self, identity: str) -> list[TrackedRun]:
        """Runs whose parent it is, the oldest first."""

    def history(self, identity: str, metric: str) -> list[Point]:
        """The points of a curve, by step."""

    def of_stage(self, stage: str) -> list[TrackedRun]:
        """Finished runs of a stage."""


def runs_of(workspace: Path, uri: str | None) -> Runs | None:
    """The tracking store of a workspace whose `tracking.uri` is `uri`; None where nothing was ever recorded."""
    if uri and not uri.startswith("sqlite:///"):
        return _Served(uri)
    path = Path(uri.removeprefix("sqlite:///")) if uri else workspace / ".inkwell" / "mlflow.db"
    return _Local(path) if path.exists() else None


class _Local:
    def __init__(self, path: Path) -> None:
        self._path = path

    @contextlib.contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        try:
            address = f"{self._path.absolute().as_uri()}?mode=ro"
            with contextlib.closing(sqlite3.connect(address, uri=True, timeout=5)) as connection:
                yield connection
        except sqlite3.Error as error:
            raise InkwellError(f"{self._path} cannot be read as MLflow's database ({error}).") from error

    def run(self, identity: str) -> TrackedRun | None:
        with self._open() as connection:
            return next(iter(self._runs(connection, "run_uuid = ?", identity)), None)

    def children(self, identity: str) -> list[TrackedRun]:
        where = "run_uuid IN (SELECT run_uuid FROM tags WHERE key = 'mlflow.parentRunId' AND value = ?)"
        with self._open() as connection:
            return self._runs(connection, where, identity)

    def of_stage(self, stage: str) -> list[TrackedRun]:
        where = "status = 'FINISHED' AND run_uuid IN (SELECT run_uuid FROM tags WHERE key = 'stage' AND value = ?)"
        with self._open() as connection:
            return self._runs(connection, where, stage)

    def history(self, identity: str, metric: str) -> list[Point]:
        question = "SELECT step, value, timestamp FROM metrics WHERE run_uuid = ? AND key = ? AND NOT is_nan ORDER BY step, timestamp"
        with self._open() as connection:
            return [(int(a), float(b), int(c)) for a, b, c in connection.execute(question, (identity, metric))]

    def _runs(self, connection: sqlite3.Connection, where: str, value: str) -> list[TrackedRun]:
        chosen = f"lifecycle_stage = 'active' AND {where}"
        found: dict[str, TrackedRun] = {}
        for identity, name, status, started in connection.execute(
            f"SELECT run_uuid, name, status, start_time FROM runs WHERE {chosen} ORDER BY start_time, run_uuid",
            (value,),
        ):
            found[identity] = TrackedRun(identity, name or identity, status, int(started or 0), {}, {}, {})
        inner = f"(SELECT run_uuid FROM runs WHERE {chosen})"
        for table, attribute, condition in (
            ("params", "parameters", ""),
            ("tags", "tags", ""),
            ("latest_metrics", "metrics", " AND NOT is_nan"),
        ):
            question = f"SELECT run_uuid, key, value FROM {table} WHERE run_uuid IN {inner}{condition}"
            for identity, key, kept in connection.execute(question, (value,)):
                getattr(found[identity], attribute)[key] = kept
        return list(found.values())


class _Served:
    def __init__(self, uri: str) -> None:
        import os

        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
        from mlflow.tracking import MlflowClient

        self._uri = uri
        self._client = MlflowClient(tracking_uri=uri, registry_uri=uri)

    def run(self, identity: str) -> TrackedRun | None:
        from mlflow.exceptions import MlflowException

        try:
            return _converted(self._client.get_run(identity))
        except MlflowException as error:
            if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                return None
            raise InkwellError(
                f"{self._uri} (tracking.uri) does not answer: {' '.join(str(error).split())[:200]}."
            ) from error

    def children(self, identity: str) -> list[TrackedRun]:
        return self._searched(f"tags.`mlflow.parentRunId` = '{identity}'")

    def of_stage(self, stage: str) -> list[TrackedRun]:
        return self._searched(f"tags.stage = '{stage}' and attributes.status = 'FINISHED'")

    def history(self, identity: str, metric: str) -> list[Point]:
        found = self._client.get_metric_history(identity, metric)
        return sorted((int(one.step), float(one.value), int(one.timestamp)) for one in found)

    def _searched(self, question: str) -> list[TrackedRun]:
        experiments = [one.experiment_id for one in self._client.search_experiments()]
        found = self._client.search_runs(
            experiments, question, max_results=2000, order_by=["attributes.start_time ASC"]
        )
        return [_converted(run) for run in found]


def _converted(run: Any) -> TrackedRun:
    info, data = run.info, run.data
    return TrackedRun(
        info.run_id, info.run_name or info.run_id, info.status, info.start_time, data.params, data.metrics, data.tags
    )
