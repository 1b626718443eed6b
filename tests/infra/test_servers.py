"""Prefect and MLflow as Compose starts them, without containers: on PostgreSQL and a store, behind the gate."""

from __future__ import annotations

import base64
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import boto3
import pytest
import yaml
from moto.server import ThreadedMotoServer

from components.launch.processes import free_port
from tests.infra.reading import INFRA, ROOT, dotenv, interpolated, package, tool
from tests.infra.servers import postgres, running, status
from tests.infra.test_gate import moved
from tests.tiny_corpus import poems

# What has to appear nowhere: each secret is a word of its own.
SECRETS = {
    name: ("inkwell:" if name == "PREFECT_AUTH_STRING" else "") + f"planted-{name.lower().replace('_', '-')}"
    for name, value in dotenv((INFRA / ".env.example").read_text(encoding="utf-8")).items()
    if not value and not name.startswith("TORCH_")
}


@dataclass(frozen=True)
class Servers:
    """Addresses behind the gate and before it, and what the servers said."""

    prefect: str
    mlflow: str
    direct_mlflow: str
    store: str
    environment: dict[str, str]
    logs: list[Path]


def basic(user: str, password: str) -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()}


def as_client(servers: Servers) -> dict[str, str]:
    """The environment of a client of Prefect's server, with this interpreter's programs first on the path."""
    return {
        **servers.environment,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{servers.environment['PATH']}",
        "PREFECT_API_URL": f"{servers.prefect}/api",
        "PREFECT_API_AUTH_STRING": SECRETS["PREFECT_AUTH_STRING"],
    }


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    """All of them, started with the commands and environments of compose.yaml."""
    package("psycopg2")
    package("flask_wtf")
    haproxy, folder = tool("haproxy"), tmp_path_factory.mktemp("servers")
    ports = {port: free_port() for port in ("8404", "4200", "5000", "8333")}
    behind = {"prefect": free_port(), "mlflow": free_port(), "s3": free_port()}
    example = dotenv((INFRA / ".env.example").read_text(encoding="utf-8"))
    values = {**example, **SECRETS, "PREFECT_PORT": str(ports["4200"]), "MLFLOW_PORT": str(ports["5000"])}
    services = interpolated(values)["services"]
    with ExitStack() as stack:
        store = ThreadedMotoServer(ip_address="127.0.0.1", port=behind["s3"], verbose=False)
        store.start()
        stack.callback(store.stop)
        address = f"http://127.0.0.1:{behind['s3']}"
        client = boto3.client(
            "s3", endpoint_url=address, aws_access_key_id="a", aws_secret_access_key="b", region_name="us-east-1"
        )
        for bucket in ("inkwell-mlflow", "inkwell-dvc"):
            client.create_bucket(Bucket=bucket)
        admin = stack.enter_context(postgres(SECRETS["POSTGRES_PASSWORD"]))
        subprocess.run(
            ["bash", str(INFRA / "postgres/create-databases.sh")], env={**os.environ, **admin, **SECRETS}, check=True
        )

        def outside(text: str) -> str:
            text = text.replace("postgres:5432", f"127.0.0.1:{admin['PGPORT']}").replace("http://s3:8333", address)
            return re.sub(r"^/(tmp|work)\b", str(folder), text)  # what is a volume or memory in the container

        settings = folder / "basic_auth.ini"
        settings.write_text(outside((INFRA / "mlflow/basic_auth.ini").read_text(encoding="utf-8")), encoding="utf-8")
        logs = []
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("PREFECT_", "MLFLOW_", "PG", "AWS_"))}
        for name, path in (("prefect", "/api/ready"), ("mlflow", "/health")):
            command = [outside(part) for part in services[name]["command"]]
            command = [str(behind[name]) if part == "4200" else part for part in command]
            command = [re.sub("0.0.0.0", "127.0.0.1", part) for part in command]
            command = [f"--port={behind[name]}" if part == "--port=5000" else part for part in command]
            command[0] = tool(command[0])
            environment = {key: outside(value) for key, value in services[name]["environment"].items()}
            if name == "mlflow":
                environment["MLFLOW_AUTH_CONFIG_PATH"] = str(settings)
            url = f"http://127.0.0.1:{behind[name]}{path}"
            server = running(command, lambda url=url: status(url) == 200, folder, {**clean, **environment}, seconds=240)
            logs.append(stack.enter_context(server))
        text = moved(ports, "")
        for name, port in behind.items():
            text = re.sub(rf"^(    server {name}) .*$", rf"\1 127.0.0.1:{port}", text, flags=re.MULTILINE)
        gate = folder / "gate.cfg"
        gate.write_text(text, encoding="utf-8")
        ready = f"http://127.0.0.1:{ports['8404']}/ready"
        logs.append(stack.enter_context(running([haproxy, "-f", gate], lambda: status(ready) == 200, folder, clean)))
        yield Servers(
            prefect=f"http://127.0.0.1:{ports['4200']}",
            mlflow=f"http://127.0.0.1:{ports['5000']}",
            direct_mlflow=f"http://127.0.0.1:{behind['mlflow']}",
            store=address,
            environment=clean,
            logs=logs,
        )


