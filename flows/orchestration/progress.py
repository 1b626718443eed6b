"""How far a stage is, as a progress artifact of Prefect, read from the lines that its bars write into a log."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

# "  pretrain:  34%, 1:23 left, loss 3.210, 2,000 tokens/s" and "  encode: 100% in 0:12": components.progress writes them.
_LINE = re.compile(
    r"^\s*(?P<label>\S.*?):\s+(?P<percent>\d{1,3})%(?:, (?P<left>\d+(?::\d\d)+) left| in (?:\d+(?::\d\d)+))?(?:, (?P<note>.+))?$"
)
_SECONDS = 5.0  # between two updates: each is a request
_ASKED = 3.0  # seconds that MLflow may take to name a run


@dataclass(frozen=True)
class Seen:
    """One line of a bar: `percent` of what `label` names, `left` as a clock ("1:23") or "", and the bar's own note."""

    label: str
    percent: int
    left: str
    note: str

    def __str__(self) -> str:
        return ", ".join(part for part in (self.label, self.left and f"{self.left} left", self.note) if part)


def seen(line: str) -> Seen | None:
    """What a line tells of progress; None for any other line."""
    found = _LINE.match(line)
    if not found or int(found["percent"]) > 100:
        return None
    return Seen(found["label"], int(found["percent"]), found["left"] or "", found["note"] or "")


class StageProgress:
    """The artifact `progress-STAGE` of the task run it is made in; it appears with the first bar. Nothing here can fail a stage."""

    def __init__(self, stage: str) -> None:
        self.stage, self.key = stage, f"progress-{stage.replace('_', '-').lower()}"
        self._artifact: UUID | None = None
        self._told = 0.0
        self._last: Seen | None = None

    def line(self, line: str) -> Seen | None:
        """Look at a line of the stage's output and show what it tells, at most every five seconds."""
        found = seen(line)
        if found:
            self._last = found
            if found.percent == 100 or time.monotonic() - self._told >= _SECONDS:
                self._tell(found.percent, str(found))
        return found

    def end(self, words: str, stands: bool) -> None:
        """The last word: `stands` when the stage is up to date, else the bar stays where it was."""
        if self._artifact is not None and self._last is not None:
            note = f", {self._last.note}" if self._last.note else ""
            self._tell(100 if stands else self._last.percent, f"{words}{note}")

    def _tell(self, percent: float, description: str) -> None:
        from prefect.artifacts import create_progress_artifact, update_progress_artifact

        self._told = time.monotonic()
        with contextlib.suppress(Exception):  # the server is away: the next line tries again
            if self._artifact is None:
                created: Any = create_progress_artifact(percent, key=self.key, description=description)
                self._artifact = created
            else:
                update_progress_artifact(self._artifact, percent, description=description)


def where_to_look(workspace: Path, pipeline: str) -> Mapping[str, str]:
    """Title and address of what a reader opens next: the pipeline's run in MLflow, the report card, the data card. Never raises."""
    found: dict[str, str] = {}
    with contextlib.suppress(Exception):
        found |= _tracked(workspace, pipeline)
    for name, title in (("index", "Report card"), ("data_card", "Data card"), ("tokenizer", "Tokenizer")):
        page = workspace / "reports" / f"{name}.html"
        if page.exists():
            found[title] = page.resolve().as_uri()
    return found


def _tracked(workspace: Path, pipeline: str) -> dict[str, str]:
    """The pipeline's run in an MLflow server; a database that nobody serves has no address."""
    import httpx

    from components.configuration import load

    tracking = load(workspace / "params.yaml").tracking
    if not tracking.enabled or not (tracking.uri or "").startswith(("http:", "https:")):
        return {}
    address = str(tracking.uri).rstrip("/")
    with httpx.Client(base_url=f"{address}/api/2.0/mlflow/", timeout=_ASKED) as client:
        named = client.get("experiments/get-by-name", params={"experiment_name": tracking.experiment})
        experiment = named.raise_for_status().json()["experiment"]["experiment_id"]
        asked = {
            "experiment_ids": [experiment],
            "filter": f"tags.`inkwell.kind` = 'pipeline' and tags.`inkwell.pipeline` = '{pipeline}'",
            "max_results": 1,
        }
        runs = client.post("runs/search", json=asked).raise_for_status().json().get("runs", [])
    if not runs:
        return {}
    return {"MLflow run": f"{address}/#/experiments/{experiment}/runs/{runs[0]['info']['run_id']}"}
