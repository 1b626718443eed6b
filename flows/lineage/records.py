"""MLflow's records, read: runs with what they read and wrote, models, and the registry.

Whatever a step read or wrote is a dataset of its run, named by path and by the first 32 hex digits of its hash
(`components.tracking`); outputs are tags too (`inkwell.output.<path>`). So a run is found by the hash of its output in
one query, and nothing here depends on how many runs there are.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from components.errors import InkwellError

OUTPUT = "inkwell.output."
UNCHANGED = "unchanged."
PROMOTION = "inkwell.promotion"


@dataclass(frozen=True)
class Dataset:
    """Something that a run read, wrote or named: path, 32 hex digits of its hash, role, and facts about it."""

    path: str
    digest: str
    role: str
    facts: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Run:
    """One run of a step. Times are milliseconds since 1970; `ended` is None while it runs."""

    id: str
    stage: str
    status: str
    started: int
    ended: int | None
    tags: dict[str, str]
    parameters: dict[str, str]
    seconds: float | None
    datasets: tuple[Dataset, ...]
    models: tuple[str, ...]  # ids of the models that it made

    @property
    def outputs(self) -> dict[str, str]:
        """Hash by path of what it wrote."""
        return {name.removeprefix(OUTPUT): value for name, value in self.tags.items() if name.startswith(OUTPUT)}

    def of_role(self, *roles: str) -> list[Dataset]:
        """Its datasets of these roles."""
        return [dataset for dataset in self.datasets if dataset.role in roles]


@dataclass(frozen=True)
class Version:
    """A version of a registered model, with what was written about its promotion."""

    name: str
    number: str
    aliases: tuple[str, ...]
    run: str
    model: str
    tags: dict[str, str]

    @property
    def title(self) -> str:
        """`name/3 (champion)`."""
        return f"{self.name}/{self.number}" + (f" ({', '.join(self.aliases)})" if self.aliases else "")

    @property
    def promotion(self) -> dict[str, Any]:
        """{"at", "by", "reason", "evidence"}; empty where nobody promoted it."""
        try:
            found = json.loads(self.tags.get(PROMOTION, "{}"))
        except ValueError:
            return {"reason": self.tags[PROMOTION]}
        return found if isinstance(found, dict) else {"reason": str(found)}


class Records:
    """What a tracking server knows. Raises InkwellError when it cannot be had."""

    def __init__(self, uri: str) -> None:
        self.uri = uri
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
        os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
        if uri.startswith("sqlite:///") and not Path(uri.removeprefix("sqlite:///")).exists():
            raise InkwellError(
                f"{uri} does not exist: nothing was recorded here yet, or name the records with --uri or tracking.uri."
            )
        from mlflow.exceptions import MlflowException
        from mlflow.tracking import MlflowClient

        try:
            self._client = MlflowClient(tracking_uri=uri, registry_uri=uri)
            self._experiments = [found.experiment_id for found in self._client.search_experiments()]
        except MlflowException as error:
            raise InkwellError(
                f"{uri} does not answer ({str(error).splitlines()[0][:200]}): start it, or give another --uri."
            ) from error
        self._queries: dict[tuple[str, bool, bool], list[Run]] = {}

    def made(self, path: str, digest: str, deleted: bool = False) -> list[Run]:
        """Runs that wrote this, the latest first; the latest fifty, where the same bytes were made more often."""
        from components.tracking.delivery import _named

        return self._search(f"tags.`{OUTPUT}{_named(path)}` = '{digest}'", latest=True, deleted=deleted, at_most=50)

    def touched(self, digest: str, deleted: bool = False) -> list[Run]:
        """Runs that read, wrote or named something of this hash, the earliest first."""
        return self._search(f"datasets.digest = '{digest}'", latest=False, deleted=deleted)

    def of_stage(self, stage: str) -> list[Run]:
        """Runs of a step, the latest first."""
        return self._search(f"tags.stage = '{stage}'", latest=True)

    def of_pipeline(self, pipeline: str) -> list[Run]:
        """Runs of the steps of a pipeline, the latest first."""
        return self._search(f"tags.`inkwell.pipeline` = '{pipeline}' and tags.`inkwell.kind` = 'step'", latest=True)

    def by_tag(self, name: str, value: str) -> list[Run]:
        """Runs with this tag, the latest first."""
        return self._search(f"tags.`{name}` = '{value}'", latest=True)

    def by_id(self, run: str) -> list[Run]:
        """The run, or nothing when it is gone."""
        from mlflow.entities import LifecycleStage
        from mlflow.exceptions import MlflowException

        try:
            found = self._client.get_run(run)
        except MlflowException:
            return []
        return [_run(found)] if found.info.lifecycle_stage == LifecycleStage.ACTIVE else []

    def digest_of_model(self, model: str) -> tuple[str, str] | None:
        """Path and hash of a logged model; None when it is gone."""
        from mlflow.exceptions import MlflowException

        try:
            tags = self._client.get_logged_model(model).tags
        except MlflowException:
            return None
        return (
            (tags["inkwell.path"], tags["inkwell.digest"]) if {"inkwell.path", "inkwell.digest"} <= set(tags) else None
        )

    def parents_of_model(self, model: str) -> list[str] | None:
        """Hashes of the models that it was made of, as its step said; None where nothing is said."""
        from mlflow.exceptions import MlflowException

        try:
            said = self._client.get_logged_model(model).tags.get("inkwell.parents")
        except MlflowException:
            return None
        return None if said is None else said.split()

    def file_of(self, run: str, name: str, folder: Path) -> Path | None:
        """An artifact of a run, downloaded; None where there is none."""
        from mlflow.exceptions import MlflowException

        try:
            return Path(self._client.download_artifacts(run, name, str(folder)))
        except (MlflowException, OSError):
            return None

    def keep(self, run: str, file: Path) -> None:
        """Add a file to a run's artifacts."""
        self._client.log_artifact(run, str(file))

    def manifests(self, at_most: int) -> list[tuple[str, str, dict[str, Any]]]:
        """(run, hash of the export, manifest) of exports, the latest first: for records older than hashes of files."""
        import tempfile

        from mlflow.exceptions import MlflowException

        found = []
        exports = self._client.search_logged_models(
            self._experiments, "tags.`inkwell.path` = 'models/export'", max_results=at_most,
            order_by=[{"field_name": "creation_timestamp", "ascending": False}],
        )  # fmt: skip
        for model in exports:
            with tempfile.TemporaryDirectory() as folder:
                try:
                    path = _download(model.artifact_location, "manifest.json", folder)
                    manifest = json.loads(Path(path).read_text(encoding="utf-8"))
                except (MlflowException, OSError, ValueError):
                    continue
            found.append((str(model.source_run_id), str(model.tags.get("inkwell.digest", "")), manifest))
        return found

    @cached_property
    def versions(self) -> list[Version]:
        """All versions in the registry."""
        aliases: dict[tuple[str, str], list[str]] = {}
        for model in _all(lambda token: self._client.search_registered_models(max_results=500, page_token=token)):
            for alias, number in (model.aliases or {}).items():
                aliases.setdefault((model.name, str(number)), []).append(alias)
        return [
            Version(
                found.name,
                str(found.version),
                tuple(sorted(aliases.get((found.name, str(found.version)), ()))),
                str(found.run_id or ""),
                str(getattr(found, "model_id", None) or _model_of(found.source)),
                dict(found.tags),
            )
            for found in _all(lambda token: self._client.search_model_versions(max_results=1000, page_token=token))
        ]

    def versions_of(self, run: Run, digest: str) -> list[Version]:
        """Versions of what a run made: joined by the model's id, else by the run, else by a tag that holds the hash."""
        return [
            version
            for version in self.versions
            if (version.model and version.model in run.models)
            or (not version.model and version.run == run.id)
            or digest in version.tags.values()
        ]

    def _search(self, wanted: str, *, latest: bool, deleted: bool = False, at_most: int | None = None) -> list[Run]:
        from mlflow.entities import ViewType

        key = (wanted, latest, deleted)
        if key not in self._queries:
            order = [f"attributes.start_time {'DESC' if latest else 'ASC'}", "attributes.run_id ASC"]
            view = ViewType.DELETED_ONLY if deleted else ViewType.ACTIVE_ONLY
            found = _all(
                lambda token: self._client.search_runs(
                    self._experiments, wanted, view, at_most or 500, order, page_token=token
                ),
                at_most,
            )
            self._queries[key] = [_run(run) for run in found]
        return self._queries[key]


