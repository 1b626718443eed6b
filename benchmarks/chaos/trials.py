"""One disturbed run: a fresh workspace, a fault, restarts until it is finished, and the comparison with the undisturbed one."""

from __future__ import annotations

import contextlib
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.chaos import faults
from benchmarks.chaos.services import Service, object_store, postgres, prefect_server
from benchmarks.chaos.soundness import MARK, end_all_in, faults_of, hashes, orphans
from components.errors import InkwellError
from components.launch.processes import free_port
from flows.processes import environment
from flows.workspace import make_workspace

RESTARTS = 3
_PATIENCE = 3600.0  # seconds that one attempt may take: a pipeline that hangs counts as lost
TINY = ("corpus=tang", "size=smoke", "ingest.limit=600", "tokenizer.vocabulary=2048", "pretrain.steps=12",
        "pretrain.validation_every=6", "pretrain.sample_every=12", "tracking.enabled=false")  # fmt: skip
SMOKE = ("corpus=tang", "size=smoke", "tracking.enabled=false")
TINY_TARGETS = ("pretrain",)


@dataclass(frozen=True)
class Trial:
    """Which run, what breaks, and on which graph; all of it follows from (seed, number)."""

    number: int
    fault: str
    smoke: bool
    seed: str

    @property
    def name(self) -> str:
        """Its name among the finished parts."""
        return f"run-{self.number:03}"


def trials(count: int, seed: int, kinds: Sequence[str], smoke_every: int) -> list[Trial]:
    """`count` of them: the faults in turns, so that each is met equally often, every `smoke_every`-th in smoke size (0: none)."""
    return [
        Trial(
            number,
            kinds[number % len(kinds)],
            bool(smoke_every) and number % smoke_every == smoke_every - 1,
            f"{seed}:{number}",
        )
        for number in range(count)
    ]


class Grounds:
    """The folder of the trials: templates, reference hashes and the Prefect server that they share."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()
        self._stack = ExitStack()
        self._server: tuple[Service, str] | None = None

    def __enter__(self) -> Grounds:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def server(self) -> tuple[Service, str]:
        """The Prefect server, started where it is not alive."""
        if self._server is None:
            self._server = prefect_server(self.folder / "server")
            self._stack.callback(self._server[0].stop)
        service, _ = self._server
        if service.process is None or service.process.poll() is not None:
            service.start()
        return self._server

    def template(self, smoke: bool) -> Path:
        """A workspace in which nothing has run."""
        return _refreshed(self.folder / ("template-smoke" if smoke else "template-tiny"), smoke)

    def undisturbed(self, smoke: bool) -> dict[str, str]:
        """Hashes of a run of the same template in which nothing breaks; made by `dvc repro`, without the flow."""
        # With the code of now: what an earlier state of it left runs again where it has to.
        folder = _refreshed(self.folder / ("reference-smoke" if smoke else "reference-tiny"), smoke)
        targets = [] if smoke else list(TINY_TARGETS)
        done = subprocess.run(
            [sys.executable, "-m", "dvc", "repro", *targets],
            cwd=folder,
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        if done.returncode:
            raise InkwellError(f"the undisturbed run in {folder} failed: {' '.join(done.stdout.split())[-400:]}")
        return hashes(folder)


def _refreshed(folder: Path, smoke: bool) -> Path:
    if folder.exists() and not (folder / ".dvc" / "config").exists():  # killed while it was made
        shutil.rmtree(folder)
    make_workspace(folder, SMOKE if smoke else TINY)
    return folder


def _copy(template: Path, folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(template, folder, ignore=shutil.ignore_patterns("__pycache__", "cache", "tmp"))
    return folder


class Pipeline:
    """`python -m flows.pipeline` in a workspace, its output kept in a file beside it."""

    def __init__(
        self,
        workspace: Path,
        targets: Sequence[str],
        env: Mapping[str, str],
        options: Sequence[str] = (),
        limit_blocks: int | None = None,
    ) -> None:
        self.log = workspace.with_suffix(".log")
        chosen = ["--targets", *targets] if targets else []
        command = [sys.executable, "-m", "flows.pipeline", *chosen, *options]
        if limit_blocks is not None:  # of 1 KiB: no file may grow beyond them, as on a disk that is full
            command = ["bash", "-c", f'ulimit -f {limit_blocks} && exec "$@"', "bash", *command]
        self._from = self.log.stat().st_size if self.log.exists() else 0
        with self.log.open("ab") as written:
            # By way of `cat`, which no limit of file sizes holds for.
            self._writer = subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=written, start_new_session=True)
        assert self._writer.stdin is not None
        self.process = subprocess.Popen(
            command,
            cwd=workspace,
            env={**env, MARK: "1"},
            stdin=subprocess.DEVNULL,
            stdout=self._writer.stdin,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self._writer.stdin.close()
        self.pid = self.process.pid

    def alive(self) -> bool:
        """Whether it still runs."""
        return self.process.poll() is None

    def wait(self) -> int:
        """Its exit status; InkwellError when it hangs."""
        try:
            return self.process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise InkwellError(f"the pipeline did not end in {_PATIENCE / 60:.0f} minutes ({self.log})") from None

    def said(self) -> str:
        """Everything that it wrote, as far as what it started lets go of its output within some seconds."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._writer.wait(20)
        with self.log.open("rb") as written:
            written.seek(self._from)
            return written.read().decode(errors="replace")


