"""The Prefect flow of a sweep: a task a trial, each `dvc exp run --temp` in a process group of its own.

`--temp` and not DVC's queue: its Celery workers stall for many users and outlive the command that started them.
"""

from __future__ import annotations

import json
import queue
import shutil
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from prefect import flow, get_run_logger, task
from prefect.artifacts import create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.task_runners import ThreadPoolTaskRunner

from flows.orchestration.running import Running
from flows.orchestration.sentences import told_in_sentences
from flows.orchestration.server import server
from flows.processes import Command, environment, terminating
from flows.revisions import experiments, git, text_of
from flows.run import spoken
from flows.sweep.checkout import alone, forget, keep, restore
from flows.sweep.trials import Plan, Trial, grid, override, suggested

_STASH = "refs/exps/stash"
_ENDED = "the sweep has ended"


class TrialError(RuntimeError):
    """A trial's command failed."""


class Sweep:
    """What the tasks of one flow run share; Prefect gives them names and numbers only."""

    def __init__(self, plan: Plan, minutes: float | None) -> None:
        self.plan = plan
        self.minutes = minutes
        self.running = Running()
        self.trials: dict[str, Trial] = {}
        # DVC takes the first of the waiting experiments, whichever process put it there: one begins at a time
        self._beginning = threading.Lock()

    def run(self, trial: Trial, say: Any) -> None:
        """Run a trial to its end and keep what became of it; TrialError where it failed."""
        plan = self.plan
        sets = [part for key, value in trial.values.items() for part in ("--set-param", override(key, value))]
        command = [sys.executable, "-m", "dvc", "--wait-for-lock", "exp", "run", "--temp", "--name", trial.name]
        # the sweep records its trials itself: a database inside the temporary folder would be lost with it
        env = {**environment(), "INKWELL_TRACKING": "off"}
        began, last = time.monotonic(), ""
        waiting = self._beginning.acquire()
        try:
            if self.running.closed:
                raise TrialError(_ENDED)
            keep(plan.folder)
            with Command([*command, *sets, plan.stage], plan.folder, env, together=True) as running:
                self.running.add(running)
                try:
                    if self.minutes:
                        running.end_after(self.minutes * 60)
                    for line in running.lines():
                        if not line.strip():
                            continue
                        say(line)
                        if waiting and line.startswith("Reproducing experiment"):
                            forget(plan.folder)
                            self._beginning.release()
                            waiting = False
                        if not line.startswith(("ERROR: failed to reproduce", "ERROR: Failed to reproduce", "> ")):
                            last = line
                    status = running.wait()
                finally:
                    self.running.discard(running)
        finally:
            if waiting:
                try:
                    restore(plan.folder)
                finally:
                    self._beginning.release()
        trial.seconds = round(time.monotonic() - began, 1)
        commit = experiments(plan.folder, plan.baseline).get(trial.name)
        if commit is not None and not status:
            plan.finish(trial, commit)
        elif self.running.closed:  # ended with the sweep: that is no failure of its own, and the next sweep runs it
            raise TrialError(_ENDED)
        elif running.timed_out:
            plan.fail(trial, f"took more than {self.minutes:g} minutes")
        else:
            plan.fail(trial, last.removeprefix("ERROR: ") or f"ended with status {status}")
        if trial.state == "failed":
            raise TrialError(trial.note)


_sweeps: dict[str, Sweep] = {}


@task(cache_policy=NO_CACHE, persist_result=False)
def run_trial(sweep: str, trial: str) -> float | None:
    """Run one trial and return its objective."""
    shared = _sweeps[sweep]
    shared.run(shared.trials[trial], get_run_logger().info)
    return shared.trials[trial].objective


