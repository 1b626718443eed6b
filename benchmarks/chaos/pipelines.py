"""Pipelines as a user starts them: by hand, and as a run of a deployment that a worker takes."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Protocol

from benchmarks.chaos.services import Service
from benchmarks.chaos.soundness import MARK, at_work
from components.errors import InkwellError
from flows.processes import kept

_PATIENCE = 1800.0  # seconds that one attempt may take: a pipeline that hangs counts as lost
_REPORTED = 15.0  # seconds in which a run whose process has ended is known to the server to have ended
_POOL = "inkwell-chaos"


class Attempt(Protocol):
    """One attempt to run the pipeline."""

    def alive(self) -> bool:
        """Whether it has not ended yet."""

    def wait(self) -> int:
        """0 when it has ended well, once it has ended; InkwellError when it hangs."""

    def said(self) -> str:
        """What is known of it, the last words last."""


class Pipeline:
    """`python -m flows.pipeline` in a workspace, its output kept in a file beside it. It ends with this process, however that ends."""

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
        if limit_blocks is not None:  # of 1 KiB: no file may grow beyond them
            command = ["bash", "-c", f'ulimit -f {limit_blocks} && exec "$@"', "bash", *command]
        self._from = self.log.stat().st_size if self.log.exists() else 0
        with self.log.open("ab") as written:
            # By way of `cat`, which no limit of file sizes holds for.
            self._writer = subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=written, start_new_session=True)
        assert self._writer.stdin is not None
        self.process = subprocess.Popen(
            kept(command),
            cwd=workspace,
            env={**env, MARK: "1"},
            stdin=subprocess.PIPE,  # its end tells the keeper that this process has died
            stdout=self._writer.stdin,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self._writer.stdin.close()

    def alive(self) -> bool:
        """Whether it still runs."""
        return self.process.poll() is None

    def wait(self) -> int:
        """Its exit status; InkwellError when it hangs."""
        try:
            return self.process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            raise InkwellError(f"the pipeline did not end in {_PATIENCE / 60:.0f} minutes ({self.log})") from None
        finally:
            if self.process.stdin:  # one that hangs is ended by its keeper
                self.process.stdin.close()

    def said(self) -> str:
        """Everything that it wrote, as far as what it started lets go of its output within some seconds."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._writer.wait(20)
        with self.log.open("rb") as written:
            written.seek(self._from)
            return written.read().decode(errors="replace")


class Deployed:
    """A workspace as a deployment on the Prefect server at `address`, and the process worker that takes its runs."""

    def __init__(self, workspace: Path, place: Path, address: str, env: Mapping[str, str], stack: ExitStack) -> None:
        """`place`: a folder for the worker, its log and what its runs write into the temporary folder."""
        from prefect.client.orchestration import SyncPrefectClient

        self.workspace = workspace
        # The code of a run is its workspace's, and so is its home.
        self._env = {name: value for name, value in env.items() if name not in ("PYTHONPATH", "INKWELL_HOME")}
        self._env |= {"PREFECT_API_URL": address, MARK: "1"}
        command = [sys.executable, "-m", "prefect", "worker", "start", "--pool", _POOL, "--name", "chaos"]
        worker_env = {**self._env, "PREFECT_WORKER_QUERY_SECONDS": "2", "TMPDIR": str(place)}
        self.worker = Service("worker", place, command, worker_env, lambda: True)
        self._client: Any = stack.enter_context(SyncPrefectClient(address))

    def make(self) -> None:
        """`python -m flows.deploy` in the workspace; InkwellError when it does not end well."""
        done = subprocess.run(
            [sys.executable, "-m", "flows.deploy", "--pool", _POOL],
            cwd=self.workspace,
            env=self._env,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise InkwellError(f"flows.deploy: {' '.join((done.stdout + done.stderr).split())[-300:]}")

    def begin(self, targets: Sequence[str]) -> DeployedRun:
        """A new run of the deployment, which waits for a worker."""
        deployment = self._client.read_deployment_by_name("inkwell-pipeline/pipeline")
        run = self._client.create_flow_run_from_deployment(deployment.id, parameters={"targets": list(targets)})
        return DeployedRun(self._client, run.id, self.workspace)


class DeployedRun:
    """One run of the deployment."""

    def __init__(self, client: Any, run: Any, workspace: Path) -> None:
        self._client, self._run, self._workspace = client, run, workspace
        self._asked = 0.0
        self._state: Any = None

    def _now(self) -> Any:
        """The run's state, asked for once a second at most."""
        if self._state is None or time.monotonic() - self._asked > 1:
            self._asked = time.monotonic()
            try:
                self._state = self._client.read_flow_run(self._run).state
            except Exception as error:  # a server that is busy may refuse once
                if self._state is None:
                    raise InkwellError(f"the deployment's run cannot be asked for: {error}") from error
        return self._state

    def alive(self) -> bool:
        """Whether the server knows of no end."""
        return not self._now().is_final()

    def kill(self) -> bool:
        """SIGKILL to the process of the run, as with the machine of its worker; whether there was one."""
        found = self._processes()
        for process in found:
            with contextlib.suppress(Exception):  # it has just ended
                process.kill()
        return bool(found)

    def _processes(self) -> list[Any]:
        found = []
        for process in at_work(self._workspace):
            with contextlib.suppress(Exception):
                if "prefect.engine" in process.cmdline():
                    found.append(process)
        return found

    def wait(self) -> int:
        """0 when it is completed, else 1. A run that was begun and has no process any more is marked as crashed.

        The automation `inkwell-silent` does so after two minutes without a heartbeat; here nobody waits for it.
        """
        from prefect.states import Crashed

        deadline = time.monotonic() + _PATIENCE
        gone: float | None = None
        while self.alive():
            if time.monotonic() > deadline:
                raise InkwellError(f"the deployment's run did not end in {_PATIENCE / 60:.0f} minutes")
            if self._now().is_running() and not self._processes():
                gone = gone or time.monotonic()
                if time.monotonic() - gone > _REPORTED:
                    self._client.set_flow_run_state(self._run, Crashed(message="no process"), force=True)
                    self._state = None
            else:
                gone = None
            time.sleep(1)
        return 0 if self._now().is_completed() else 1

    def said(self) -> str:
        """Its last state."""
        state = self._now()
        return json.dumps({"state": state.name, "message": state.message})
