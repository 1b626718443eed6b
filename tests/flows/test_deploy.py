"""Deployments on a real Prefect server: made once, the same again, a schedule that fires, and a server that tells by itself."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from components.configuration import parse
from components.errors import InkwellError
from flows.automations import keep_addresses
from flows.deploy import CONTAINER_HOME, POOL, ROOT, blocks_of, concurrency_keys, deploy, main, pool_types, type_of
from flows.processes import environment
from tests.processes import alive_in

SECRET = "planted-19c04e7b"
PARAMETERS: dict[str, Any] = {"ingest": {"sources": [{"name": "a", "kind": "path", "location": "a"}]}}
STAGES = {
    "a": {
        "cmd": "python -c \"open('a.txt', 'w').write('made on schedule')\"",
        "outs": ["a.txt"],
        "meta": {"concurrency": "memory"},
    }
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """(API's address, home) of a server with all its services, the scheduler and the one for late runs in a hurry."""
    home = tmp_path_factory.mktemp("prefect")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    env = {
        **environment(),
        "PREFECT_HOME": str(home),
        "PREFECT_SERVER_SERVICES_SCHEDULER_LOOP_SECONDS": "2",
        "PREFECT_SERVER_SERVICES_LATE_RUNS_LOOP_SECONDS": "2",
        "PREFECT_SERVER_SERVICES_LATE_RUNS_AFTER_SECONDS": "3",
    }
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
        yield address, home
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(60)
        log.close()


@pytest.fixture
def at_server(server: tuple[str, Path], monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The server is the one that this process and the commands of `deploy` speak with; its address."""
    from prefect.settings import PREFECT_API_URL, temporary_settings

    address, _ = server
    monkeypatch.setenv("PREFECT_API_URL", address)
    monkeypatch.delenv("INKWELL_HOME", raising=False)
    with temporary_settings({PREFECT_API_URL: address}):
        yield address


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A workspace with the code, and a pipeline of one stage."""
    folder = tmp_path / "small"
    for name in ("components", "flows"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "params.yaml").write_text(yaml.safe_dump(PARAMETERS))
    (folder / "dvc.yaml").write_text(yaml.safe_dump({"stages": STAGES}))
    subprocess.run([sys.executable, "-m", "dvc", "init", "--no-scm", "-q"], cwd=folder, env=environment(), check=True)
    return folder


def _until(found: Callable[[], Any], seconds: float) -> Any:
    """What `found` gives once it gives something; None when it does not in time."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if value := found():
            return value
        time.sleep(1)
    return None


@pytest.mark.timeout(900)
def test_a_run_that_is_cancelled_leaves_no_process_behind(at_server: str, small: Path) -> None:
    """First of all tests here: runs that others leave behind would take the deployment's one place."""
    from prefect.client.orchestration import get_client
    from prefect.states import Scheduled

    sleeping = "python -c \"import time; open('began.txt', 'w'); time.sleep(600); open('a.txt', 'w')\""
    (small / "dvc.yaml").write_text(yaml.safe_dump({"stages": {"a": {"cmd": sleeping, "outs": ["a.txt"]}}}))
    deploy(small)
    env: dict[str, str] = {**environment(), "PREFECT_API_URL": at_server}
    env.pop("PYTHONPATH", None)  # the code of a run is its workspace's
    prefect = [sys.executable, "-m", "prefect"]
    with get_client(sync_client=True) as client, (small / "worker.log").open("wb") as log:
        pipeline = client.read_deployment_by_name("inkwell-pipeline/pipeline").id
        run = client.create_flow_run_from_deployment(pipeline, state=Scheduled())
        worker = subprocess.Popen(
            [*prefect, "worker", "start", "--pool", POOL, "--name", "cancelled"],
            cwd=small.parent,
            env=env,
            start_new_session=True,
            stdout=log,
            stderr=log,
        )
        try:
            assert _until((small / "began.txt").exists, 400), (small / "worker.log").read_text()
            assert alive_in(small)
            subprocess.run([*prefect, "flow-run", "cancel", str(run.id)], env=env, check=True, capture_output=True)

            def cancelled() -> bool:
                state = client.read_flow_run(run.id).state
                return state is not None and state.is_cancelled()

            assert _until(cancelled, 120), (small / "worker.log").read_text()
            assert _until(lambda: not alive_in(small), 30), alive_in(small)
        finally:
            os.killpg(worker.pid, signal.SIGTERM)
            worker.wait(60)
    assert not (small / "a.txt").exists()


@pytest.mark.timeout(1200)
def test_everything_is_made_once_and_a_schedule_fires(at_server: str, small: Path) -> None:
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.schedules import IntervalSchedule

    said = deploy(small)
    assert any(line.startswith("limits: memory") for line in said)
    assert said[-1].endswith("nothing (notifications in params.yaml)")
    with get_client(sync_client=True) as client:
        assert client.read_global_concurrency_limit_by_name("memory").limit == 1
        names = {deployment.name: deployment for deployment in client.read_deployments()}
        assert set(names) == {"pipeline", "retrain", "promote"}
        assert [schedule.active for schedule in names["retrain"].schedules] == [False]
        assert names["retrain"].global_concurrency_limit.limit == 1  # type: ignore[union-attr]
        assert client.read_work_pool(POOL).type == "process"
        automations = {one.name: one.id for one in client.read_automations()}
        assert set(automations) == {"inkwell-silent", "inkwell-failing", "inkwell-late"}

        again = deploy(small)
        assert sum("as it should be" in line for line in again) == 3
        assert {one.name: one.id for one in client.read_automations()} == automations
        assert {one.name: one.id for one in client.read_deployments()} == {one.name: one.id for one in names.values()}

        pipeline = names["pipeline"].id
        [schedule] = client.create_deployment_schedules(
            pipeline, [(IntervalSchedule(interval=timedelta(seconds=20)), True)]
        )
        env: dict[str, str] = {**environment(), "PREFECT_API_URL": at_server}
        env.pop("PYTHONPATH", None)  # the code of a run is its workspace's
        command = [sys.executable, "-m", "prefect", "worker", "start", "--pool", POOL, "--name", "test"]
        with (small / "worker.log").open("wb") as log:
            worker = subprocess.Popen(
                command, cwd=small.parent, env=env, start_new_session=True, stdout=log, stderr=log
            )
            try:

                def ended() -> Any:
                    runs = [run for run in client.read_flow_runs() if run.deployment_id == pipeline]
                    return next(
                        (run for run in runs if run.auto_scheduled and run.state and run.state.is_final()), None
                    )

                run = _until(ended, 600)
            finally:
                client.delete_deployment_schedule(pipeline, schedule.id)
                os.killpg(worker.pid, signal.SIGTERM)
                worker.wait(60)
        assert run is not None, (small / "worker.log").read_text()
        assert run.state.is_completed(), (small / "worker.log").read_text()
    assert (small / "a.txt").read_text() == "made on schedule"


@pytest.mark.timeout(600)
def test_a_run_whose_process_is_killed_is_marked_as_crashed(
    at_server: str, small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that ended by itself has no heartbeat either, and stays what it is."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterName

    monkeypatch.setattr("flows.automations._SILENCE", timedelta(seconds=10))  # the least that Prefect takes
    deploy(small)
    script = tmp_path / "flow.py"
    script.write_text(
        "import sys, time\n"
        "from prefect import flow\n"
        "@flow(name='inkwell-pipeline', flow_run_name=sys.argv[1])\n"
        "def waits():\n"
        "    time.sleep(float(sys.argv[2]))\n"
        "waits()\n"
    )
    env = {**environment(), "PREFECT_API_URL": at_server, "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30"}
    with get_client(sync_client=True) as client:

        def state(name: str) -> str | None:
            runs = client.read_flow_runs(flow_run_filter=FlowRunFilter(name=FlowRunFilterName(any_=[name])))
            return runs[0].state.name if runs and runs[0].state else None

        subprocess.run([sys.executable, script, "ends", "2"], env=env, check=True)
        killed = subprocess.Popen([sys.executable, script, "killed", "600"], env=env)
        try:
            assert _until(lambda: state("killed") == "Running", 120)
            time.sleep(3)  # its first heartbeat comes with its start
        finally:
            killed.kill()
            killed.wait()
        assert _until(lambda: state("killed") == "Crashed", 120), state("killed")
        assert state("ends") == "Completed"


@pytest.mark.timeout(600)
def test_the_server_tells_of_late_and_failed_runs_without_a_worker_and_keeps_secrets(
    server: tuple[str, Path],
    at_server: str,
    small: Path,
    mailbox: tuple[int, list[str]],
    posts: tuple[str, list[tuple[str, Any]]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from prefect.client.orchestration import get_client
    from prefect.states import Crashed, Failed, Scheduled

    port, mails = mailbox
    address, received = posts
    monkeypatch.setenv("TEST_SLACK", f"{address}/services/{SECRET}")
    monkeypatch.setenv("TEST_HOOK", f"{address}/hook?token={SECRET}")
    monkeypatch.setenv("TEST_SMTP", f"smtp://robot:{SECRET}@127.0.0.1:{port}")
    notifications = {"slack": "env:TEST_SLACK", "webhook": "env:TEST_HOOK", "smtp": "env:TEST_SMTP"}
    people = {"mail_to": ["ada@example.org", "eve@example.org"]}
    (small / "params.yaml").write_text(yaml.safe_dump({**PARAMETERS, "notifications": {**notifications, **people}}))
    said = deploy(small)
    assert said[-1].endswith("slack, webhook, smtp")

    with get_client(sync_client=True) as client:
        pipeline = client.read_deployment_by_name("inkwell-pipeline/pipeline").id
        run = client.create_flow_run_from_deployment(pipeline, state=Scheduled())

        def told(what: str) -> list[tuple[str, Any]]:
            return [one for one in received if run.name in json.dumps(one[1]) and what in json.dumps(one[1])]

        assert _until(lambda: len(told("is a worker there?")) >= 2, 120), received
        assert dict(told("is a worker there?")) == {
            f"/services/{SECRET}": {
                "text": f"*Inkwell: a run failed*\ninkwell-pipeline, run {run.name}: it has not begun in time; is a worker there?"
            },
            f"/hook?token={SECRET}": {
                "event": "failed",
                "subject": "Inkwell: a run failed",
                "text": f"inkwell-pipeline, run {run.name}: it has not begun in time; is a worker there?",
            },
        }
        # Quotes, line ends and braces of what a stage said do not break what is posted.
        client.set_flow_run_state(run.id, Failed(message='it said "no"\n{{ and }} ended </p>'), force=True)
        assert _until(lambda: len(told("it said")) >= 2, 60), received
        failed = dict(told("it said"))[f"/hook?token={SECRET}"]["text"]
        assert failed == f'inkwell-pipeline, run {run.name}: Failed. it said "no"\n{{{{ and }}}} ended </p>'

        other = client.create_flow_run_from_deployment(pipeline, state=Scheduled())
        client.set_flow_run_state(other.id, Crashed(message="no heartbeat"), force=True)
        assert _until(lambda: any("Crashed. no heartbeat" in json.dumps(body) for _, body in received), 60), received
        assert _until(lambda: sum(line.lower().startswith("rcpt to") for line in mails) >= 4, 60), mails
        assert any(line.startswith("AUTH PLAIN") for line in mails)
        assert SECRET not in json.dumps([one.model_dump(mode="json") for one in client.read_automations()])

        # A variable that this machine does not know leaves the address of the last deploy.
        monkeypatch.delenv("TEST_SLACK")
        blocks, unkept = keep_addresses(
            client, parse({**PARAMETERS, "notifications": notifications | people}).notifications
        )
        assert set(blocks) == {"slack", "webhook", "smtp"}
        assert len(unkept) == 1
        assert "the address of the last deploy stays" in unkept[0]
    _, home = server
    kept = [path for path in home.rglob("*") if path.is_file()]
    assert (home / "server.log") in kept
    assert [path.name for path in kept if SECRET.encode() in path.read_bytes()] == []


@pytest.mark.timeout(600)
@pytest.mark.parametrize("kind", ["docker", "kubernetes"])
def test_a_pool_of_containers_is_made_from_its_template(at_server: str, small: Path, kind: str) -> None:
    from prefect.client.orchestration import get_client

    pool = f"inkwell-{kind}"
    assert f"pool {pool}: made ({kind})" in deploy(small, pool)
    template = json.loads((ROOT / "infra" / "pools" / f"{kind}.json").read_text())
    with get_client(sync_client=True) as client:
        made = client.read_work_pool(pool)
        assert (made.type, made.base_job_template) == (kind, template)
        for name in ("inkwell-pipeline/pipeline", "inkwell-retrain/retrain"):
            deployment = client.read_deployment_by_name(name)
            assert deployment.work_pool_name == pool
            assert str(small) not in json.dumps(deployment.pull_steps)  # a path of this machine is none of the image's
            [step] = deployment.pull_steps or []
            assert step == {"prefect.deployments.steps.set_working_directory": {"directory": CONTAINER_HOME}}
            # what a deployment sets has to be a variable of the template, or Prefect drops it
            assert set(deployment.job_variables or {}) <= set(template["variables"]["properties"])
    with pytest.raises(InkwellError, match=f"of type {kind}"):
        deploy(small, pool, "process")


@pytest.mark.timeout(600)
def test_blocks_that_the_runs_of_a_pool_need_are_filled_from_the_variables_they_stand_for(
    at_server: str, server: tuple[str, Path], small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from prefect.blocks.system import Secret

    wanted = {"AWS_SECRET_ACCESS_KEY": "inkwell-s3-worker", "MLFLOW_TRACKING_PASSWORD": "inkwell-mlflow"}
    template = json.loads((ROOT / "infra" / "pools" / "docker.json").read_text())
    assert blocks_of(template) == wanted
    assert blocks_of(json.loads((ROOT / "infra" / "pools" / "kubernetes.json").read_text())) == {}
    for variable in wanted:
        monkeypatch.delenv(variable, raising=False)
    said = deploy(small, "blocks-docker")
    for variable, block in wanted.items():
        assert any(line.startswith(f"block {block}: is not there") and f"set {variable}" in line for line in said)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", f"{SECRET}-s3")
    said = deploy(small, "blocks-docker")
    assert "block inkwell-s3-worker: holds AWS_SECRET_ACCESS_KEY" in said
    assert Secret.load("inkwell-s3-worker").get() == f"{SECRET}-s3"
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    said = deploy(small, "blocks-docker")
    assert "block inkwell-s3-worker: there already" in said
    assert any(line.startswith("block inkwell-mlflow: is not there") for line in said)
    assert SECRET not in "\n".join(said)
    _, home = server
    assert [path.name for path in home.rglob("*") if path.is_file() and SECRET.encode() in path.read_bytes()] == []


@pytest.mark.timeout(600)
def test_a_second_pool_has_deployments_beside_the_first_ones(at_server: str, small: Path) -> None:
    from prefect.client.orchestration import get_client

    deploy(small)
    deploy(small, "inkwell-gpu", suffix="gpu")
    with get_client(sync_client=True) as client:
        for name, pool in (("pipeline", POOL), ("pipeline-gpu", "inkwell-gpu")):
            deployment = client.read_deployment_by_name(f"inkwell-pipeline/{name}")
            assert deployment.work_pool_name == pool
            # the server tells of both
            [failing] = client.read_automations_by_name("inkwell-failing")
            assert str(deployment.id) in failing.model_dump_json()
        assert client.read_deployment_by_name("inkwell-retrain/retrain-gpu").work_pool_name == "inkwell-gpu"
        assert client.read_work_pool("inkwell-gpu").type == "process"


def test_the_images_have_their_workspace_where_deployments_look_for_it() -> None:
    for name in ("Dockerfile", "Dockerfile.cuda"):
        assert f"INKWELL_WORKSPACE={CONTAINER_HOME}" in (ROOT / "infra" / "docker" / name).read_text()


def test_a_pool_has_the_type_that_its_name_ends_with(tmp_path: Path) -> None:
    types = list(pool_types(tmp_path))
    assert set(types) >= {"process", "docker", "kubernetes"}
    names = ("inkwell", "inkwell-gpu", "docker", "inkwell-kubernetes", "docker-night")
    assert [type_of(name, types) for name in names] == ["process", "process", "docker", "kubernetes", "process"]


def test_the_limits_are_those_that_stages_wait_for() -> None:
    assert concurrency_keys(ROOT) == ["training"]


def test_a_suffix_that_is_no_name_is_refused(small: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--workspace", str(small), "--suffix", "the GPU"]) == 2
    assert "--suffix 'the GPU'" in capsys.readouterr().err


def test_without_a_server_there_is_one_sentence(
    small: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from prefect.settings import PREFECT_API_URL, temporary_settings

    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    with temporary_settings(restore_defaults={PREFECT_API_URL}):
        assert main(["--workspace", str(small)]) == 2
    said = capsys.readouterr().err
    assert "start one (`python -m flows.server`)" in said  # which is guarded
    assert said.count("\n") == 1
    with temporary_settings({PREFECT_API_URL: "http://robot:planted@127.0.0.1:9/api"}):
        assert main(["--workspace", str(small)]) == 2
    said = capsys.readouterr().err
    assert "no Prefect server answers at http://127.0.0.1:9/api" in said
    assert said.count("\n") == 1
