"""Addresses of what a reader opens next: MLflow's pages about a pipeline, and the reports that MLflow keeps beside its runs.

Prefect shows them in its own page, which comes over HTTP: a browser follows no link from there to a file. So all of them lead to MLflow's server;
where `tracking.uri` names none, there are none, and a sentence says so.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from components.errors import InkwellError

RUN, REPORT = "MLflow run", "Report card"
_PAGES = {REPORT: "index", "Data card": "data_card", "Tokenizer": "tokenizer"}  # of reports/
# Where a browser finds MLflow, when that is not where the pipeline does: behind a gate, or forwarded to a port of the reader's machine.
_PAGE = "INKWELL_MLFLOW_PAGE"
_ASKED = 3.0  # seconds that MLflow may take for an answer
_AGAIN = 20.0  # seconds until it is asked again for a run that it did not know yet


@dataclass(frozen=True)
class Found:
    """Address by title; `lacking` says in a sentence why the pipeline's run is not among them, "" where it is."""

    pages: Mapping[str, str] = field(default_factory=dict)
    lacking: str = ""


class Links:
    """What is known of a pipeline's pages while its stages run. They are looked for in a thread: no stage waits for MLflow."""

    def __init__(self, workspace: Path, pipeline: str) -> None:
        self._workspace, self._pipeline = workspace, pipeline
        self._lock = threading.Lock()
        self._pages: Mapping[str, str] = {}
        self._due = 0.0

    def known(self) -> Mapping[str, str]:
        """Address by title, as far as they were found; until the run is among them, it is asked for now and then."""
        with self._lock:
            if RUN not in self._pages and time.monotonic() >= self._due:
                self._due = time.monotonic() + _AGAIN
                threading.Thread(target=self._look, daemon=True).start()
            return self._pages

    def _look(self) -> None:
        found = where_to_look(self._workspace, self._pipeline).pages
        with self._lock:
            self._pages = found


def where_to_look(workspace: Path, pipeline: str) -> Found:
    """The pipeline's run, and the reports that lie in `workspace`, in MLflow. Never raises."""
    pages: dict[str, str] = {}
    try:
        server = _server(workspace)
        if server is None:
            return Found(
                lacking="No links: MLflow's records are kept in a file (`python -m flows.review` shows them), and `tracking.uri` names no server."
            )
        with server:
            run = server.run({"inkwell.kind": "pipeline", "inkwell.pipeline": pipeline})
            if run:
                pages[RUN] = server.page(run)
            for title, name in _PAGES.items():
                if address := _kept(server, workspace, name):
                    pages[title] = address
        return Found(pages, "" if run else "MLflow's server does not know this run yet.")
    except InkwellError as error:
        return Found(lacking=f"No links: {error}")
    except Exception as error:  # a link less does not make a run fail
        return Found(pages, f"MLflow's server did not name the run: {_said(error)}.")


def page_of(workspace: Path, run: str, file: str = "") -> str | None:
    """The address of a run's page in MLflow's server, or of one of its files; None where there is no server. Never raises."""
    try:
        server = _server(workspace)
        if server is None:
            return None
        with server:
            return server.page(run, file)
    except Exception:  # a link less does not make a run fail
        return None


def _kept(server: _Server, workspace: Path, name: str) -> str | None:
    """The page `reports/NAME.html` as the run that wrote these very bytes kept it; None where none did."""
    from components.step import content_hash

    path = f"reports/{name}.html"
    if not (workspace / path).exists():
        return None
    run = server.run({f"inkwell.output.{path}": content_hash(workspace / path)[:32]})
    return server.page(run, f"{name}.html") if run and server.has(run, f"{name}.html") else None


def _server(workspace: Path) -> _Server | None:
    """The server that `tracking.uri` names; None where it names a database, which has no pages, or nothing is recorded."""
    from components.configuration import load

    tracking = load(workspace / "params.yaml").tracking
    if not tracking.enabled or not (tracking.uri or "").startswith(("http:", "https:")):
        return None
    return _Server(str(tracking.uri).rstrip("/"), tracking.experiment)


class _Server:
    """As much of MLflow's API as links need: importing MLflow would take longer than asking."""

    def __init__(self, address: str, experiment: str) -> None:
        import httpx

        self._address = os.environ.get(_PAGE, "").rstrip("/") or address
        user, password = os.environ.get("MLFLOW_TRACKING_USERNAME"), os.environ.get("MLFLOW_TRACKING_PASSWORD")
        self._client = httpx.Client(
            base_url=f"{address}/api/2.0/mlflow/",
            timeout=_ASKED,
            auth=(user, password) if user and password else None,
        )
        self._name = experiment
        self._experiment = ""

    def __enter__(self) -> _Server:
        try:
            told = self._answer(self._client.get("experiments/get-by-name", params={"experiment_name": self._name}))
            self._experiment = str(told["experiment"]["experiment_id"])
        except BaseException:
            self._client.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def run(self, tags: Mapping[str, str]) -> str | None:
        """The id of the latest run with these tags; None where there is none."""
        asked = {
            "experiment_ids": [self._experiment],
            "filter": " and ".join(f"tags.`{name}` = '{value}'" for name, value in tags.items()),
            "order_by": ["attributes.start_time DESC"],
            "max_results": 1,
        }
        runs = self._answer(self._client.post("runs/search", json=asked)).get("runs", [])
        return str(runs[0]["info"]["run_id"]) if runs else None

    def has(self, run: str, file: str) -> bool:
        """Whether the file lies beside the run; large ones do not."""
        told = self._answer(self._client.get("artifacts/list", params={"run_id": run}))
        return any(entry["path"] == file for entry in told.get("files", []))

    def page(self, run: str, file: str = "") -> str:
        """The address of a run's page, or of one of its files, in a browser."""
        page = f"{self._address}/#/experiments/{self._experiment}/runs/{run}"
        return f"{page}/artifacts/{file}" if file else page

    def _answer(self, answer: Any) -> dict[str, Any]:
        found: dict[str, Any] = answer.raise_for_status().json()
        return found


def _said(error: Exception) -> str:
    """The kind of an error, and a refusing server's status: the message may hold an address that nobody should see."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    login = " (MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD hold the login)" if status in (401, 403) else ""
    return f"it answered {status}{login}" if status else type(error).__name__
