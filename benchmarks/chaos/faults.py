"""The blows: each waits for its moment in a pipeline that runs, breaks one thing, and says whether anything broke."""

from __future__ import annotations

import contextlib
import os
import random
import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import psutil

    from benchmarks.chaos.services import Service
    from flows.orchestration.graph import Stage

FAULTS = ("stage", "worker", "server", "database", "disk", "mlflow", "s3", "two", "cache")
_PATIENCE = 1800.0  # seconds to wait for a stage that was to be met
_UNKNOWN = 3.0  # seconds that a stage is taken to last where nobody has measured it


@dataclass(frozen=True)
class Strike:
    """Whether a fault has broken something while a pipeline worked, and what happened, in words."""

    struck: bool
    words: str


@dataclass(frozen=True)
class Moment:
    """When a blow falls: `delay` seconds after a process of `stage`, which runs `command`, was seen at work."""

    stage: str
    command: str
    delay: float


def wait_for_stage(workspace: Path, moment: Moment, alive: Callable[[], bool]) -> psutil.Process | None:
    """The process of the stage in `workspace`, once it works; None when the pipeline has ended before."""
    import psutil

    root, wanted = workspace.resolve(), shlex.split(moment.command)[1:]  # which Python it is does not matter
    deadline = time.monotonic() + _PATIENCE
    while alive() and time.monotonic() < deadline:
        for process in psutil.process_iter():
            try:
                if process.cmdline()[1:] == wanted and Path(process.cwd()).is_relative_to(root):
                    return process
            except (psutil.Error, OSError):
                continue
        time.sleep(0.1)
    return None


def kill_stage(workspace: Path, moment: Moment, alive: Callable[[], bool]) -> Strike:
    """SIGKILL to the stage's own process."""
    import psutil

    process = wait_for_stage(workspace, moment, alive)
    if process is None:
        return Strike(False, f"{moment.stage} was not met")
    time.sleep(moment.delay)
    with contextlib.suppress(psutil.NoSuchProcess):
        if process.status() != psutil.STATUS_ZOMBIE:
            process.kill()
            return Strike(True, f"{moment.stage} killed after {moment.delay:.1f} s")
    return Strike(False, f"{moment.stage} had ended before it was killed")


def kill_service(workspace: Path, moment: Moment, alive: Callable[[], bool], service: Service) -> Strike:
    """SIGKILL to a server or a worker while the stage works."""
    if wait_for_stage(workspace, moment, alive) is None:
        return Strike(False, f"{moment.stage} was not met")
    time.sleep(moment.delay)
    if not alive() or not service.alive():
        return Strike(False, f"the pipeline or the {service.name} had ended before the kill")
    service.kill()
    return Strike(True, f"{service.name} killed {moment.delay:.1f} s into {moment.stage}")


def kill_isolated(workspace: Path, stage: str) -> bool:
    """SIGKILL to the process that runs `stage` in a clone, as when its machine dies; whether there was one."""
    import psutil

    for process in psutil.process_iter():
        try:
            words = process.cmdline()
            if words[1:3] != ["-m", "flows.placement.worker"] or stage not in words:
                continue
            if Path(process.cwd()).is_relative_to(workspace.resolve()):
                process.kill()
                return True
        except (psutil.Error, OSError):
            continue
    return False


def damage_cache(workspace: Path, output: str, rng: random.Random) -> str:
    """Change a byte in the middle of a file from which DVC would restore `output`; what was done, in words.

    Name, size, protection and time of the file stay as they were: nothing but its bytes tells.
    """
    from dvc.repo import Repo
    from dvc_data.hashfile.hash_info import HashInfo
    from dvc_data.hashfile.tree import Tree

    from flows.promotion.kept import locked

    value = locked(workspace, [output])[output]
    with Repo(str(workspace)) as repo:
        cache = repo.cache.local
        names = [value]
        if value.endswith(".dir"):
            names += [str(info.value) for _, _, info in Tree.load(cache, HashInfo("md5", value))]
        paths = [Path(cache.oid_to_path(name)) for name in sorted(set(names))]
    chosen = rng.choice([path for path in paths if path.stat().st_size])
    before = chosen.stat()
    data = bytearray(chosen.read_bytes())
    data[len(data) // 2] ^= 0xFF
    chosen.chmod(0o644)
    chosen.write_bytes(data)
    chosen.chmod(before.st_mode & 0o777)
    os.utime(chosen, ns=(before.st_atime_ns, before.st_mtime_ns))
    return f"{chosen.parent.name}{chosen.name[:6]} of the cache damaged, of {output}"


def pick(rng: random.Random, stages: Sequence[Stage], seconds: Mapping[str, float], at_once: bool = False) -> Moment:
    """A moment in a pipeline: every third time right at a stage's beginning, when it reads and opens things, and so always with `at_once`.

    `seconds`: how long stages took when nothing broke.
    """
    stage = rng.choice(list(stages))
    share = rng.choice((0.0, rng.uniform(0, 0.9), rng.uniform(0, 0.9)))
    delay = 0.0 if at_once else share * seconds.get(stage.name, _UNKNOWN)
    return Moment(stage.name, stage.command, delay)