def _run(run: Any) -> Run:
    seconds = run.data.metrics.get("seconds")
    ended = run.info.end_time
    if seconds is None and ended:
        seconds = (ended - run.info.start_time) / 1000
    datasets = []
    for entry in run.inputs.dataset_inputs if run.inputs else []:
        tags = {tag.key: tag.value for tag in entry.tags}
        try:
            facts = json.loads(entry.dataset.source).get("tags", {})
        except (TypeError, ValueError):
            facts = {}
        role = tags.get("mlflow.data.context", "")
        datasets.append(Dataset(entry.dataset.name, entry.dataset.digest, role, facts))
    outputs = run.outputs.model_outputs if run.outputs else []
    return Run(
        run.info.run_id, run.data.tags.get("stage", run.info.run_name or ""), run.info.status, run.info.start_time, ended,
        dict(run.data.tags), dict(run.data.params), seconds, tuple(datasets), tuple(model.model_id for model in outputs),
    )  # fmt: skip


def _model_of(source: str | None) -> str:
    """The id in `models:/m-...`; empty for a source of another kind."""
    name = (source or "").removeprefix("models:/")
    return name if source and source.startswith("models:/") and "/" not in name else ""


def _download(location: str, name: str, folder: str) -> str:
    from mlflow.artifacts import download_artifacts

    return str(download_artifacts(artifact_uri=f"{location.rstrip('/')}/{name}", dst_path=folder))


def _all(page: Any, at_most: int | None = None) -> Sequence[Any]:
    found: list[Any] = []
    token: str | None = None
    while True:
        part = page(token)
        found += part
        token = part.token
        if not token or (at_most is not None and len(found) >= at_most):
            return found
