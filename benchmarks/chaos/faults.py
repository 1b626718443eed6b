"""The faults: each waits for its moment in a pipeline that runs, and breaks one thing."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import psutil

    from benchmarks.chaos.services import Service

FAULTS = ("stage", "worker", "server", "database", "disk", "mlflow", "s3", "two", "cache")


def wait_for_stage(workspace: Path, stage: str, alive: Callable[[], bool]) -> psutil.Process | None:
    """The process of `stage` in `workspace`, once it works; None when the pipeline has ended before."""
    import psutil

    root = workspace.resolve()
    while alive():
        for process in psutil.process_iter():
            try:
                command = process.cmdline()
                named = "-m" in command and f"components.{stage}" in command
                if named and Path(process.cwd()).is_relative_to(root):
                    return process
            except (psutil.Error, OSError):
                continue
        time.sleep(0.1)
    return None


def kill_stage(workspace: Path, stage: str, delay: float, alive: Callable[[], bool]) -> str:
    """SIGKILL to the stage's own process, `delay` seconds after it was seen; what happened, in words."""
    process = wait_for_stage(workspace, stage, alive)
    if process is None:
        return f"{stage} was not met"
    time.sleep(delay)
    with contextlib.suppress(Exception):
        process.kill()
        return f"{stage} killed after {delay:.1f} s"
    return f"{stage} had ended before it was killed"


def kill_process(workspace: Path, stage: str, delay: float, alive: Callable[[], bool], victim: int, name: str) -> str:
    """SIGKILL to one process (the flow or the worker) while `stage` works."""
    if wait_for_stage(workspace, stage, alive) is None:
        return f"{stage} was not met"
    time.sleep(delay)
    with contextlib.suppress(ProcessLookupError):
        os.kill(victim, signal.SIGKILL)
    return f"{name} killed {delay:.1f} s into {stage}"


def kill_service(workspace: Path, stage: str, delay: float, alive: Callable[[], bool], service: Service) -> str:
    """SIGKILL to a server while `stage` works."""
    if wait_for_stage(workspace, stage, alive) is None:
        return f"{stage} was not met"
    time.sleep(delay)
    service.kill()
    return f"{service.name} killed {delay:.1f} s into {stage}"


def corrupt_cache(workspace: Path, rng: random.Random) -> str:
    """Change a byte in the middle of a file of DVC's cache, which keeps its name, size and protection."""
    files = sorted(
        path
        for path in (workspace / ".dvc" / "cache" / "files" / "md5").glob("*/*")
        if path.is_file() and path.stat().st_size and not path.name.endswith(".dir")
    )
    chosen = rng.choice(files)
    data = bytearray(chosen.read_bytes())
    data[len(data) // 2] ^= 0xFF
    mode = chosen.stat().st_mode
    chosen.chmod(0o644)
    chosen.write_bytes(data)
    chosen.chmod(mode)
    return f"{chosen.parent.name}{chosen.name[:6]} of the cache corrupted"


def pick(rng: random.Random, stages: Sequence[str]) -> tuple[str, float]:
    """A stage and seconds into it: half of the time right at its beginning, when it reads and opens things."""
    return rng.choice(list(stages)), rng.choice((0.0, rng.uniform(0, 3), rng.uniform(0, 15), rng.uniform(0, 3)))