def test_prefect_asks_for_the_password(servers: Servers) -> None:
    user, password = SECRETS["PREFECT_AUTH_STRING"].split(":")
    url = f"{servers.prefect}/api/admin/version"
    assert status(f"{servers.prefect}/api/ready") == 200  # health checks have no password
    assert status(f"{servers.prefect}/") == 200  # the page, which then asks
    assert status(url) == 401
    assert status(url, basic(user, "guessed")) == 401
    assert status(url, basic(user, password)) == 200


def test_mlflow_asks_for_the_password(servers: Servers) -> None:
    url = f"{servers.mlflow}/ajax-api/2.0/mlflow/experiments/get?experiment_id=0"
    assert status(f"{servers.mlflow}/health") == 200
    assert status(url) == 401
    assert status(url, basic("admin", "guessed")) == 401
    assert status(url, basic("admin", "password1234")) == 401  # the default of old versions
    assert status(url, basic("admin", SECRETS["MLFLOW_ADMIN_PASSWORD"])) == 200


@pytest.mark.parametrize("host", ["evil.example", "10.0.0.1", "localhost.evil.example"])
def test_foreign_names_are_refused(servers: Servers, host: str) -> None:
    assert status(f"{servers.prefect}/api/ready", {"Host": host}) == 421
    assert status(f"{servers.mlflow}/", {"Host": host}) == 421
    # MLflow does so itself too, without the gate.
    assert status(f"{servers.direct_mlflow}/", {"Host": host}) == 403


