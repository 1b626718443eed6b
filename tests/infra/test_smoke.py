"""infra/smoke.sh: what it leaves when it is ended in the middle. What it is for runs in tests/readme, on the whole pipeline."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import yaml

from flows.processes import environment
from tests.infra.reading import INFRA, tool

STAGES = {
    "waits": {
        "cmd": "python -c \"import pathlib, time; pathlib.Path('begun').touch(); time.sleep(600)\"",
        "outs": ["never.txt"],
    }
}


def until(true: Callable[[], bool], seconds: float) -> bool:
    """Whether it came true in time."""
    deadline = time.monotonic() + seconds
    while not true():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


def home_of(server: psutil.Process) -> Path | None:
    """PREFECT_HOME of a process of Prefect's server, which lies in the folder that the script made for this run."""
    try:
        if "server" in server.cmdline() and "start" in server.cmdline():
            return Path(server.environ()["PREFECT_HOME"])
    except (psutil.Error, KeyError):
        pass
    return None


def alive(one: psutil.Process) -> bool:
    try:
        return one.is_running() and one.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


@pytest.mark.timeout(900)
def test_whoever_ends_it_ends_all_of_it(tmp_path: Path) -> None:
    tool("initdb")
    folder = tmp_path / "waiting"
    folder.mkdir()
    (folder / "dvc.yaml").write_text(yaml.safe_dump({"stages": STAGES}), encoding="utf-8")
    (folder / "params.yaml").write_text("seed: 1\n", encoding="utf-8")
    env = environment()
    subprocess.run([sys.executable, "-m", "dvc", "init", "--no-scm", "-q"], cwd=folder, env=env, check=True)
    log = tmp_path / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            ["bash", str(INFRA / "smoke.sh"), str(folder)],
            cwd=tmp_path, env=env, stdout=output, stderr=output, start_new_session=True,
        )  # fmt: skip
    try:
        assert until(lambda: (folder / "begun").exists() or process.poll() is not None, 600)
        assert process.poll() is None, log.read_text(encoding="utf-8", errors="replace")
        family = psutil.Process(process.pid).children(recursive=True)
        homes = {home for one in family if (home := home_of(one))}
        assert len(homes) == 1
        scratch = homes.pop().parent
        database = [
            one
            for one in psutil.process_iter(["cmdline"])
            if f"{scratch}/postgresql/data" in (one.info["cmdline"] or [])
        ]
        assert len(family) >= 3  # the server, the pipeline and its stage
        assert database
        # Only the script itself hears it, as from `kill`.
        os.kill(process.pid, signal.SIGTERM)
        assert process.wait(60) == 143
        assert [one for one in [*family, *database] if alive(one)] == []
        assert not scratch.exists()
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait(60)
    # What Prefect's server said is kept with the workspace.
    assert (folder / ".inkwell/prefect.log").stat().st_size > 0


def test_without_a_workspace_it_says_how_to_call_it() -> None:
    done = subprocess.run(["bash", str(INFRA / "smoke.sh")], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == "smoke.sh: write infra/smoke.sh WORKSPACE [PARAMETERS].\n"
