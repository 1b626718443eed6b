"""A sweep in MLflow: one run, and a child for each trial with its parameters, figures and the experiment's name.

Everything is found again by tags, so that a sweep that goes on adds only what is new. A server that is away costs a
sentence: the next run of the same sweep records what is missing.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flows.sweep.trials import Plan, Trial


def record(plan: Plan, trials: Sequence[Trial], files: Sequence[Path]) -> str | None:
    """Write the sweep and its ended trials to the tracking server of params.yaml; the sweep's run. Never raises."""
    if os.environ.get("INKWELL_TRACKING") == "off":
        return None
    try:
        return _record(plan, trials, files)
    except Exception as error:  # the trials are done and good: bookkeeping must not fail them
        print(
            f"tracking: the sweep is not recorded ({type(error).__name__}: {' '.join(str(error).split())[:200]}); the same command tries again.",
            file=sys.stderr,
        )
        return None


def _record(plan: Plan, trials: Sequence[Trial], files: Sequence[Path]) -> str | None:
    from components.configuration import load
    from components.step import STATE

    tracking = load(plan.folder / "params.yaml").tracking
    if not tracking.enabled:
        return None
    for name, value in {
        "MLFLOW_HTTP_REQUEST_TIMEOUT": "4",
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }.items():
        os.environ.setdefault(name, value)
    from mlflow.entities import Metric, Param
    from mlflow.tracking import MlflowClient

    uri = tracking.uri or f"sqlite:///{(plan.folder / STATE / 'mlflow.db').absolute().as_posix()}"
    client = MlflowClient(tracking_uri=uri, registry_uri=uri)
    artifacts = None if tracking.uri else (plan.folder / STATE / "mlartifacts").absolute().as_uri()
    found = client.get_experiment_by_name(tracking.experiment)
    experiment = (
        str(found.experiment_id)
        if found
        else client.create_experiment(tracking.experiment, artifact_location=artifacts)
    )

    def run(tags: dict[str, str], name: str, more: dict[str, str], began: float) -> tuple[str, bool]:
        """The run with these tags, and whether it was there."""
        wanted = " and ".join(f"tags.`{key}` = '{value}'" for key, value in tags.items())
        there = client.search_runs([experiment], wanted, max_results=1)
        if there:
            return str(there[0].info.run_id), there[0].info.status != "RUNNING"
        made = client.create_run(experiment, start_time=int(began * 1000), tags={**tags, **more}, run_name=name)
        return str(made.info.run_id), False

    now = time.time()
    commit = {"mlflow.source.git.commit": plan.baseline, "mlflow.source.name": "python -m flows.sweep"}
    parent, _ = run(
        {"inkwell.kind": "sweep", "inkwell.sweep": f"{plan.name} {plan.baseline}"},
        f"sweep {plan.name}",
        {**commit, "inkwell.objective": plan.objective},
        now,
    )
    for trial in trials:
        if not trial.state:
            continue
        tags = {"inkwell.kind": "trial", "inkwell.trial": f"{trial.name} {trial.state}"}
        more = {**commit, "mlflow.parentRunId": parent, "stage": plan.stage}
        if trial.state == "finished":
            more |= {"dvc.experiment": trial.name, "dvc.commit": trial.commit}
        else:
            more["inkwell.failed"] = trial.note[:5000]
        child, complete = run(tags, trial.name, more, now - trial.seconds)
        if complete:
            continue
        client.log_batch(
            child,
            metrics=[Metric(name, value, int(now * 1000), 0) for name, value in trial.metrics.items()],
            params=[Param(key, str(value)) for key, value in trial.values.items()],
        )
        client.set_terminated(child, "FINISHED" if trial.state == "finished" else "FAILED")
    best = plan.best(trials)
    figures: list[Any] = [Metric("trials", len(trials), int(now * 1000), 0)]
    if best and best.objective is not None:
        figures.append(Metric(f"best.{plan.metric}", best.objective, int(now * 1000), 0))
        client.set_tag(parent, "inkwell.best", best.name)
    client.log_batch(parent, metrics=figures)
    for file in files:
        client.log_artifact(parent, str(file))
    client.set_terminated(parent, "FINISHED" if best else "FAILED")
    return parent
