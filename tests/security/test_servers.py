"""The servers that a user starts on a laptop refuse pages of others: names that are not theirs (DNS rebinding) and origins.

The servers of a team are tested behind their gate in tests/infra/test_servers.py.
"""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from components.launch.processes import free_port
from tests.infra.servers import running, status

ROOT = Path(__file__).parents[2]
CLEAN = {
    **{k: v for k, v in os.environ.items() if not k.startswith(("PREFECT_", "MLFLOW_", "INKWELL_"))},
    "PYTHONPATH": str(ROOT),
    "MLFLOW_DISABLE_TELEMETRY": "true",
}
REFUSED = (403, 421)


@dataclass(frozen=True)
class Server:
    """Where it listens, a page to read, and a request that changes something."""

    port: int
    read: str
    change: tuple[str, str, dict[str, Any]]

    def ask(
        self, headers: Mapping[str, str], method: str = "GET", path: str = "", body: bytes | None = None
    ) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        try:
            connection.request(method, path or self.read, body, dict(headers))
            answer = connection.getresponse()
            return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
        finally:
            connection.close()

    def changed(self, kind: str = "application/json", **headers: str) -> int:
        """The status of the request that changes something."""
        method, path, body = self.change
        return self.ask({"Content-Type": kind, **headers}, method, path, json.dumps(body).encode())[0]


@contextmanager
def started(
    arguments: list[str], port: int, path: str, folder: Path, seconds: float = 240, **more: str
) -> Iterator[Path]:
    with running(
        [sys.executable, "-m", *arguments],
        lambda: status(f"http://127.0.0.1:{port}{path}") == 200,
        folder,
        {**CLEAN, **more},
        seconds,
    ) as log:
        yield log


@pytest.fixture(scope="module")
def mlflow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """`python -m flows.review`, in an environment that would open MLflow to everybody."""
    folder, port = tmp_path_factory.mktemp("review"), free_port()
    arguments = ["flows.review", "--workspace", str(folder), "--port", str(port)]
    opened = {
        "MLFLOW_SERVER_ALLOWED_HOSTS": "*",
        "MLFLOW_SERVER_CORS_ALLOWED_ORIGINS": "*",
        "MLFLOW_SERVER_DISABLE_SECURITY_MIDDLEWARE": "true",
    }
    with started(arguments, port, "/health", folder, **opened):
        path = "/ajax-api/2.0/mlflow/experiments"
        yield Server(port, f"{path}/get?experiment_id=0", ("POST", f"{path}/create", {"name": "theirs"}))


