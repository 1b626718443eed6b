"""MLflow's SQLite database, read as what it is and never written.

The tables are those of MLflow 3.17 (`mlflow/store/tracking/dbmodels/models.py`, `mlflow/store/model_registry/dbmodels/models.py`). They are
looked at when the database is opened: where a table or a column is missing, or the file needs a repair that a reader may not do (the journal
of a writer that was killed), `UnknownTablesError` is raised and MLflow's client takes over.

How many queries there are depends on what is asked, never on how many runs there are. MLflow has no index on a tag's value or a
dataset's hash, so these are found by going through the index of that tag's or of the datasets' names, or the models' tags: some microseconds a run.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from components.errors import InkwellError
from components.tracking.reading import (
    ROLE,
    Dataset,
    Model,
    Point,
    Question,
    Run,
    Version,
    facts_of,
    local_copy,
    model_of,
)

_PATIENCE = 5.0  # seconds for a writer to let go of the file
_AT_ONCE = 500  # ids in one query; SQLite allows at least 999
_WORKSPACE = "default"
_OF_A_CURVE = "index_metrics_run_uuid_key_step"
_COLUMNS = {
    "experiments": "experiment_id, lifecycle_stage, workspace",
    "runs": "run_uuid, name, status, start_time, end_time, lifecycle_stage, artifact_uri, experiment_id",
    "tags": "run_uuid, key, value",
    "params": "run_uuid, key, value",
    "latest_metrics": "run_uuid, key, value, is_nan",
    "metrics": "run_uuid, key, value, timestamp, step, is_nan",
    "datasets": "dataset_uuid, name, digest, dataset_source",
    "inputs": "input_uuid, source_type, source_id, destination_type, destination_id",
    "input_tags": "input_uuid, name, value",
    "logged_models": "model_id, experiment_id, artifact_location, creation_timestamp_ms, lifecycle_stage, source_run_id",
    "logged_model_tags": "model_id, tag_key, tag_value",
    "model_versions": "workspace, name, version, current_stage, source, run_id",
    "model_version_tags": "workspace, name, version, key, value",
    "registered_model_aliases": "workspace, name, alias, version",
}


class UnknownTablesError(Exception):
    """The database cannot be read in this way."""


class Database:
    """`components.tracking.reading.Store` of a local file. Raises UnknownTablesError where MLflow itself has to read it."""

    def __init__(self, uri: str, path: Path) -> None:
        self.uri = uri
        self._path = path
        try:
            self._base = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=_PATIENCE)
            for table, columns in _COLUMNS.items():
                # Quoted names that do not exist would pass for strings; plain ones are an error.
                self._base.execute(f"SELECT {columns} FROM {table} LIMIT 0").fetchall()
            self._base.execute(
                f"SELECT 1 FROM metrics INDEXED BY {_OF_A_CURVE} WHERE run_uuid = '' AND key = ''"
            ).fetchall()
            found = self._base.execute(
                "SELECT experiment_id FROM experiments WHERE lifecycle_stage = 'active' AND workspace = ?",
                (_WORKSPACE,),
            )
            self._experiments = [int(row[0]) for row in found]
        except sqlite3.OperationalError as error:
            raise UnknownTablesError(str(error)) from error
        except sqlite3.Error as error:
            raise self._broken(error) from error

    def run(self, identity: str) -> Run | None:
        """See Store."""
        with self._told():
            question = "SELECT run_uuid FROM runs WHERE run_uuid = ? AND lifecycle_stage = 'active'"
            found = [str(row[0]) for row in self._base.execute(question, (identity,))]
            return next(iter(self._described(found, whole=True)), None)

    def runs(self, question: Question) -> list[Run]:
        """See Store."""
        wanted = [f"lifecycle_stage = ? AND experiment_id IN ({_holes(self._experiments)})"]
        values: list[Any] = ["deleted" if question.deleted else "active", *self._experiments]
        if question.status is not None:
            wanted.append("status = ?")
            values.append(question.status)
        for name, value in question.tags.items():
            wanted.append("run_uuid IN (SELECT run_uuid FROM tags WHERE key = ? AND value = ?)")
            values += [name, value]
        if question.digest is not None:
            # The innermost query needs nothing but the index of the datasets' names and hashes.
            wanted.append(
                "run_uuid IN (SELECT destination_id FROM inputs WHERE source_type = 'DATASET' AND destination_type = 'RUN' AND source_id IN "
                "(SELECT dataset_uuid FROM datasets WHERE rowid IN (SELECT rowid FROM datasets WHERE digest = ?)))"
            )
            values.append(question.digest)
        order = "DESC" if question.latest else "ASC"
        limit = "" if question.at_most is None else f" LIMIT {int(question.at_most)}"
        asked = f"SELECT run_uuid FROM runs WHERE {' AND '.join(wanted)} ORDER BY start_time {order}, run_uuid{limit}"
        with self._told():
            return self._described([str(row[0]) for row in self._base.execute(asked, values)], question.whole)

    def history(self, identity: str, metric: str) -> list[Point]:
        """See Store."""
        # Left to itself, SQLite goes through the points of this curve of all runs.
        question = f"SELECT step, value, timestamp FROM metrics INDEXED BY {_OF_A_CURVE} WHERE run_uuid = ? AND key = ? AND NOT is_nan"
        with self._told():
            return sorted((int(a), float(b), int(c)) for a, b, c in self._base.execute(question, (identity, metric)))

    def model(self, identity: str) -> Model | None:
        """See Store."""
        with self._told():
            return next(iter(self._models([identity])), None)

    def models(self, tag: str, value: str, at_most: int | None = None) -> list[Model]:
        """See Store."""
        question = (
            "SELECT model_id FROM logged_models WHERE model_id IN (SELECT model_id FROM logged_model_tags WHERE tag_key = ? AND tag_value = ?) "
            f"AND experiment_id IN ({_holes(self._experiments)}) AND lifecycle_stage != 'deleted' ORDER BY creation_timestamp_ms DESC, model_id"
        ) + ("" if at_most is None else f" LIMIT {int(at_most)}")
        with self._told():
            found = self._base.execute(question, (tag, value, *self._experiments))
            return self._models([str(row[0]) for row in found])

    def versions(self) -> list[Version]:
        """See Store."""
        aliases: dict[tuple[str, str], list[str]] = {}
        tags: dict[tuple[str, str], dict[str, str]] = {}
        here = (_WORKSPACE,)
        with self._told():
            for name, number, alias in self._base.execute(
                "SELECT name, version, alias FROM registered_model_aliases WHERE workspace = ?", here
            ):
                aliases.setdefault((name, str(number)), []).append(alias)
            for name, number, key, value in self._base.execute(
                "SELECT name, version, key, value FROM model_version_tags WHERE workspace = ?", here
            ):
                tags.setdefault((name, str(number)), {})[key] = value or ""
            found = self._base.execute(
                "SELECT name, version, run_id, source FROM model_versions WHERE workspace = ? "
                "AND current_stage IS NOT 'Deleted_Internal' ORDER BY name, version",
                here,
            )
            return [
                Version(
                    name,
                    str(number),
                    tuple(sorted(aliases.get((name, str(number)), ()))),
                    run or "",
                    model_of(source),
                    tags.get((name, str(number)), {}),
                )
                for name, number, run, source in found
            ]

    def fetch(self, artifacts: str, name: str, folder: Path) -> Path | None:
        """See Store."""
        try:
            return local_copy(artifacts, name, folder)
        except ValueError:  # a bucket: MLflow knows how
            from components.tracking.client import download

            return download(self.uri, artifacts, name, folder)

    def _described(self, identities: Sequence[str], whole: bool) -> list[Run]:
        found: dict[str, dict[str, Any]] = {}
        for ids in _parts(identities):
            holes = _holes(ids)
            for identity, name, status, started, ended, artifacts in self._base.execute(
                f"SELECT run_uuid, name, status, start_time, end_time, artifact_uri FROM runs WHERE run_uuid IN ({holes})",
                ids,
            ):
                found[identity] = {
                    "id": identity, "name": name or identity, "status": status, "started": int(started or 0),
                    "ended": ended, "artifacts": artifacts or "", "parameters": {}, "metrics": {}, "tags": {},
                    "datasets": [], "models": [],
                }  # fmt: skip
            for table, attribute, more in (
                ("params", "parameters", ""),
                ("tags", "tags", ""),
                ("latest_metrics", "metrics", " AND NOT is_nan"),
            ):
                asked = f"SELECT run_uuid, key, value FROM {table} WHERE run_uuid IN ({holes}){more}"
                for identity, key, value in self._base.execute(asked, ids):
                    found[identity][attribute][key] = "" if value is None else value
            if whole:
                self._add_datasets(found, ids)
        return [
            Run(
                **{
                    **found[identity],
                    "datasets": tuple(found[identity]["datasets"]),
                    "models": tuple(found[identity]["models"]),
                }
            )
            for identity in identities
            if identity in found
        ]

    def _add_datasets(self, found: dict[str, dict[str, Any]], ids: Sequence[str]) -> None:
        holes = _holes(ids)
        asked = (
            "SELECT i.destination_id, d.name, d.digest, d.dataset_source, t.value FROM inputs AS i "
            "JOIN datasets AS d ON d.dataset_uuid = i.source_id "
            "LEFT JOIN input_tags AS t ON t.input_uuid = i.input_uuid AND t.name = ? "
            f"WHERE i.destination_type = 'RUN' AND i.source_type = 'DATASET' AND i.destination_id IN ({holes}) ORDER BY i.rowid"
        )
        for identity, name, digest, source, role in self._base.execute(asked, (ROLE, *ids)):
            found[identity]["datasets"].append(Dataset(name, digest, role or "", facts_of(source)))
        asked = (
            "SELECT source_id, destination_id FROM inputs WHERE source_type = 'RUN_OUTPUT' AND destination_type = 'MODEL_OUTPUT' "
            f"AND source_id IN ({holes}) ORDER BY rowid"
        )
        for identity, model in self._base.execute(asked, ids):
            found[identity]["models"].append(model)

    def _models(self, identities: Sequence[str]) -> list[Model]:
        found: dict[str, Model] = {}
        for ids in _parts(identities):
            holes = _holes(ids)
            for identity, run, artifacts in self._base.execute(
                f"SELECT model_id, source_run_id, artifact_location FROM logged_models WHERE model_id IN ({holes}) AND lifecycle_stage != 'deleted'",
                ids,
            ):
                found[identity] = Model(identity, run or "", artifacts or "", {})
            for identity, key, value in self._base.execute(
                f"SELECT model_id, tag_key, tag_value FROM logged_model_tags WHERE model_id IN ({holes})", ids
            ):
                if identity in found:
                    found[identity].tags[key] = value
        return [found[identity] for identity in identities if identity in found]

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise self._broken(error) from error

    def _broken(self, error: sqlite3.Error) -> InkwellError:
        return InkwellError(f"{self._path} cannot be read as MLflow's database ({error}).")


def _holes(values: Sequence[Any]) -> str:
    return ", ".join("?" * len(values))


def _parts(values: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(values), _AT_ONCE):
        yield values[start : start + _AT_ONCE]
