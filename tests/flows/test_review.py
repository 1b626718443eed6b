"""`python -m flows.review`: MLflow on this machine, the report beside it, one sentence when the port is taken."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

from components.launch.processes import free_port

ROOT = Path(__file__).parents[2]


def review(workspace: Path, port: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "flows.review", "--workspace", str(workspace), "--port", str(port)]
    return subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


def test_a_taken_port_is_told_in_one_sentence(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        process = review(tmp_path, port)
        said, complained = process.communicate(timeout=60)
    assert process.returncode == 2
    assert complained.count("\n") == 1
    assert f"port {port}" in complained
    assert "--port" in complained
    assert "Report card: not made yet" in said


def test_it_serves_until_interrupted_and_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "reports").mkdir()
    (tmp_path / "reports/index.html").write_text("<!doctype html>")
    port = free_port()
    process = review(tmp_path, port)
    try:
        assert process.stdout is not None
        lines = []
        for line in process.stdout:
            lines.append(line.strip())
            if line.startswith("Ctrl-C"):
                break
        assert f"Report card: {(tmp_path / 'reports/index.html').as_uri()}" in lines
        assert f"MLflow:      http://127.0.0.1:{port}" in lines
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=30) as answer:
            assert answer.read() == b"OK"
        assert (tmp_path / ".inkwell/mlflow.db").exists()
    finally:
        os.kill(process.pid, signal.SIGINT)
        process.communicate(timeout=60)
    assert process.returncode == 0
    with socket.socket() as tried:
        tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        tried.bind(("127.0.0.1", port))  # nobody listens any more


def test_the_login_of_a_tracking_server_is_not_shown(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text(
        "ingest: {sources: [{name: a, kind: path, location: a}]}\n"
        "tracking: {uri: 'http://reviewer:planted-5b21@127.0.0.1:9'}\n",
        encoding="utf-8",
    )
    process = review(tmp_path, free_port())
    said, complained = process.communicate(timeout=60)
    assert process.returncode in (0, 2), complained
    assert "planted-5b21" not in said + complained
    assert "Traceback" not in complained
