"""Whether a workspace is whole: the right bytes, nobody left at work, nothing written by half."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from flows.processes import environment

if TYPE_CHECKING:
    import psutil

WATCHED = (
    "data/raw",
    "data/tagged",
    "data/clean",
    "models/tokenizer",
    "data/tokens",
    "models/base",
    "models/sft",
    "models/aligned",
    "models/export",
)
MARK = "INKWELL_CHAOS"  # in the environment of what a trial starts
# components.atomic's temporary names, and those of DVC's checkouts.
_HALF = re.compile(r"^\..+\.\d+\.|\.copying$|^\.[A-Za-z0-9_-]{22}\.tmp$")


def hashes(workspace: Path) -> dict[str, str]:
    """Hash of the content of every watched output that exists, read from its bytes and not from dvc.lock."""
    from components.step import content_hash

    return {name: content_hash(workspace / name) for name in WATCHED if (workspace / name).exists()}


def half_written(workspace: Path) -> list[str]:
    """Files and folders under a temporary name among the outputs."""
    return sorted(
        path.relative_to(workspace).as_posix()
        for part in ("data", "models", "metrics", "reports")
        for path in (workspace / part).rglob("*")
        if _HALF.search(path.name)
    )


def at_work(*folders: Path) -> list[psutil.Process]:
    """Processes in any of the folders, this one not among them."""
    import psutil

    found = []
    roots = [folder.resolve() for folder in folders]
    for process in psutil.process_iter():
        try:
            inside = any(Path(process.cwd()).is_relative_to(root) for root in roots)
            if inside and process.pid != os.getpid() and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (psutil.Error, OSError):
            continue
    return found


def end_all_in(folder: Path) -> None:
    """SIGKILL to what a trial has started in `folder`; a person's shell there is left alone."""
    import psutil

    for process in at_work(folder):
        with contextlib.suppress(psutil.Error):
            if MARK in process.environ():
                process.kill()


def _commands(processes: Iterable[psutil.Process]) -> list[str]:
    import psutil

    found = []
    for process in processes:
        with contextlib.suppress(psutil.Error):  # it has just ended
            found.append(" ".join(process.cmdline()))
    return found


def orphans(*folders: Path, patience: float = 20.0) -> list[str]:
    """Who is still at work in the folders `patience` seconds after the pipeline has ended.

    A courier of MLflow's records may finish its delivery: it is the only process meant to outlive a step that was killed.
    """
    deadline = time.monotonic() + patience
    while True:
        left = [command for command in _commands(at_work(*folders)) if "components.tracking" not in command]
        if not left or time.monotonic() > deadline:
            return left
        time.sleep(0.5)


def faults_of(workspace: Path, expected: Mapping[str, str], targets: list[str]) -> list[str]:
    """What is wrong with a finished workspace, a sentence each; empty when it is whole."""
    found = hashes(workspace)
    wrong = [f"{name} is missing" for name in expected if name not in found]
    wrong += [f"{name} has other bytes" for name in expected if name in found and found[name] != expected[name]]
    wrong += [f"{name} is half written" for name in half_written(workspace)]
    wrong += [f"still at work: {command[:200]}" for command in orphans(workspace)]
    status = subprocess.run(
        [sys.executable, "-m", "dvc", "status", "--json", *targets],
        cwd=workspace,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    if status.returncode or status.stdout.strip() != "{}":
        wrong.append(f"dvc status: {' '.join((status.stdout + status.stderr).split())[:300]}")
    return wrong
