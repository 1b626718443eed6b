"""Deployments on a real Prefect server: made once, the same again, and a schedule that fires."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from flows.deploy import POOL, deploy, main
from flows.processes import environment

ROOT = Path(__file__).parents[2]
PARAMETERS = '{"ingest": {"sources": [{"name": "a", "kind": "path", "location": "a"}]}}'


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server with all its services, the scheduler among them; its API's address."""
    home = tmp_path_factory.mktemp("prefect")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    env = {**environment(), "PREFECT_HOME": str(home), "PREFECT_SERVER_SERVICES_SCHEDULER_LOOP_SECONDS": "2"}
    env.pop("PREFECT_API_URL", None)
    address = f"http://127.0.0.1:{port}/api"
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    log = (home / "server.log").open("wb")
    process = subprocess.Popen(command, env=env, stdout=log, stderr=log, start_new_session=True)
    try:
        import httpx

        deadline = time.monotonic() + 300
        while True:
            try:
                if httpx.get(f"{address}/health", timeout=5).status_code == 200:
                    break
            except httpx.HTTPError:
                pass
            assert process.poll() is None, (home / "server.log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.5)
        yield address
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(60)
        log.close()


@pytest.fixture
def deployed(server: str, tmp_path: Path) -> Iterator[tuple[Path, list[str], str]]:
    """(workspace, what deploy said, the server's address)."""
    from prefect.settings import PREFECT_API_URL, temporary_settings

    (tmp_path / "params.yaml").write_text(PARAMETERS)
    (tmp_path / "dvc.yaml").write_text("stages: {a: {cmd: 'true', meta: {concurrency: memory}}}\n")
    before = os.environ.get("PREFECT_API_URL")
    os.environ["PREFECT_API_URL"] = server  # for the commands that deploy starts
    try:
        with temporary_settings({PREFECT_API_URL: server}):
            yield tmp_path, deploy(tmp_path), server
    finally:
        if before is None:
            os.environ.pop("PREFECT_API_URL")
        else:
            os.environ["PREFECT_API_URL"] = before


@pytest.mark.timeout(1200)
def test_everything_is_made_once_and_a_schedule_fires(deployed: tuple[Path, list[str], str], tmp_path: Path) -> None:
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.schedules import IntervalSchedule

    workspace, said, address = deployed
    assert any(line.startswith("limits: inkwell-training, memory") for line in said)
    with get_client(sync_client=True) as client:
        names = {deployment.name: deployment for deployment in client.read_deployments()}
        assert set(names) == {"pipeline", "retrain", "promote", "notify"}
        assert [schedule.active for schedule in names["retrain"].schedules] == [False]
        assert names["retrain"].global_concurrency_limit.limit == 1  # type: ignore[union-attr]
        assert client.read_work_pool(POOL).type == "process"
        automations = {one.name: one.id for one in client.read_automations()}
        assert set(automations) == {"inkwell-silent", "inkwell-failing", "inkwell-late"}

        again = deploy(workspace)
        assert sum("as it should be" in line for line in again) == 3
        assert {one.name: one.id for one in client.read_automations()} == automations
        assert {one.name: one.id for one in client.read_deployments()} == {one.name: one.id for one in names.values()}

        client.create_deployment_schedules(
            names["notify"].id, [(IntervalSchedule(interval=timedelta(seconds=20)), True)]
        )
        env: dict[str, str] = {**environment(), "PREFECT_API_URL": address, "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-m", "prefect", "worker", "start", "--pool", POOL, "--name", "test"]
        worker = subprocess.Popen(
            command, cwd=tmp_path, env=env, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            assert _scheduled_run(client, names["notify"].id) is not None
        finally:
            os.killpg(worker.pid, signal.SIGTERM)
            worker.wait(60)


def _scheduled_run(client: Any, deployment: Any) -> Any:
    """A run that the scheduler made and a worker began."""
    deadline = time.monotonic() + 600
    while time.monotonic() < deadline:
        for run in client.read_flow_runs():
            if run.deployment_id == deployment and run.auto_scheduled and run.start_time:
                return run
        time.sleep(1)
    return None


def test_without_a_server_there_is_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from prefect.settings import PREFECT_API_URL, temporary_settings

    (tmp_path / "params.yaml").write_text(PARAMETERS)
    with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"}):
        assert main(["--workspace", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert "no Prefect server answers at http://127.0.0.1:9/api" in said
    assert said.count("\n") == 1
