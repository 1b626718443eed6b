"""Whether MLflow holds what the stages told, each once, whatever happened to the server and to those who told it."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Collection, Mapping
from pathlib import Path

_PATIENCE = 90.0  # seconds: a process that outlives its step may still be delivering


def track(workspace: Path, experiment: str, uri: str | None = None) -> None:
    """Switch tracking on in a workspace; no stage depends on these parameters."""
    path = workspace / "params.yaml"
    before, heading, section = path.read_text(encoding="utf-8").partition("\ntracking:\n")
    # Line by line: what a YAML library writes anew may be other values to DVC (1e-4 is a text to some).
    for name, value in (("enabled", "true"), ("uri", uri or "null"), ("experiment", experiment)):
        section, found = re.subn(rf"(?m)^  {name}: .*$", f"  {name}: {value}", section, count=1)
        assert found, f"{path} has no tracking.{name}"
    path.write_text(before + heading + section, encoding="utf-8")


def faults_of_records(
    workspace: Path,
    env: Mapping[str, str],
    experiment: str,
    stages: Collection[str],
    uri: str | None = None,
    perhaps_twice: Collection[str] = (),
    perhaps_none: bool = False,
) -> list[str]:
    """What is wrong with the records, a sentence each: something waits, is there twice or never ended, or a stage has none.

    A stage has one run that finished; one of `perhaps_twice` (killed: perhaps after its last word) may have two. With `perhaps_none` it may
    have none: what kept the records was what broke.
    """
    deadline = time.monotonic() + _PATIENCE
    while True:
        told = subprocess.run(
            [sys.executable, "-m", "components.tracking"],
            cwd=workspace,
            env=dict(env),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        if told.returncode == 0 or time.monotonic() > deadline:
            break
        time.sleep(2)
    wrong = [] if told.returncode == 0 else [f"MLflow's records wait: {' '.join(told.stdout.split())[-200:]}"]
    try:
        return wrong + _looked_at(workspace, experiment, stages, uri, perhaps_twice, perhaps_none)
    except Exception as error:  # MLflow's, of its server or of its database
        return [*wrong, f"MLflow cannot be asked: {type(error).__name__}: {' '.join(str(error).split())[:200]}"]


def _looked_at(
    workspace: Path,
    experiment: str,
    stages: Collection[str],
    uri: str | None,
    perhaps_twice: Collection[str],
    perhaps_none: bool,
) -> list[str]:
    from components.tracking.delivery import mlflow_client

    client = mlflow_client(uri or f"sqlite:///{(workspace / '.inkwell' / 'mlflow.db').absolute().as_posix()}")
    found = client.get_experiment_by_name(experiment)
    if found is None:
        return [] if perhaps_none else [f"MLflow knows no experiment {experiment}"]
    runs = client.search_runs([found.experiment_id], "tags.`inkwell.kind` = 'step'", max_results=1000)
    records = Counter(run.data.tags["inkwell.record"] for run in runs)
    wrong = [f"MLflow holds the record {name} {count} times" for name, count in records.items() if count > 1]
    wrong += [f"MLflow: {run.data.tags['stage']} never ended" for run in runs if run.info.status == "RUNNING"]
    finished = Counter(run.data.tags["stage"] for run in runs if run.info.status == "FINISHED")
    for stage in stages:
        if not (0 if perhaps_none else 1) <= finished[stage] <= (2 if stage in perhaps_twice else 1):
            wrong.append(f"MLflow holds {finished[stage]} finished runs of {stage}")
    return wrong
