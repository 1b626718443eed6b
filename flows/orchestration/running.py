"""The Prefect flow itself. DVC says what there is to do and remembers what was done; Prefect runs, retries and shows it.

Each stage is a task that runs `dvc repro --single-item` in a process group of its own, where its placement says. Results are neither cached nor
persisted by Prefect: its cache keys do not see files.
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from prefect import flow, get_run_logger, task
from prefect.artifacts import create_link_artifact, create_markdown_artifact, create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.runtime import flow_run
from prefect.task_runners import ThreadPoolTaskRunner

from components.errors import InkwellError
from flows.orchestration.graph import Stage, read_stages
from flows.orchestration.links import REPORT, Links, where_to_look
from flows.orchestration.progress import StageProgress
from flows.orchestration.record import record_pipeline
from flows.orchestration.sentences import told_in_sentences
from flows.orchestration.server import server
from flows.placement.described import placed
from flows.placement.workspace import Placement
from flows.processes import Command, environment

_KEY_FIGURES = {
    "pretrain": ("val_bits_per_char", "tokens_per_second", "parameters"),
    "tag": ("documents", "recorded_pairs"),
    "clean": ("documents_in", "documents_kept", "kneser_ney_bits_per_char"),
    "evaluate": ("sft.five_char_lines",),
    "export": ("kl_q8_0", "greedy_identical_f16"),
}
# Lines of DVC's around an error that say less than what the stage said itself.
_NOT_THE_REASON = ("ERROR: failed to reproduce", "Use `dvc push`", "To track the changes", "> ", "\tgit add")
RETRY_SECONDS = 10.0
# A killed flow keeps its slot for so long at most. Longer than a server takes to start again: a lease that lapses lets a second training in.
_LEASE_SECONDS = 90.0


@dataclass(frozen=True)
class Outcome:
    """What became of a stage: "ran", "restored" (from DVC's run cache), "unchanged", "failed" or "skipped"."""

    stage: str
    state: str
    seconds: float = 0.0
    note: str = ""


class StageError(RuntimeError):
    """A stage's command failed or took too long."""


class Running:
    """The commands of a flow run that are alive, so that all of them can be ended at once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._commands: set[Command] = set()
        self._closed = False

    @property
    def closed(self) -> bool:
        """Whether the flow has ended and nothing may begin."""
        return self._closed

    def add(self, command: Command) -> None:
        """Take a command in; after `end_all` it is ended at once."""
        with self._lock:
            self._commands.add(command)
            closed = self._closed
        if closed:
            command.end()

    def discard(self, command: Command) -> None:
        """Forget a command that has ended."""
        with self._lock:
            self._commands.discard(command)

    def end_all(self) -> None:
        """End every command, all at the same time."""
        with self._lock:
            self._closed = True
            enders = [threading.Thread(target=command.end) for command in self._commands]
        for ender in enders:
            ender.start()
        for ender in enders:
            ender.join()


@dataclass
class _Run:
    placement: Placement
    stages: Mapping[str, Stage]
    links: Links
    settled: Set[str] = frozenset()  # stages that need no look of their own
    running: Running = field(default_factory=Running)


# Prefect gives a task its parameters only, and wants to show them: the rest is found by the flow run's identity.
_runs: dict[str, _Run] = {}


@task(cache_policy=NO_CACHE, persist_result=False)
def run_stage(workspace: str, stage: str, pipeline: str, force: bool, timeout_minutes: float | None) -> Outcome:
    """Bring one stage up to date and tell what that took; raises StageError when its command fails."""
    run = _runs[pipeline]
    if stage in run.settled and not force:
        get_run_logger().info(f"{stage}: nothing to do, `dvc status` says")
        return Outcome(stage, "unchanged")
    with _slot(run.stages[stage].concurrency, run.running):
        return _run_command(run, run.stages[stage], pipeline, force, timeout_minutes)


def _run_command(run: _Run, stage: Stage, pipeline: str, force: bool, timeout_minutes: float | None) -> Outcome:
    logger = get_run_logger()
    name = stage.name
    state, last, stands = "unchanged", "", False
    progress = StageProgress(name, run.links)
    began = time.monotonic()
    with Command(
        run.placement.command(stage, force), run.placement.folder, environment(pipeline), together=True
    ) as repro:
        run.running.add(repro)
        try:
            if timeout_minutes:
                repro.end_after(timeout_minutes * 60)
            for line in repro.lines():
                if not line.strip():
                    continue
                logger.info(line)
                if line.startswith(f"Running stage '{name}'"):
                    state = "ran"
                elif line.startswith(f"Stage '{name}' is cached"):
                    state = "restored"
                elif not progress.line(line) and not line.startswith(_NOT_THE_REASON):
                    last = line.strip()
            status = repro.wait()
            stands = not status and not repro.timed_out
        finally:
            run.running.discard(repro)
            progress.end(f"{name}: {state}" if stands else f"{name} has not ended well", stands)
    if repro.timed_out:
        raise StageError(f"{name} took more than {timeout_minutes:g} minutes (meta.timeout_minutes in dvc.yaml)")
    if status:
        raise StageError(f"{name} ended with status {status}: {last}")
    return Outcome(name, state, time.monotonic() - began)


@contextlib.contextmanager
def _slot(key: str | None, running: Running) -> Iterator[None]:
    """A slot of Prefect's concurrency limit `key`, waited for; a limit that nobody has made is made, with one slot.

    A flow that is killed keeps its slot until its lease has run out and the server has seen it.
    """
    if key is None:
        yield
        return
    from prefect.client.orchestration import get_client
    from prefect.concurrency.sync import concurrency
    from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound

    with get_client(sync_client=True) as client:
        try:
            client.read_global_concurrency_limit_by_name(key)
        except ObjectNotFound:
            with contextlib.suppress(ObjectAlreadyExists):  # another stage was faster
                client.upsert_global_concurrency_limit_by_name(key, 1)
    told = False
    with contextlib.ExitStack() as held:
        while True:
            if running.closed:  # nobody would end what begins now
                raise StageError(f"the flow has ended while this waited for a slot of {key}")
            try:
                # In short turns, so that a cancelled flow does not wait for the slot. A lease that cannot be renewed, since the server
                # is away, does not end a stage that trains.
                held.enter_context(
                    concurrency(
                        key, timeout_seconds=5, lease_duration=_LEASE_SECONDS, raise_on_lease_renewal_failure=False
                    )
                )
                break
            except TimeoutError:
                if not told:
                    get_run_logger().info(
                        f"waiting for a slot of {key}: another stage holds it, or one that was killed less than {_LEASE_SECONDS:.0f} s ago "
                        f"(`prefect gcl inspect {key}`)"
                    )
                    told = True
        yield


@flow(name="inkwell-pipeline", persist_result=False, validate_parameters=False)
def pipeline(
    workspace: str = ".",
    targets: Sequence[str] = (),
    force: bool = False,
    downstream: Sequence[str] = (),
    placement: Mapping[str, Any] | None = None,
) -> list[dict[str, Any]]:
    """Run what is out of date in `workspace`; fails when a stage fails, after everything else that can run has run."""
    told_in_sentences(InkwellError, StageError, PipelineError)
    folder = Path(workspace).resolve()
    stages = read_stages(folder, list(targets), list(downstream))
    identity = str(flow_run.id).replace("-", "")
    run = _runs[identity] = _Run(
        placed(folder, placement), {stage.name: stage for stage in stages}, Links(folder, identity)
    )
    futures: dict[str, Any] = {}
    try:
        run.placement.begin(stages)
        run.settled = frozenset() if force else run.placement.settled(stages)
        for stage in stages:
            stage_task = run_stage.with_options(
                name=stage.name, task_run_name=stage.name, retries=stage.retries, retry_delay_seconds=RETRY_SECONDS
            )
            futures[stage.name] = stage_task.submit(
                str(folder),
                stage.name,
                identity,
                force,
                stage.timeout_minutes,
                wait_for=[futures[name] for name in stage.upstream if name in futures],
            )
        for future in futures.values():
            future.wait()
    except BaseException:  # Ctrl-C and SIGTERM among them: nothing may go on behind a flow that has ended
        run.running.end_all()
        raise
    finally:
        _runs.pop(identity, None)
    outcomes = _outcomes(stages, {name: future.state for name, future in futures.items()})
    states = {outcome.stage: outcome.state for outcome in outcomes}
    stand = [stage for stage in stages if states[stage.name] not in ("failed", "skipped")]
    unfinished = ""
    try:
        run.placement.finish(stand)
    except InkwellError as error:
        unfinished = str(error)
    failed = len(stand) < len(stages) or bool(unfinished)
    unchanged = {stage.name: stage.outputs for stage in stand if states[stage.name] != "ran"}
    record_pipeline(folder, identity, [name for name, state in states.items() if state == "ran"], unchanged, not failed)
    _publish(folder, identity, outcomes)
    described = [vars(outcome) for outcome in outcomes]
    if failed:
        raise PipelineError(described, unfinished)
    return described


class PipelineError(RuntimeError):
    """Stages failed; `outcomes` tells of all. `unfinished`: why what was made elsewhere did not come here, or ""."""

    def __init__(self, outcomes: list[dict[str, Any]], unfinished: str = "") -> None:
        self.outcomes, self.unfinished = outcomes, unfinished
        failed = [outcome["stage"] for outcome in outcomes if outcome["state"] == "failed"]
        super().__init__(unfinished or f"failed: {', '.join(failed)}")


def run_pipeline(
    workspace: Path,
    targets: Sequence[str] = (),
    force: bool = False,
    workers: int = 4,
    downstream: Sequence[str] = (),
    placement: Mapping[str, Any] | None = None,
) -> list[Outcome]:
    """Run the flow here and return every stage's outcome, also when some failed.

    Without a server of the user's one is started for the run. InkwellError when the pipeline could not begin, or what was made elsewhere
    could not come here.
    """
    with_runner = pipeline.with_options(task_runner=ThreadPoolTaskRunner(max_workers=workers))
    try:
        with server():
            described = with_runner(str(workspace), list(targets), force, list(downstream), placement)
    except PipelineError as error:
        if error.unfinished:
            raise InkwellError(error.unfinished) from error
        described = error.outcomes
    return [Outcome(**values) for values in described]


def _outcomes(stages: Sequence[Stage], states: Mapping[str, Any]) -> list[Outcome]:
    """What became of each stage; one that was skipped names the failed ones that it would have needed."""
    found: dict[str, Outcome] = {}
    causes: dict[str, list[str]] = {}
    for stage in stages:
        state = states[stage.name]
        if state.is_completed():
            found[stage.name] = state.result(raise_on_failure=False)
        elif state.name == "NotReady":
            reasons = [cause for name in stage.upstream for cause in causes.get(name, ())]
            causes[stage.name] = list(dict.fromkeys(reasons))
            verb = "has" if len(causes[stage.name]) == 1 else "have"
            note = f"{', '.join(causes[stage.name]) or 'what it needs'} {verb} failed"
            found[stage.name] = Outcome(stage.name, "skipped", note=note)
        else:
            causes[stage.name] = [stage.name]
            error = state.result(raise_on_failure=False) if state.is_failed() else None
            told = str(error) if isinstance(error, StageError) else state.message or ""
            found[stage.name] = Outcome(stage.name, "failed", note=" ".join(told.split()))
    return list(found.values())


def _publish(workspace: Path, pipeline: str, outcomes: Sequence[Outcome]) -> None:
    """The summary, the report card, and where to look next, as artifacts of the run."""
    rows = [{"stage": o.stage, "outcome": o.state, "seconds": round(o.seconds, 1), "note": o.note} for o in outcomes]
    create_table_artifact(key="stages", table=rows, description="What became of each stage")
    lines = ["# Report card", "", "| figure | value |", "|---|---|"]
    for stage, names in _KEY_FIGURES.items():
        metrics = _metrics(workspace / "metrics" / f"{stage}.json")
        lines += [f"| {stage}.{name} | {metrics[name]:,.6g} |" for name in names if name in metrics]
    report = workspace / "reports" / "index.html"
    found = where_to_look(workspace, pipeline)
    lines += [
        "",
        f"The whole card: `{report}`" if report.exists() else "No report card yet: the report stage has not run.",
        *(f"\n[{title}]({address})" for title, address in found.pages.items()),
        *(["", found.lacking] if found.lacking else []),
    ]
    create_markdown_artifact(key="report-card", markdown="\n".join(lines), description="Key figures of the pipeline")
    if REPORT in found.pages:
        create_link_artifact(key="report-card-page", link=found.pages[REPORT], description="The report card, in MLflow")


def _metrics(path: Path) -> Mapping[str, float]:
    try:
        found: Mapping[str, float] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found