@pytest.fixture(scope="module")
def prefect(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """`python -m flows.server`."""
    folder, port = tmp_path_factory.mktemp("prefect"), free_port()
    with started(["flows.server", "--port", str(port)], port, "/api/health", folder, PREFECT_HOME=str(folder / "home")):
        yield Server(port, "/api/admin/version", ("POST", "/api/flows/", {"name": "theirs"}))


@pytest.fixture(scope="module")
def chat(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Iterator[Server]:
    """`python -m components.serve` with a tiny model."""
    from components.configuration import Sampling
    from components.export.gguf_file import Description, write_gguf
    from components.export.llama_cpp import LlamaCpp

    folder, port = tmp_path_factory.mktemp("serve"), free_port()
    with LlamaCpp() as quantizer:
        write_gguf(
            tiny_model, folder / "tiny-q8_0.gguf", "q8_0", Description("tiny", "zh", None, Sampling()), quantizer
        )
    with started(["components.serve", "--export", str(folder), "--port", str(port)], port, "/health", folder):
        body = {"messages": [{"role": "user", "content": "a"}], "max_tokens": 2}
        yield Server(port, "/v1/models", ("POST", "/v1/chat/completions", body))


@pytest.fixture(params=["mlflow", "prefect", "chat"])
def server(request: pytest.FixtureRequest) -> Server:
    found: Server = request.getfixturevalue(request.param)
    return found


def test_its_own_pages_and_local_programs_are_served(server: Server) -> None:
    for name in ("127.0.0.1", "localhost"):
        own = f"{name}:{server.port}"
        assert server.ask({"Host": own})[0] == 200
        assert server.ask({"Host": own, "Origin": f"http://{own}"})[0] == 200
    assert server.changed(Origin=f"http://127.0.0.1:{server.port}") in (200, 201)


@pytest.mark.parametrize(
    "host",
    [
        *("evil.example", "evil.example:{port}", "localhost.evil.example:{port}", "127.0.0.1.evil.example:{port}"),
        # begins like a private address, which is enough for MLflow's own patterns
        *("10.evil.example", "192.168.evil.example:{port}", "169.254.169.254", "127.0.0.1:1", ""),
    ],
)
def test_foreign_names_are_refused(server: Server, host: str) -> None:
    code, _, said = server.ask({"Host": host.format(port=server.port)})
    assert code in (400, *REFUSED), said[:300]
    assert b"experiment_id" not in said
    assert server.changed(Host=host.format(port=server.port)) in (400, *REFUSED)


@pytest.mark.parametrize(
    "origin",
    [
        "http://evil.example",
        "https://evil.example",
        "http://localhost.evil.example",
        "http://127.0.0.1.evil.example",
        "null",
    ],
)
# text/plain and forms are what a browser sends to strangers without asking first
@pytest.mark.parametrize("kind", ["application/json", "text/plain", "application/x-www-form-urlencoded"])
def test_a_foreign_page_changes_nothing(server: Server, origin: str, kind: str) -> None:
    assert server.changed(kind, Origin=origin) in REFUSED


def test_a_foreign_page_reads_nothing(server: Server) -> None:
    code, headers, _ = server.ask({"Origin": "http://evil.example"})
    allowed = headers.get("access-control-allow-origin")
    assert code in REFUSED or allowed not in ("*", "http://evil.example", "null")
    method = {"Origin": "http://evil.example", "Access-Control-Request-Method": "POST"}
    _, headers, _ = server.ask(method, "OPTIONS", server.change[1])
    assert headers.get("access-control-allow-origin") not in ("*", "http://evil.example")


def test_nobody_else_can_connect(server: Server) -> None:
    listening = [
        line.split()[1] for line in Path("/proc/net/tcp").read_text().splitlines()[1:] if line.split()[3] == "0A"
    ]
    assert [place for place in listening if place.endswith(f":{server.port:04X}")] == [f"0100007F:{server.port:04X}"]
    six = Path("/proc/net/tcp6")
    assert f":{server.port:04X} 0" not in (six.read_text() if six.exists() else "")


def test_mlflow_is_in_no_frame(mlflow: Server) -> None:
    assert mlflow.ask({}, path="/")[1]["x-frame-options"] == "DENY"


def test_prefect_s_page_and_its_sockets_are_for_this_machine(prefect: Server) -> None:
    code, _, page = prefect.ask({}, path="/")
    assert code in (200, 307)
    assert b"<!DOCTYPE html>" in page or b"<!doctype html>" in page or code == 307
    upgrade = {
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "x3JJHMbDL1EzLkh9GBhXDw==",
    }
    assert prefect.ask({**upgrade, "Origin": "http://evil.example"}, path="/api/events/out")[0] in REFUSED
    assert prefect.ask({**upgrade, "Host": "evil.example"}, path="/api/events/out")[0] in REFUSED


def test_prefect_s_page_is_the_new_one_and_is_told_to_count_and_advertise_nothing(prefect: Server) -> None:
    code, headers, _ = prefect.ask({"Accept": "text/html", "Sec-Fetch-Mode": "navigate"}, path="/")
    assert (code, headers["location"]) == (307, "/v2/")
    code, _, said = prefect.ask({}, path="/api/admin/settings")
    server = json.loads(said)["server"]
    assert (code, server["analytics_enabled"], server["ui"]["show_promotional_content"]) == (200, False, False)


def test_prefect_s_server_takes_runs_of_a_client(prefect: Server, tmp_path: Path) -> None:
    script = (
        "from prefect import flow\n@flow\ndef small() -> int:\n    return 7\n"
        "if __name__ == '__main__':\n    assert small() == 7"
    )
    (tmp_path / "small.py").write_text(script, encoding="utf-8")
    environment = {
        **CLEAN,
        "PREFECT_API_URL": f"http://127.0.0.1:{prefect.port}/api",
        "PREFECT_HOME": str(tmp_path / "home"),
    }
    done = subprocess.run(
        [sys.executable, "small.py"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    code, _, said = prefect.ask({"Content-Type": "application/json"}, "POST", "/api/flow_runs/filter", b"{}")
    assert code == 200
    assert [found["state_type"] for found in json.loads(said)] == ["COMPLETED"]


def ended(arguments: list[str], folder: Path, ready: Callable[[int], bool], port: int) -> int:
    process = subprocess.Popen(
        [sys.executable, "-m", *arguments],
        cwd=folder,
        env={**CLEAN, "PREFECT_HOME": str(folder)},
        start_new_session=True,
    )
    try:
        import time

        deadline = time.monotonic() + 240
        while not ready(port):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        return process.wait(60)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)


def test_prefect_s_server_ends_with_ctrl_c_and_tells_of_a_taken_port(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = subprocess.run(
            [sys.executable, "-m", "flows.server", "--port", str(port)],
            cwd=tmp_path, env=CLEAN, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert f"port {port}" in done.stderr
    port = free_port()
    arguments = ["flows.server", "--port", str(port)]
    assert ended(arguments, tmp_path, lambda port: status(f"http://127.0.0.1:{port}/api/health") == 200, port) == 0