@flow(name="inkwell-sweep", persist_result=False, validate_parameters=False)
def sweep_flow(name: str, objective: str, jobs: int, retry: bool) -> None:
    """Run the trials of the sweep `name` that are not finished, `jobs` at a time."""
    told_in_sentences(TrialError)
    sweep = _sweeps[name]
    plan = sweep.plan
    total = plan.size()
    ended: queue.Queue[str] = queue.Queue()
    active: dict[str, Any] = {}
    spent: list[float] = []
    told = 0

    def tell(trial: Trial, kept: bool) -> None:
        nonlocal told
        told += 1
        pace = sum(spent) / len(spent) / jobs if spent else 0.0
        left = f" (about {spoken(pace * (total - told))} left)" if pace and told < total else ""
        shown = ", ".join(f"{key.rpartition('.')[2]}={value}" for key, value in trial.values.items())
        came = f"{trial.objective:.5g}" if trial.objective is not None else f"failed: {trial.note}"
        how = "kept from an earlier run" if kept else f"in {spoken(trial.seconds)}"
        print(f"  [{told}/{total}] {shown}: {came}, {how}{left}", flush=True)

    try:
        for trial in _coming(sweep, retry):
            if trial is not None and trial.state:
                tell(trial, kept=True)
                continue
            if trial is not None:
                future = run_trial.with_options(task_run_name=trial.name).submit(name, trial.name)
                active[trial.name] = future
                future.add_done_callback(lambda _, trial=trial: ended.put(trial.name))
            while active and (trial is None or len(active) >= jobs):
                done = sweep.trials[ended.get()]
                active.pop(done.name).wait()
                if not done.state:  # an error of ours, not of the trial
                    plan.fail(done, "the task itself failed; Prefect's log of it says why")
                spent.append(done.seconds)
                tell(done, kept=False)
                if trial is not None:
                    break
    except BaseException:  # Ctrl-C and SIGTERM among them: nothing may go on behind a flow that has ended
        sweep.running.end_all()
        raise
    rows = [
        {
            "trial": t.name,
            **t.values,
            "outcome": t.state,
            "objective": t.objective,
            "seconds": t.seconds,
            "note": t.note,
        }
        for t in sweep.trials.values()
    ]
    create_table_artifact(key="sweep", table=rows, description=f"{objective} of each trial")


def _coming(sweep: Sweep, retry: bool) -> Iterator[Trial | None]:
    """Trials in their order; at the end None, for those that still run."""
    plan = sweep.plan
    values = grid(plan) if plan.trials is None else None
    for number in range(plan.size()):
        chosen = next(values) if values else suggested(plan, number, list(sweep.trials.values()))
        trial = plan.trial(number, chosen)
        if trial.state == "failed" and retry:
            trial.state = ""
        if trial.name in sweep.trials:  # Optuna may come back to a point, which has one outcome
            continue
        sweep.trials[trial.name] = trial
        yield trial
    yield None


def run_sweep(plan: Plan, jobs: int, minutes: float | None, retry: bool) -> dict[str, Any]:
    """Run what is not finished, record it, write table and page, and return what the JSON holds."""
    from flows.sweep.findings import write
    from flows.sweep.record import record

    with alone(plan.folder), server():
        tidy(plan)
        print(f"Sweep {plan.name}: {plan.size()} trials, {jobs} at a time, for {plan.objective}", flush=True)
        sweep = _sweeps[plan.name] = Sweep(plan, minutes)
        try:
            # a worker more than trials: the flow's own calls must not wait for a training
            with terminating():
                sweep_flow.with_options(task_runner=ThreadPoolTaskRunner(max_workers=jobs + 1))(
                    plan.name, plan.objective, jobs, retry
                )
        finally:
            _sweeps.pop(plan.name, None)
            sweep.running.end_all()
            tidy(plan)
        trials = sorted(sweep.trials.values(), key=lambda trial: trial.number)
        outcome = write(plan, trials)
        record(plan, trials, [plan.place / f"sweep.{kind}" for kind in ("html", "json")])
    return outcome


def tidy(plan: Plan) -> None:
    """Remove what killed trials of this sweep left: temporary checkouts, and experiments that wait to be begun."""
    _drop_waiting(plan)
    exps = plan.folder / ".dvc" / "tmp" / "exps"
    for info in exps.glob("run/*/*.run"):
        try:
            described = json.loads(info.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        if not str(described.get("name") or "").startswith(f"{plan.name}-"):
            continue
        root = Path(str(described.get("root_dir") or ""))
        if root.resolve().parent == exps.resolve() / "standalone":
            shutil.rmtree(root, ignore_errors=True)
        for folder in (info.parent, exps / "standalone" / "run" / info.parent.name):
            shutil.rmtree(folder, ignore_errors=True)


def _drop_waiting(plan: Plan) -> None:
    """DVC would begin an experiment that a killed process left in its stash, in place of the next one."""
    listed = text_of(plan.folder, "reflog", "show", "--format=%gs", _STASH)
    if not listed:
        return
    entries = listed.splitlines()
    ours = [number for number, line in enumerate(entries) if f":{plan.name}-" in line]
    for number in reversed(ours):
        git(plan.folder, "reflog", "delete", "--updateref", "--rewrite", f"{_STASH}@{{{number}}}")
    if ours and len(ours) == len(entries):
        git(plan.folder, "update-ref", "-d", _STASH)
