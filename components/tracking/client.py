"""A tracking server, read through MLflow's client."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Callable, Iterator
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
    model_of,
    without_password,
)

_ABSENT = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")
_PAGE = 500


class Served:
    """`components.tracking.reading.Store` of a server, or of any address that MLflow understands."""

    def __init__(self, uri: str) -> None:
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
        os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
        self.uri = uri
        with self._told():
            from mlflow.tracking import MlflowClient

            self._client = MlflowClient(tracking_uri=uri, registry_uri=uri)
            self._experiments = [
                found.experiment_id
                for found in _all(lambda token: self._client.search_experiments(max_results=_PAGE, page_token=token))
            ]

    def run(self, identity: str) -> Run | None:
        """See Store."""
        found = self._or_none(lambda: self._client.get_run(identity))
        return None if found is None or found.info.lifecycle_stage != "active" else _run(found)

    def runs(self, question: Question) -> list[Run]:
        """See Store."""
        from mlflow.entities import ViewType

        wanted = [f"tags.`{name}` = '{value}'" for name, value in question.tags.items()]
        wanted += [f"datasets.digest = '{question.digest}'"] if question.digest is not None else []
        wanted += [f"attributes.status = '{question.status}'"] if question.status is not None else []
        view = ViewType.DELETED_ONLY if question.deleted else ViewType.ACTIVE_ONLY
        order = [f"attributes.start_time {'DESC' if question.latest else 'ASC'}", "attributes.run_id ASC"]
        size = min(question.at_most or _PAGE, _PAGE)
        if not self._experiments:
            return []
        with self._told():
            found = _all(
                lambda token: self._client.search_runs(
                    self._experiments, " and ".join(wanted), view, size, order, page_token=token
                ),
                question.at_most,
            )
        return [_run(run) for run in found]

    def history(self, identity: str, metric: str) -> list[Point]:
        """See Store."""
        with self._told():
            found = self._client.get_metric_history(identity, metric)
        points = ((int(one.step), float(one.value), int(one.timestamp)) for one in found)
        return sorted(point for point in points if not math.isnan(point[1]))

    def model(self, identity: str) -> Model | None:
        """See Store."""
        found = self._or_none(lambda: self._client.get_logged_model(identity))
        return None if found is None else _model(found)

    def models(self, tag: str, value: str, at_most: int | None = None) -> list[Model]:
        """See Store."""
        order = [{"field_name": "creation_timestamp", "ascending": False}]
        size = min(at_most or 100, 100)
        if not self._experiments:
            return []
        with self._told():
            found = _all(
                lambda token: self._client.search_logged_models(
                    self._experiments, f"tags.`{tag}` = '{value}'", max_results=size, order_by=order, page_token=token
                ),
                at_most,
            )
        return [_model(one) for one in found]

    def versions(self) -> list[Version]:
        """See Store."""
        aliases: dict[tuple[str, str], list[str]] = {}
        with self._told():
            for model in _all(lambda token: self._client.search_registered_models(max_results=_PAGE, page_token=token)):
                for alias, number in (model.aliases or {}).items():
                    aliases.setdefault((model.name, str(number)), []).append(alias)
            found = _all(lambda token: self._client.search_model_versions(max_results=_PAGE, page_token=token))
        versions = [
            Version(
                one.name,
                str(one.version),
                tuple(sorted(aliases.get((one.name, str(one.version)), ()))),
                str(one.run_id or ""),
                str(getattr(one, "model_id", None) or model_of(one.source)),
                dict(one.tags),
            )
            for one in found
        ]
        return sorted(versions, key=lambda one: (one.name, int(one.number)))

    def fetch(self, artifacts: str, name: str, folder: Path) -> Path | None:
        """See Store."""
        return download(self.uri, artifacts, name, folder)

    def _or_none(self, call: Callable[[], Any]) -> Any:
        from mlflow.exceptions import MlflowException

        with self._told():
            try:
                return call()
            except MlflowException as error:
                if error.error_code in _ABSENT:
                    return None
                raise

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        from mlflow.exceptions import MlflowException

        try:
            yield
        except MlflowException as error:
            told = without_password(" ".join(str(error).split()), self.uri)[:200]
            raise InkwellError(
                f"{without_password(self.uri, self.uri)} does not answer ({told}): start it, or give another --uri or tracking.uri."
            ) from error


def download(uri: str, artifacts: str, name: str, folder: Path) -> Path | None:
    """A file at an address that the tracking server `uri` knows how to reach; None where there is none."""
    from mlflow.artifacts import download_artifacts
    from mlflow.exceptions import MlflowException

    folder.mkdir(parents=True, exist_ok=True)
    try:
        found = Path(
            download_artifacts(artifact_uri=f"{artifacts.rstrip('/')}/{name}", dst_path=str(folder), tracking_uri=uri)
        )
    except (MlflowException, OSError):
        return None
    return found if found.is_file() else None


def _run(run: Any) -> Run:
    datasets = []
    for entry in run.inputs.dataset_inputs if run.inputs else []:
        tags = {tag.key: tag.value for tag in entry.tags}
        facts = facts_of(entry.dataset.source)
        datasets.append(Dataset(entry.dataset.name, entry.dataset.digest, tags.get(ROLE, ""), facts))
    outputs = run.outputs.model_outputs if run.outputs else []
    info, data = run.info, run.data
    return Run(
        id=info.run_id,
        name=info.run_name or info.run_id,
        status=info.status,
        started=int(info.start_time or 0),
        parameters=dict(data.params),
        metrics={name: value for name, value in data.metrics.items() if not math.isnan(value)},
        tags=dict(data.tags),
        ended=info.end_time,
        artifacts=info.artifact_uri or "",
        datasets=tuple(datasets),
        models=tuple(model.model_id for model in outputs),
    )


def _model(found: Any) -> Model:
    return Model(
        str(found.model_id), str(found.source_run_id or ""), str(found.artifact_location or ""), dict(found.tags or {})
    )


def _all(page: Callable[[str | None], Any], at_most: int | None = None) -> list[Any]:
    found: list[Any] = []
    token: str | None = None
    while True:
        part = page(token)
        found += part
        token = part.token
        if not token or (at_most is not None and len(found) >= at_most):
            return found if at_most is None else found[:at_most]
