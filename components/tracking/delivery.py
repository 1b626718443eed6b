"""From the spool to MLflow, so that a record arrives once however often its delivery is cut short.

Each write can be repeated: runs, models and the pipeline's run are found again by tags that hold their record's uuid;
points of curves carry the time at which they were measured, and MLflow keeps equal points once. A record leaves the
spool when all of it has been accepted.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from components.tracking.ancestors import process_identity
from components.tracking.load import EVERY, Load
from components.tracking.spool import FILES, LINES, Record, milliseconds, sweep, waiting

# Errors of the content: sending it again would never help. Everything else is tried again later.
_REFUSALS = {"INVALID_PARAMETER_VALUE", "BAD_REQUEST", "INVALID_STATE", "RESOURCE_ALREADY_EXISTS"}
# A database that went away in the middle is told by MLflow as the same kind of refusal as a value that does not fit.
_LOST = re.compile(r"InterfaceError|InternalError|connection", re.IGNORECASE)
_FORBIDDEN = re.compile(r"[^\w\-. /:]")  # in names of metrics and parameters


@contextlib.contextmanager
def exclusive(path: Path, wait: bool = False) -> Iterator[bool]:
    """Whether this process now holds the lock on the file `path`; it ends with the block or with the process."""
    try:
        handle = path.open("ab") if wait else path.open("rb")
    except FileNotFoundError:
        yield False
        return
    with handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
            return
        yield True


def deliver_waiting(spool: Path, seconds: float = 600.0, to: Mapping[str, Any] | None = None) -> tuple[int, int]:
    """Deliver what no living step is still writing; returns how many records went and how many stay.

    `to` (uri, artifacts) is where they go instead of where they were meant to: an address that was mistyped and then
    mended must not hold its records back for ever.
    """
    sweep(spool)
    deadline = time.monotonic() + seconds
    delivered = left = 0
    unreachable: set[str] = set()
    for record in waiting(spool):
        with exclusive(record.folder / LINES) as mine:
            if not mine:
                left += record.folder.exists()
                continue
            entries, _ = record.entries()
            header = entries[0] if entries else {}
            if not header:  # not one whole line: there is nothing to tell
                record.remove()
                continue
            if not any(entry["kind"] == "finish" for entry in entries):
                identity = header.get("process")
                if identity and process_identity(int(identity.split()[0])) == identity:
                    left += 1
                    continue
                end_killed(record)
            where = {**header, **(to or {})}
            if time.monotonic() > deadline or where.get("uri") in unreachable:
                left += 1
                continue
            try:
                Delivery(record, where).advance()
                record.remove()
                delivered += 1
            except Exception as error:
                note(record, error)
                # A record that is broken itself must not hold back those behind it.
                if not isinstance(error, LookupError | TypeError | ValueError):
                    unreachable.add(where["uri"])
                left += 1
    return delivered, left


def end_killed(record: Record) -> None:
    """Close the record of a step that died without a word."""
    at = int((record.folder / LINES).stat().st_mtime * 1000)
    record.close_torn_line()
    record.append({"kind": "finish", "at": at, "status": "KILLED", "values": {}})


def note(record: Record, error: Exception) -> None:
    """Leave the reason beside the record, for the person who wonders."""
    with contextlib.suppress(OSError):
        (record.folder / "delivery.log").write_text(f"{type(error).__name__}: {error}\n", encoding="utf-8")


class Delivery:
    """The delivery of one record, in one go or bit by bit while its step runs."""

    def __init__(self, record: Record, header: Mapping[str, Any]) -> None:
        self.record = record
        self.header = header
        self._offset = 0
        self._client: Any = None
        self._experiment = self._run = ""
        self._parent: str | None = None
        self._made: list[str] = []  # ids of the models that the step made

    def advance(self) -> bool:
        """Deliver what is new and return whether the record is complete; raises when the server cannot be had."""
        entries, offset = self.record.entries(self._offset)
        if self._client is None:
            self._client = mlflow_client(self.header["uri"])
            self._experiment = self._find_experiment()
            if self.header["kind"] == "step":
                self._parent = self._find_pipeline(create=True)
                self._run = self._find_run()
            else:
                self._parent = self._find_pipeline(create=False)
        points: list[tuple[str, float, int, int]] = []
        for entry in entries:
            if entry["kind"] == "metrics":
                points += [(name, value, entry["at"], entry["step"]) for name, value in entry["values"].items()]
        self._log_points(self._run, points)
        finished = False
        for entry in entries:
            match entry["kind"]:
                case "dataset":
                    self._log_dataset(entry)
                case "model":
                    self._log_model(entry)
                case "artifact":
                    self._upload(self._client.log_artifact, self._run, entry["file"], "")
                case "tags":
                    for name, value in entry["values"].items():
                        self._accepted(self._client.set_tag, self._run, name, value)
                case "unchanged":
                    self._log_unchanged(entry)
                case "finish":
                    self._finish(entry)
                    finished = True
        self._offset = offset
        return finished

    def _find_experiment(self) -> str:
        from mlflow.exceptions import MlflowException

        name = self.header["experiment"]
        found = self._client.get_experiment_by_name(name)
        if found is None:
            try:
                return str(self._client.create_experiment(name, artifact_location=self.header["artifacts"]))
            except MlflowException:  # another step was faster
                found = self._client.get_experiment_by_name(name)
                if found is None:
                    raise
        if found.lifecycle_stage == "deleted":
            self._client.restore_experiment(found.experiment_id)
        return str(found.experiment_id)

    def _find_pipeline(self, create: bool) -> str | None:
        pipeline = self.header["pipeline"]
        if pipeline is None:
            return None
        tags = {"inkwell.kind": "pipeline", "inkwell.pipeline": pipeline}
        with exclusive(self.record.folder.parent / ".pipeline.lock", wait=True):
            found = self._search(tags)
            if found is None and create:
                started = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(self.header["at"] / 1000))
                step_only = ("inkwell.fingerprint", "inkwell.set")
                around = {name: value for name, value in self.header["tags"].items() if name not in step_only}
                found = self._create(tags, f"pipeline {started}", {**around, "mlflow.source.name": "dvc repro"})
                self._log_parameters(found, self.header["pipeline_parameters"])
        if found and self.header["kind"] == "step":
            self._client.update_run(found, status="RUNNING")
        return found

    def _find_run(self) -> str:
        tags = {"inkwell.record": self.header["id"]}
        found = self._search(tags)
        if found is None:
            stage = self.header["stage"]
            more = {
                **self.header["tags"],
                "inkwell.kind": "step",
                "stage": stage,
                "mlflow.note.content": self.header["summary"],
            }
            more["mlflow.source.name"] = f"python -m components.{stage}"
            if self._parent:
                more |= {"mlflow.parentRunId": self._parent, "inkwell.pipeline": self.header["pipeline"]}
            found = self._create(tags, stage, more)
        self._log_parameters(found, self.header["parameters"])
        return found

    def _search(self, tags: Mapping[str, str]) -> str | None:
        """The oldest run with these tags. A second one, which a lost answer may leave behind, is deleted."""
        wanted = " and ".join(f"tags.`{name}` = '{value}'" for name, value in tags.items())
        found = self._client.search_runs(
            [self._experiment], wanted, max_results=10, order_by=["attributes.start_time ASC", "attributes.run_id ASC"]
        )
        for surplus in found[1:]:
            self._client.delete_run(surplus.info.run_id)
        return str(found[0].info.run_id) if found else None

    def _create(self, tags: Mapping[str, str], name: str, more: Mapping[str, str]) -> str:
        self._client.create_run(self._experiment, start_time=self.header["at"], tags={**tags, **more}, run_name=name)
        found = self._search(tags)
        assert found is not None
        return found

    def _log_parameters(self, run: str, parameters: Mapping[str, str]) -> None:
        from mlflow.entities import Param

        known = self._client.get_run(run).data.params  # a parameter of a run cannot change
        pairs = [
            Param(named(name), str(value)[:6000]) for name, value in parameters.items() if named(name) not in known
        ]
        for start in range(0, len(pairs), 100):
            self._accepted(self._client.log_batch, run, params=pairs[start : start + 100])

    def _log_points(self, run: str, points: Sequence[tuple[str, float, int, int]], **more: Any) -> None:
        from mlflow.entities import Metric

        for start in range(0, len(points), 1000):
            batch = [
                Metric(named(name), value, at, step, **more) for name, value, at, step in points[start : start + 1000]
            ]
            self._accepted(self._client.log_batch, run, metrics=batch)

    def _log_dataset(self, entry: Mapping[str, Any]) -> None:
        from mlflow.data.code_dataset_source import CodeDatasetSource
        from mlflow.data.meta_dataset import MetaDataset
        from mlflow.entities import DatasetInput, InputTag

        source = CodeDatasetSource(tags={"path": entry["path"], **entry.get("facts", {})})
        dataset = MetaDataset(source=source, name=entry["path"], digest=entry["digest"])
        tags = [InputTag("mlflow.data.context", entry["role"]), InputTag("name", entry["name"])]
        self._accepted(self._client.log_inputs, self._run, datasets=[DatasetInput(dataset._to_mlflow_entity(), tags)])
        if entry["role"] == "output":
            self._accepted(self._client.set_tag, self._run, f"inkwell.output.{named(entry['path'])}", entry["digest"])

    def _log_model(self, entry: Mapping[str, Any]) -> None:
        from mlflow.entities import LoggedModelInput, LoggedModelOutput

        parents = [
            model for model in (self._find_model({"inkwell.digest": digest}) for digest in entry["parents"]) if model
        ]
        tags = {"inkwell.record": self.header["id"], "inkwell.digest": entry["digest"], "inkwell.path": entry["path"]}
        model = self._find_model({"inkwell.record": self.header["id"], "inkwell.digest": entry["digest"]})
        if model is None:
            more = {"inkwell.parents": " ".join(entry["parents"]), "inkwell.parent_models": " ".join(parents)}
            shape = {named(name): str(value)[:6000] for name, value in entry["parameters"].items()}
            model = self._client.create_logged_model(
                self._experiment,
                name=entry["name"],
                source_run_id=self._run,
                tags={**tags, **more},
                params=shape,
                model_type="language model",
            ).model_id
        for file in entry["files"]:
            folder = str(Path(file).relative_to(entry["name"]).parent)
            with tempfile.TemporaryDirectory() as name:  # the client sends folders only
                target = Path(name) / folder / Path(file).name
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(self.record.folder / FILES / file, target)
                self._accepted(self._client.log_model_artifacts, model, name)
        self._client.finalize_logged_model(model, "READY")
        if parents:
            self._accepted(self._client.log_inputs, self._run, models=[LoggedModelInput(parent) for parent in parents])
        self._accepted(self._client.log_outputs, self._run, [LoggedModelOutput(model, step=0)])
        self._made.append(model)

    def _find_model(self, tags: Mapping[str, str]) -> str | None:
        wanted = " and ".join(f"tags.`{name}` = '{value}'" for name, value in tags.items())
        found = self._client.search_logged_models([self._experiment], wanted, max_results=1)
        return str(found[0].model_id) if found else None

    def _upload(self, call: Callable[..., Any], owner: str, file: str, folder: str) -> None:
        self._accepted(call, owner, str(self.record.folder / FILES / file), folder or None)

    def _log_unchanged(self, entry: Mapping[str, Any]) -> None:
        """Name the run that made what this pipeline found unchanged."""
        if self._parent is None:
            return
        for path, digest in entry["outputs"].items():
            wanted = f"tags.`inkwell.output.{named(path)}` = '{digest}'"
            found = self._client.search_runs(
                [self._experiment], wanted, max_results=1, order_by=["attributes.start_time DESC"]
            )
            if found:
                self._accepted(self._client.set_tag, self._parent, f"unchanged.{entry['stage']}", found[0].info.run_id)
                return

    def _finish(self, entry: Mapping[str, Any]) -> None:
        figures = [(name, value, entry["at"], 0) for name, value in entry["values"].items()]
        if self._run:
            # With a model's id the figures stand beside the model too; where there are several, they speak of the step.
            self._log_points(self._run, figures, **({"model_id": self._made[0]} if len(self._made) == 1 else {}))
            self._client.set_terminated(self._run, entry["status"], entry["at"])
        if self._parent:
            if self._run:
                stage = self.header["stage"]
                self._log_points(self._parent, [(f"{stage}.{name}", *rest) for name, *rest in figures])  # type: ignore[misc]
            self._client.set_terminated(self._parent, entry["status"], entry["at"])

    def _accepted(self, call: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
        """Call; what the server refuses for its content is noted and left, for it would be refused for ever."""
        from mlflow.exceptions import MlflowException

        try:
            call(*args, **kwargs)
        except MlflowException as error:
            if error.error_code not in _REFUSALS or (
                error.error_code == "BAD_REQUEST" and _LOST.search(str(error)[:200])
            ):
                raise
            note(self.record, error)


def named(name: str) -> str:
    """A name of a metric, parameter or tag as MLflow takes it."""
    return _FORBIDDEN.sub("_", name)[:250]


def mlflow_client(uri: str) -> Any:
    """MLflow's client for tracking and registry at `uri`, with short patience: who waits has a spool."""
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "4")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")  # the spool is the retry
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    from mlflow.tracking import MlflowClient

    if uri.startswith("sqlite:///"):
        _prepare_database(Path(uri.removeprefix("sqlite:///")))
    return MlflowClient(tracking_uri=uri, registry_uri=uri)


