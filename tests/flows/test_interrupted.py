"""Ctrl-C in the commands around a champion: status 130 and one sentence, as in all others."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from components.tracking.delivery import exclusive
from flows.processes import environment

ROOT = Path(__file__).parents[2]
PARAMETERS = {"ingest": {"sources": [{"name": "a", "kind": "path", "location": "a"}]}}
DVC_YAML = """
stages:
  evaluate:
    cmd: python -c "open('e', 'w')"
    outs: [e]
  export:
    cmd: python -c "open('x', 'w')"
    outs: [x]
"""


def _start(folder: Path, module: str, *arguments: str) -> subprocess.Popen[str]:
    # A shell that keeps the tests in the background hands SIGINT on as ignored.
    code = (
        "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        f"from flows.{module} import main\nsys.exit(main(sys.argv[1:]))"
    )
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        cwd=folder,
        env={**environment(), "PYTHONPATH": str(ROOT)},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def _interrupted(process: subprocess.Popen[str], name: str) -> None:
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert "Traceback" not in said
    assert said.splitlines()[-1].startswith(f"{name}: interrupted")


def _at_the_lock(process: subprocess.Popen[str], lock: Path) -> None:
    """Wait until the command waits for the lock that this process holds."""
    deadline = time.monotonic() + 120
    while str(lock.resolve()) not in [file.path for file in psutil.Process(process.pid).open_files()]:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_promote_and_rollback_that_wait_for_another_decision(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text(json.dumps(PARAMETERS))
    (tmp_path / "dvc.yaml").write_text(DVC_YAML)
    for arguments in (["init", "--no-scm", "-q"], ["repro", "-q"]):
        subprocess.run([sys.executable, "-m", "dvc", *arguments], cwd=tmp_path, env=environment(), check=True)
    lock = tmp_path / ".inkwell" / "promotion.lock"
    lock.parent.mkdir(exist_ok=True)
    with exclusive(lock, wait=True) as mine:
        assert mine
        for name, arguments in (("promote", []), ("rollback", ["--reason", "rude answers"])):
            process = _start(tmp_path, name, *arguments)
            try:
                _at_the_lock(process, lock)
                _interrupted(process, name)
            finally:
                process.kill()
                process.wait()


def test_a_notification_that_nobody_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(120)
        values = {**PARAMETERS, "notifications": {"webhook": "env:TEST_HOOK", "timeout_seconds": 300}}
        (tmp_path / "params.yaml").write_text(json.dumps(values))
        monkeypatch.setenv("TEST_HOOK", f"http://127.0.0.1:{listening.getsockname()[1]}/hook")
        process = _start(tmp_path, "notify", "--test")
        try:
            connection, _ = listening.accept()
            with connection:
                connection.recv(1)  # the message is under way, and no answer comes
                _interrupted(process, "notify")
        finally:
            process.kill()
            process.wait()