def run_trial(grounds: Grounds, trial: Trial, expected: Mapping[str, str]) -> dict[str, Any]:
    """Run it and tell what happened: `lost` names what was wrong at the end, empty when nothing was.

    The workspace of a lost trial is kept for a look; that of a good one is removed.
    """
    rng = random.Random(trial.seed)
    began = time.monotonic()
    end_all_in(grounds.folder / trial.name)  # of a benchmark that was killed
    workspace = _copy(grounds.template(trial.smoke), grounds.folder / trial.name)
    targets = [] if trial.smoke else list(TINY_TARGETS)
    story: list[str] = []
    lost: list[str] = []
    try:
        with _disturbance(grounds, trial, workspace, targets, rng, story) as (env, options):
            for attempt in range(RESTARTS + 1):
                again = Pipeline(workspace, targets, env, options)
                status = again.wait()
                if status == 0:
                    break
                story.append(f"attempt {attempt + 1} after the fault ended with {status}: {_last_words(again.said())}")
                lost += [f"after status {status} still at work: {command[:200]}" for command in orphans(workspace)]
            else:
                lost.append(f"not finished after {RESTARTS + 1} attempts: {story[-1]}")
        lost += faults_of(workspace, expected, targets)
    except InkwellError as error:
        lost.append(str(error))
    if not lost:
        shutil.rmtree(workspace)
        workspace.with_suffix(".log").unlink(missing_ok=True)
    return {
        "fault": trial.fault,
        "size": "smoke" if trial.smoke else "tiny",
        "story": story,
        "seconds": round(time.monotonic() - began, 1),
        "lost": lost,
    }


def _last_words(said: str) -> str:
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    return lines[-1][:300] if lines else "without a word"


