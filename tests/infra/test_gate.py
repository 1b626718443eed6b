"""The gates (HAProxy) of Compose and Kubernetes as they are configured, in front of a server of the test's own."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest
import yaml

from components.launch.processes import free_port
from tests.infra.reading import INFRA, tool
from tests.infra.servers import running, status
from tests.loopback import listening

CONFIGURATION = (INFRA / "gate.cfg").read_text(encoding="utf-8")
_DOCUMENTS = list(yaml.safe_load_all((INFRA / "kubernetes/gate.yaml").read_text(encoding="utf-8")))
(CLUSTER,) = [entry["data"]["haproxy.cfg"] for entry in _DOCUMENTS if entry["kind"] == "ConfigMap"]


class Server(BaseHTTPRequestHandler):
    """Answers everything."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()


def moved(ports: dict[str, int], backend: str, text: str = CONFIGURATION) -> str:
    """The configuration with other ports, and `backend` in place of the containers."""
    for port, other in ports.items():
        text = re.sub(rf"bind (127\.0\.0\.1)?:{port}$", f"bind 127.0.0.1:{other}", text, flags=re.MULTILINE)
    return re.sub(r"^(    server \w+) .+$", rf"\1 {backend}", text, flags=re.MULTILINE)


@contextmanager
def started(text: str, folder: Path) -> Iterator[dict[str, str]]:
    """The addresses of a gate: ready, prefect, mlflow, s3."""
    ports = {port: free_port() for port in ("8404", "4200", "5000", "8333")}
    with listening(Server) as address:
        written = folder / "gate.cfg"
        written.write_text(moved(ports, address.removeprefix("http://"), text), encoding="utf-8")
        names = ("ready", "prefect", "mlflow", "s3")
        found = {name: f"http://127.0.0.1:{port}" for name, port in zip(names, ports.values(), strict=True)}
        command: list[str | Path] = [tool("haproxy"), "-f", written]
        with running(command, lambda: status(f"{found['ready']}/ready") == 200, folder, os.environ):
            yield found


@pytest.fixture(scope="module")
def gate(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The addresses of Compose's gate."""
    with started(CONFIGURATION, tmp_path_factory.mktemp("gate")) as found:
        yield found


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The addresses of the gate in Kubernetes, which has no store behind it."""
    with started(CLUSTER, tmp_path_factory.mktemp("cluster")) as found:
        yield found


@pytest.mark.parametrize("text", [CONFIGURATION, CLUSTER], ids=["compose", "kubernetes"])
def test_haproxy_takes_the_configuration(text: str, tmp_path: Path) -> None:
    written = tmp_path / "gate.cfg"
    written.write_text(moved({}, "127.0.0.1:1", text), encoding="utf-8")
    done = subprocess.run([tool("haproxy"), "-c", "-f", str(written)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr, done.stderr


@pytest.mark.parametrize("server", ["prefect", "mlflow", "s3"])
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "gate", "127.0.0.1:4200", "localhost:9999", "gate:8333"])
def test_own_names_pass(gate: dict[str, str], server: str, host: str) -> None:
    assert status(gate[server], {"Host": host}) == 200


@pytest.mark.parametrize("server", ["prefect", "mlflow", "s3"])
@pytest.mark.parametrize(
    "host", ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example:4200", "169.254.169.254", ""]
)
def test_foreign_names_are_refused(gate: dict[str, str], server: str, host: str) -> None:
    assert status(gate[server], {"Host": host}) in (400, 421)


ORIGINS = [
    ("http://127.0.0.1:4200", 200),
    ("http://localhost:5000", 200),
    ("http://evil.example", 403),
    ("http://localhost.evil.example", 403),
    ("http://127.0.0.1:4200.evil.example", 403),
    ("https://evil.example/http://localhost", 403),
    ("null", 403),
]


@pytest.mark.parametrize("server", ["prefect", "mlflow"])
@pytest.mark.parametrize(("origin", "expected"), ORIGINS)
def test_origins(gate: dict[str, str], server: str, origin: str, expected: int) -> None:
    assert status(gate[server], {"Origin": origin}) == expected


@pytest.mark.parametrize("server", ["prefect", "mlflow"])
@pytest.mark.parametrize(("origin", "expected"), ORIGINS)
def test_origins_in_a_cluster(cluster: dict[str, str], server: str, origin: str, expected: int) -> None:
    assert status(cluster[server], {"Origin": origin}) == expected


@pytest.mark.parametrize("server", ["prefect", "mlflow"])
@pytest.mark.parametrize(
    ("host", "passes"),
    [
        ("127.0.0.1:4200", True),
        ("localhost", True),
        ("evil.example", False),
        ("localhost.evil.example", False),
        ("", False),
    ],
)
def test_names_in_a_cluster(cluster: dict[str, str], server: str, host: str, passes: bool) -> None:
    assert status(cluster[server], {"Host": host}) in ((200,) if passes else (400, 421))