def _prepare_database(path: Path) -> None:
    """A new SQLite database as a copy of an empty one kept in the user's cache: MLflow takes six seconds to make one."""
    if path.exists():
        return
    import mlflow
    from mlflow.tracking import MlflowClient

    path.parent.mkdir(parents=True, exist_ok=True)
    base = os.environ.get("XDG_CACHE_HOME")
    cache = Path(os.environ.get("INKWELL_CACHE") or (Path(base) if base else Path.home() / ".cache") / "inkwell")
    template = cache / f"mlflow-{mlflow.__version__}.db"
    try:
        if not template.exists():
            cache.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=cache) as name:
                fresh = Path(name) / "mlflow.db"
                MlflowClient(tracking_uri=f"sqlite:///{fresh}", registry_uri=f"sqlite:///{fresh}")
                with (
                    contextlib.closing(sqlite3.connect(fresh)) as made,
                    contextlib.closing(sqlite3.connect(Path(name) / "copy.db")) as copy,
                ):
                    made.backup(copy)
                (Path(name) / "copy.db").replace(template)
        beside = path.with_name(f".{path.name}.{os.getpid()}")
        shutil.copyfile(template, beside)
        try:
            os.link(beside, path)  # fails where another step was faster, and never replaces a database
        finally:
            beside.unlink()
    except OSError:  # no cache, no links: MLflow makes the database itself
        return