def test_pools_are_made_from_the_templates(servers: Servers) -> None:
    environment = as_client(servers)
    for kind in ("process", "docker", "kubernetes"):
        template = INFRA / "pools" / f"{kind}.json"
        done = subprocess.run(
            [
                "prefect",
                "--no-prompt",
                "work-pool",
                "create",
                f"test-{kind}",
                "--type",
                kind,
                "--base-job-template",
                template,
            ],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr


def as_worker(servers: Servers, volume: Path) -> dict[str, str]:
    """The environment of Compose's worker, with `volume` in place of /work."""
    return {
        **as_client(servers),
        "PYTHONPATH": str(ROOT),
        "HOME": str(volume / "home"),
        "XDG_CACHE_HOME": str(volume / "cache"),
        "PREFECT_HOME": str(volume / "prefect"),
        "DVC_SITE_CACHE_DIR": str(volume / "cache/dvc"),
        "INKWELL_WORKSPACE": str(volume / "inkwell"),
        "INKWELL_PARAMETERS": f"corpus=tang size=smoke tracking.uri={servers.mlflow}",
        "INKWELL_PARAMETERS_FILE": str(volume / "parameters.yaml"),
        "INKWELL_DVC_REMOTE": "s3://inkwell-dvc",
        "INKWELL_WORK_POOL": "inkwell",
        "AWS_ENDPOINT_URL": servers.store,
        "AWS_ACCESS_KEY_ID": "inkwell-worker",
        "AWS_SECRET_ACCESS_KEY": SECRETS["S3_WORKER_SECRET_KEY"],
        "AWS_DEFAULT_REGION": "us-east-1",
        "PREFECT_WORKER_WEBSERVER_HOST": "127.0.0.1",
        "PREFECT_WORKER_WEBSERVER_PORT": str(free_port()),
    }


def worker(servers: Servers, environment: dict[str, str], volume: Path) -> AbstractContextManager[Path]:
    """Compose's worker, started as in its container; gives the file with what it says."""
    health = f"http://127.0.0.1:{environment['PREFECT_WORKER_WEBSERVER_PORT']}/health"
    pool = f"{servers.prefect}/api/work_pools/inkwell"
    header = basic(*SECRETS["PREFECT_AUTH_STRING"].split(":"))

    def ready() -> bool:
        return status(health) == 200 and status(pool, header) == 200

    return running(["bash", INFRA / "docker/worker.sh"], ready, volume, environment, seconds=180)


def asked(servers: Servers, path: str) -> Any:
    """What Prefect's API answers."""
    header = basic(*SECRETS["PREFECT_AUTH_STRING"].split(":"))
    with urlopen(Request(f"{servers.prefect}/api/{path}", headers=header), timeout=10) as answer:
        return json.loads(answer.read())


def test_a_worker_starts_and_is_healthy(servers: Servers, tmp_path: Path) -> None:
    with worker(servers, as_worker(servers, tmp_path), tmp_path):
        made = asked(servers, "work_pools/inkwell")
        template = json.loads((INFRA / "pools/process.json").read_text(encoding="utf-8"))
        assert made["type"] == "process"
        assert made["base_job_template"] == template
    assert f"uri: {servers.mlflow}" in (tmp_path / "inkwell/params.yaml").read_text(encoding="utf-8")
    assert "url = s3://inkwell-dvc" in (tmp_path / "inkwell/.dvc/config").read_text(encoding="utf-8")


@pytest.mark.timeout(900)
def test_the_worker_runs_what_the_page_deploys(servers: Servers, tmp_path: Path) -> None:
    """The command of docs/infra.md, in the worker's container: runs work in a folder that this worker can enter."""
    page = (ROOT / "docs/infra.md").read_text(encoding="utf-8")
    (command,) = re.findall(
        r"^docker compose -f infra/compose.yaml exec worker (python -m flows.deploy [^#\n]*)", page, re.M
    )
    assert command.split()[-2:] == ["--workspace", "/work/inkwell"]
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text("".join(json.dumps(poem, ensure_ascii=False) + "\n" for poem in poems(60)), encoding="utf-8")
    source = {"name": "tiny", "kind": "path", "location": str(corpus), "format": "jsonl", "text_field": "paragraphs"}
    (tmp_path / "parameters.yaml").write_text(yaml.safe_dump({"ingest": {"sources": [source]}}), encoding="utf-8")
    environment = as_worker(servers, tmp_path)

    def said(*words: str) -> str:
        done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    with worker(servers, environment, tmp_path) as log:
        said(*command.replace("/work/", f"{tmp_path}/").split())
        deployment = asked(servers, "deployments/name/inkwell-pipeline/pipeline")
        assert deployment["work_pool_name"] == "inkwell"
        told = said(
            "prefect", "--no-prompt", "deployment", "run", "inkwell-pipeline/pipeline", "--param", 'targets=["ingest"]'
        )
        run = re.search(r"UUID: ([0-9a-f-]{36})", told)
        assert run, told
        deadline = time.monotonic() + 600
        while (state := asked(servers, f"flow_runs/{run[1]}")["state_type"]) in ("SCHEDULED", "PENDING", "RUNNING"):
            assert time.monotonic() < deadline, log.read_text(encoding="utf-8", errors="replace")
            time.sleep(1)
        assert state == "COMPLETED", log.read_text(encoding="utf-8", errors="replace")
    assert list((tmp_path / "inkwell/data/raw").glob("*.parquet"))


def test_a_run_and_its_artifact_arrive(servers: Servers, tmp_path: Path) -> None:
    poem = tmp_path / "poem.txt"
    poem.write_text("春江花月夜", encoding="utf-8")
    script = (
        "import sys; from mlflow import MlflowClient; client = MlflowClient(); "
        "run = client.create_run(client.create_experiment('inkwell')); client.log_metric(run.info.run_id, 'loss', 1.5); "
        "client.log_artifact(run.info.run_id, sys.argv[1]); client.set_terminated(run.info.run_id); "
        "print(client.get_run(run.info.run_id).data.metrics['loss'])"
    )
    environment = {
        **servers.environment,
        "MLFLOW_TRACKING_URI": servers.mlflow,
        "MLFLOW_TRACKING_USERNAME": "admin",
        "MLFLOW_TRACKING_PASSWORD": SECRETS["MLFLOW_ADMIN_PASSWORD"],
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
    done = subprocess.run(
        [sys.executable, "-c", script, str(poem)], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[-1] == "1.5"
    store = boto3.client(
        "s3", endpoint_url=servers.store, aws_access_key_id="a", aws_secret_access_key="b", region_name="us-east-1"
    )
    keys = [entry["Key"] for entry in store.list_objects_v2(Bucket="inkwell-mlflow")["Contents"]]
    assert [key for key in keys if key.endswith("/poem.txt")]


def test_no_secret_in_what_the_servers_say(servers: Servers) -> None:
    said = "\n".join(log.read_text(encoding="utf-8", errors="replace") for log in servers.logs)
    assert len(said) > 100
    assert [name for name, secret in SECRETS.items() if secret.rpartition(":")[2] in said] == []
