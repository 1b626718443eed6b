"""A tiny pipeline of real commands, a real Prefect server for the session, and listeners for mail and HTTP."""

from __future__ import annotations

import json
import os
import shutil
import socketserver
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from flows.pipeline import set_environment
from flows.processes import environment
from tests.flows.candidates import export_of
from tests.loopback import listening

ROOT = Path(__file__).parents[2]
# the user's own leases and profiles are none of these tests' business
_HOME = tempfile.TemporaryDirectory(prefix="inkwell-prefect-")
os.environ.setdefault("PREFECT_HOME", _HOME.name)
set_environment()

DVC_YAML = """
stages:
  first:
    desc: The beginning
    cmd: python -c "print('first says hello'); open('a.txt','w').write(open('in.txt').read())"
    deps: [in.txt]
    outs: [a.txt]
    meta: {timeout_minutes: 5}
  left:
    desc: One way
    cmd: python left.py
    deps: [a.txt, left.py]
    outs: [b.txt]
    params: [left]
  right:
    desc: Another way
    cmd: python -c "open('c.txt','w').write(open('a.txt').read()*2)"
    deps: [a.txt]
    outs: [c.txt]
  last:
    desc: The end
    cmd: python -c "open('d.txt','w').write(open('b.txt').read()+open('c.txt').read())"
    deps: [b.txt, c.txt]
    outs: [d.txt]
"""
LEFT = "open('b.txt', 'w').write(open('a.txt').read() + '!')\n"


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    """Four stages: first, then left and right at the same time, then last."""
    folder = tmp_path / "pipeline"
    folder.mkdir()
    (folder / "dvc.yaml").write_text(DVC_YAML, encoding="utf-8")
    (folder / "params.yaml").write_text("left: 1\n", encoding="utf-8")
    (folder / "in.txt").write_text("in", encoding="utf-8")
    (folder / "left.py").write_text(LEFT, encoding="utf-8")
    subprocess.run([sys.executable, "-m", "dvc", "init", "--no-scm", "-q"], cwd=folder, env=environment(), check=True)
    return folder


@pytest.fixture(scope="session")
def s3() -> Iterator[str]:
    """The endpoint of a moto server with an empty bucket."""
    import boto3
    from moto.server import ThreadedMotoServer

    # One for the process: s3fs keeps its connections by their settings, and the endpoint comes from the environment.
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    endpoint = f"http://{host}:{port}"
    boto3.client(
        "s3", endpoint_url=endpoint, region_name="us-east-1", aws_access_key_id="a", aws_secret_access_key="b"
    ).create_bucket(Bucket="store")
    yield endpoint
    server.stop()


@pytest.fixture
def store(s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The address of an empty DVC remote, with its credentials in the environment."""
    for name, value in {
        "ENDPOINT_URL": s3,
        "ACCESS_KEY_ID": "a",
        "SECRET_ACCESS_KEY": "b",
        "DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    return f"s3://store/{tmp_path.name}"


@pytest.fixture(scope="session")
def prefect_server() -> Iterator[None]:
    """A Prefect server with an empty database of its own."""
    from prefect.testing.utilities import prefect_test_harness

    with prefect_test_harness(server_startup_timeout=120):
        yield


@pytest.fixture(scope="session")
def exports(
    tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, raw_folder: Path, clean_folder: Path, token_folder: Path
) -> dict[str, Path]:
    """The same small model twice: as it is, and with its embedding blown up, which costs it bits."""
    from safetensors.torch import load_file, save_file

    place = tmp_path_factory.mktemp("exports")
    worse = place / "worse"
    shutil.copytree(tiny_model, worse)
    weights = load_file(worse / "model.safetensors")
    weights["model.embed_tokens.weight"] *= 40
    save_file(weights, worse / "model.safetensors", metadata={"format": "pt"})
    folders = (raw_folder, clean_folder, token_folder)
    return {
        "better": export_of(tiny_model, place / "a", *folders),
        "worse": export_of(worse, place / "b", *folders),
    }


class _Mailbox(socketserver.StreamRequestHandler):
    """As much of SMTP (RFC 5321) as smtplib speaks, with AUTH PLAIN."""

    received: list[str]

    def handle(self) -> None:
        def say(line: str) -> None:
            self.wfile.write(f"{line}\r\n".encode())

        say("220 here")
        while line := self.rfile.readline().decode().rstrip("\r\n"):
            self.received.append(line)
            verb = line.split()[0].upper()
            if verb == "EHLO":
                say("250-here")
                say("250 AUTH PLAIN")
            elif verb == "AUTH":
                say("235 welcome")
            elif verb == "DATA":
                say("354 go on")
                while (text := self.rfile.readline().decode().rstrip("\r\n")) != ".":
                    self.received.append(text)
                say("250 kept")
            elif verb == "QUIT":
                say("221 bye")
                return
            else:
                say("250 fine")


@pytest.fixture
def mailbox() -> Iterator[tuple[int, list[str]]]:
    """(port of a mail server, the lines that it was told)."""
    received: list[str] = []
    handler = type("Mailbox", (_Mailbox,), {"received": received})
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        yield server.server_address[1], received
        server.shutdown()


@pytest.fixture
def posts() -> Iterator[tuple[str, list[tuple[str, Any]]]]:
    """(address of an HTTP server, (path, JSON body) of what was posted there); a path with "broken" gets 500."""
    received: list[tuple[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            received.append((self.path, body))
            self.send_response(500 if "broken" in self.path else 200)
            self.send_header("Content-Length", "0")
            self.end_headers()

    with listening(Handler) as address:
        yield address, received
