"""Steps as a user runs them: real processes, started, killed and waited for."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil

ROOT = Path(__file__).parents[1]


def start(step: str, folder: Path, params: str, *arguments: str) -> subprocess.Popen[str]:
    """`python -m components.<step>` in `folder`, with `params` as its params.yaml."""
    folder.mkdir(exist_ok=True)
    (folder / "params.yaml").write_text(params, encoding="utf-8")
    return subprocess.Popen(
        [sys.executable, "-m", f"components.{step}", *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def finish(process: subprocess.Popen[str], status: int = 0) -> str:
    """Everything it printed, once it has ended with `status`."""
    output, _ = process.communicate(timeout=300)
    assert process.returncode == status, output
    return output


def kill_between_checkpoints(process: subprocess.Popen[str], work: Path) -> None:
    """SIGKILL once the process has written two checkpoints of its own."""
    before = {p.stat().st_mtime_ns for p in work.glob("*/checkpoints/rows-*")}
    seen: set[int] = set()
    while len(seen) < 2 and process.poll() is None:
        for path in work.glob("*/checkpoints/rows-*"):
            try:
                seen.add(path.stat().st_mtime_ns)
            except FileNotFoundError:  # it is being replaced
                continue
        seen -= before
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert process.returncode == -signal.SIGKILL, "it ended before it could be killed"


def alive_in(folder: Path) -> list[list[str]]:
    """Command lines of the other processes that work in exactly this folder."""
    found = []
    for process in psutil.process_iter():
        try:
            if (
                process.pid != os.getpid()
                and process.cwd() == str(folder.resolve())
                and process.status() != psutil.STATUS_ZOMBIE
            ):
                found.append(process.cmdline())
        except psutil.Error:
            continue
    return found