@contextmanager
def _disturbance(
    grounds: Grounds, trial: Trial, workspace: Path, targets: list[str], rng: random.Random, story: list[str]
) -> Iterator[tuple[dict[str, str], list[str]]]:
    """Break what the trial breaks in a first run, and give environment and options for the runs after it."""
    from flows.orchestration.graph import read_stages

    service, address = grounds.server()
    env = {**environment(), "PREFECT_API_URL": address}
    stages = [stage.name for stage in read_stages(workspace, targets)]
    stage, delay = faults.pick(rng, stages)
    options: list[str] = []
    limit: int | None = None
    with ExitStack() as stack:
        if trial.fault == "database":
            database, url = postgres(grounds.folder / f"{trial.name}-database")
            stack.callback(shutil.rmtree, database.folder, ignore_errors=True)
            stack.callback(database.stop)
            database.start()
            service, address = prefect_server(grounds.folder / f"{trial.name}-server", url)
            stack.callback(shutil.rmtree, service.folder, ignore_errors=True)
            stack.callback(service.stop)
            service.start()
            env["PREFECT_API_URL"] = address
        elif trial.fault == "s3":
            store, endpoint = object_store(grounds.folder / f"{trial.name}-store")
            stack.callback(shutil.rmtree, store.folder, ignore_errors=True)
            stack.callback(store.stop)
            _open_store(store, endpoint)
            env |= _credentials(endpoint)
            _into_git(workspace)
            options = ["--placement", "isolated", "--remote", "s3://store/cache"]
        elif trial.fault == "mlflow":
            # An address at which nobody listens, for all attempts: a tracking server that is away may delay and never stop.
            parameters = workspace / "params.yaml"
            text = parameters.read_text(encoding="utf-8")
            section = text.index("\ntracking:")
            tracked = text[section:].replace("enabled: false", "enabled: true", 1)
            tracked = tracked.replace("uri: null", f"uri: http://127.0.0.1:{free_port()}", 1)
            parameters.write_text(text[:section] + tracked, encoding="utf-8")
            story.append("no tracking server")
        elif trial.fault == "disk":
            limit = rng.choice((1, 8, 64, 256, 1024))
            story.append(f"no file beyond {limit} KiB")
        first = Pipeline(workspace, targets, env, options, limit)
        if trial.fault == "stage":
            story.append(faults.kill_stage(workspace, stage, delay, first.alive))
        elif trial.fault == "worker":
            story.append(faults.kill_process(workspace, stage, delay, first.alive, first.pid, "the flow"))
        elif trial.fault == "server":
            story.append(faults.kill_service(workspace, stage, delay, first.alive, service))
        elif trial.fault == "database":
            story.append(faults.kill_service(workspace, stage, delay, first.alive, database))
        elif trial.fault == "s3":
            story.append(faults.kill_service(workspace, stage, delay, first.alive, store))
        elif trial.fault == "two":
            time.sleep(rng.uniform(0, 5))
            second = Pipeline(workspace, targets, env, options)
            story.append(f"a second pipeline ended with {second.wait()}")
        status = first.wait()
        story.append(f"the disturbed run ended with {status}: {_last_words(first.said())}")
        left = orphans(workspace)
        if left:
            raise InkwellError(f"after the disturbed run (status {status}) still at work: {left[0][:200]}")
        if trial.fault == "cache" and not status:
            story.append(faults.corrupt_cache(workspace, rng))
            victim = rng.choice(sorted(hashes(workspace)))
            shutil.rmtree(workspace / victim)
            story.append(f"{victim} deleted")
        if trial.fault == "server":
            grounds.server()
        elif trial.fault == "database":
            database.start()
            if service.process is None or service.process.poll() is not None:
                service.start()
        elif trial.fault == "s3":
            _open_store(store, endpoint)
        yield env, options


def _open_store(store: Service, endpoint: str) -> None:
    import boto3

    store.start()
    boto3.client(
        "s3", endpoint_url=endpoint, region_name="us-east-1", aws_access_key_id="a", aws_secret_access_key="b"
    ).create_bucket(Bucket="store")


def _credentials(endpoint: str) -> dict[str, str]:
    return {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": "a",
        "AWS_SECRET_ACCESS_KEY": "b",
        "AWS_DEFAULT_REGION": "us-east-1",
    }


def _into_git(workspace: Path) -> None:
    """Isolated stages run at a commit: the workspace becomes a repository of one."""
    from configobj import ConfigObj

    from flows.placement.snapshot import git

    config = ConfigObj(str(workspace / ".dvc" / "config"), encoding="utf-8")
    config["core"].pop("no_scm", None)
    config.write()
    (workspace / ".gitignore").write_text("/data/\n/models/\n/reports/\n/.inkwell/\n__pycache__/\n", encoding="utf-8")
    (workspace / ".dvc" / ".gitignore").write_text("/config.local\n/tmp\n/cache\n", encoding="utf-8")
    git(workspace, "init", "-q")
    git(workspace, "add", "-A")
    git(workspace, "-c", "user.name=chaos", "-c", "user.email=chaos@localhost", "commit", "-qm", "A pipeline")