def follow(folder: Path, step: int, interval: float = 30.0, sampling: float = EVERY) -> None:
    """Deliver a record while its step, the process `step` that started this one, writes it; and what others left.

    Every `sampling` seconds it writes into the record how busy the machine is.
    """
    record = Record(folder)
    load: Load | None = None
    with exclusive(folder / LINES) as mine:
        if not mine:
            return
        header = record.entries()[0][0]
        delivery = Delivery(record, header)
        to = {"uri": header["uri"], "artifacts": header["artifacts"]}
        offset, ended, due = 0, False, 0.0
        while not ended:
            entries, offset = record.entries(offset)
            ended = any(entry["kind"] == "finish" for entry in entries)
            if not ended and os.getppid() != step:
                end_killed(record)
                ended = True
            if load is not None and not ended:
                load.tell(record)
            if not ended and time.monotonic() < due:
                time.sleep(0.1)
                continue
            due = time.monotonic() + interval
            try:
                if delivery.advance():
                    ended = True  # the step may have closed it since it was looked at above
                    record.remove()
                    deliver_waiting(folder.parent, 2.0, to)
                else:
                    deliver_waiting(folder.parent, interval, to)
            except Exception as error:
                note(record, error)
            if load is None and not ended:
                load = Load(sampling)
                os.nice(5)  # a short step waits for the imports; from here on a training step must not be slowed down


def record_pipeline_end(
    spool: Path, header: Mapping[str, Any], unchanged: Mapping[str, Mapping[str, str]], status: str
) -> None:
    """Spool the end of a whole pipeline: how it ended, and hashes by path of what each unchanged stage had written."""
    spool.mkdir(parents=True, exist_ok=True)
    record = Record.create(spool, {**header, "kind": "pipeline", "at": milliseconds()})
    for stage, outputs in unchanged.items():
        record.append({"kind": "unchanged", "stage": stage, "outputs": dict(outputs)})
    record.append({"kind": "finish", "at": milliseconds(), "status": status, "values": {}})
