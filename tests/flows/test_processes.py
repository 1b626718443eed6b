"""Process groups end with those who asked for them."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import psutil

from flows.processes import Command, environment

ROOT = Path(__file__).parents[2]
DEAF = (
    "import os, signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
    " open('deaf', 'w').write(str(os.getpid())); time.sleep(300)"
)
POLITE = f"import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', {DEAF!r}]); time.sleep(300)"
ASKER = (
    "import sys\nfrom pathlib import Path\nfrom flows.processes import Command, environment\n"
    f"with Command([sys.executable, '-c', {POLITE!r}], Path.cwd(), environment()) as command:\n    command.wait()\n"
)


def _deaf(folder: Path) -> psutil.Process:
    deadline = time.monotonic() + 60
    while not (folder / "deaf").exists() or not (folder / "deaf").read_text():
        assert time.monotonic() < deadline
        time.sleep(0.1)
    return psutil.Process(int((folder / "deaf").read_text()))


def _alive_after(processes: Sequence[psutil.Process], seconds: float) -> list[psutil.Process]:
    """Those that are still at work `seconds` later, ended now; one that nobody has reaped is not at work."""

    def works(process: psutil.Process) -> bool:
        try:
            return bool(process.status() != psutil.STATUS_ZOMBIE)
        except psutil.NoSuchProcess:
            return False

    deadline = time.monotonic() + seconds
    while any(map(works, processes)) and time.monotonic() < deadline:
        time.sleep(0.1)
    left = [process for process in processes if works(process)]
    for process in left:
        process.kill()
    return left


def test_a_deaf_grandchild_does_not_outlive_an_asker_that_is_killed(tmp_path: Path) -> None:
    env = {**environment(), "PYTHONPATH": str(ROOT)}
    asker = subprocess.Popen([sys.executable, "-c", ASKER], cwd=tmp_path, env=env)
    try:
        deaf = _deaf(tmp_path)
        keeper = psutil.Process(deaf.ppid()).parent()
        assert keeper is not None
    finally:
        asker.kill()
        asker.wait()
    assert not _alive_after([deaf, keeper], 20)


def test_a_deaf_grandchild_ends_with_the_block(tmp_path: Path) -> None:
    with Command([sys.executable, "-c", POLITE], tmp_path, environment()):
        deaf = _deaf(tmp_path)
    assert not _alive_after([deaf], 5)


def test_the_keeper_ends_at_once_where_nobody_is_deaf(tmp_path: Path) -> None:
    quiet = ASKER.replace(repr(POLITE), repr("import time; open('on', 'w').close(); time.sleep(300)"))
    assert quiet != ASKER
    asker = subprocess.Popen(
        [sys.executable, "-c", quiet], cwd=tmp_path, env={**environment(), "PYTHONPATH": str(ROOT)}
    )
    try:
        deadline = time.monotonic() + 60
        while not (tmp_path / "on").exists():
            assert time.monotonic() < deadline
            time.sleep(0.1)
        started = psutil.Process(asker.pid).children(recursive=True)
    finally:
        asker.kill()
        asker.wait()
    assert len(started) == 2
    assert not _alive_after(started, 5)  # half of the grace: it does not wait for an empty group
