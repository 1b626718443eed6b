"""A training command on the clock: started, watched, and ended when its time is long over."""

from __future__ import annotations

import os
import re
import shutil
import statistics
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

from components.errors import InkwellError
from components.machine.allocator import settings_for
from flows.processes import Command, environment, terminating

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Timed:
    """Wall seconds of a command, from its start: of all of it, and of every optimizer step that it told (step, seconds)."""

    seconds: float
    steps: list[tuple[int, float]] = field(default_factory=list)

    @property
    def trained(self) -> float:
        """Seconds until the last optimizer step had ended; what follows (saving, scoring) is nobody's training."""
        return self.steps[-1][1] if self.steps else self.seconds

    @property
    def first(self) -> float:
        """Seconds until the first step had ended: imports, data, compiling."""
        return self.steps[0][1]

    @property
    def pace(self) -> float:
        """Seconds a step: the median of the later half, when everything has been compiled."""
        moments = self.steps[len(self.steps) // 2 :] if len(self.steps) > 3 else self.steps
        paces = [
            (after[1] - before[1]) / (after[0] - before[0])
            for before, after in pairwise(moments)
            if after[0] > before[0]
        ]
        if not paces:
            raise InkwellError("a run of fewer than two steps tells no speed: give it more time (--minutes).")
        return statistics.median(paces)


def steps_within(probe: Timed, seconds: float) -> int:
    """Optimizer steps that fit into `seconds` of wall time, at the speed of `probe`."""
    return max(2, 1 + int((seconds - probe.first) / probe.pace))


def timed(
    command: Sequence[str],
    folder: Path,
    limit: float,
    step: Callable[[str], int | None],
    variables: Mapping[str, str] | None = None,
    first_only: bool = False,
) -> Timed:
    """Run `command` in `folder`; its output goes to `folder`/log.txt.

    step: the optimizer step that a line of output says has ended, or None. `limit`: seconds after which the whole process
    group is ended; InkwellError then, and when the command fails, with the last lines that it said. `first_only`: it is
    ended when it has told of a first step, having compiled what it needs.
    """
    folder.mkdir(parents=True, exist_ok=True)
    env = environment() | {"PYTHONPATH": str(ROOT), **(variables or {})}
    last: deque[str] = deque(maxlen=12)
    steps: list[tuple[int, float]] = []
    began = time.monotonic()
    with (
        (folder / "log.txt").open("w", encoding="utf-8") as log,
        terminating(),
        Command(command, folder, env, together=True) as running,
    ):
        running.end_after(limit)
        for line in running.lines():
            now = time.monotonic() - began
            reached = step(line)
            if reached is not None and (not steps or reached > steps[-1][0]):
                steps.append((reached, now))
            log.write(f"{now:9.2f}  {line}\n")
            if line.strip():
                last.append(line.strip())
            if first_only and steps:
                break
        if first_only and steps:
            running.end()
            return Timed(time.monotonic() - began, steps)
        status = running.wait()
        seconds = time.monotonic() - began
        late = running.timed_out
    if late:
        raise InkwellError(f"{_shown(command)} had not ended after {limit:.0f} s (its output: {folder / 'log.txt'}).")
    if status:
        raise InkwellError(
            f"{_shown(command)} ended with status {status} (its output: {folder / 'log.txt'}): {' / '.join(last)}"
        )
    return Timed(seconds, steps)


def marked(pattern: str) -> Callable[[str], int | None]:
    """Reads the step from the first group of `pattern`."""
    compiled = re.compile(pattern)

    def read(line: str) -> int | None:
        found = compiled.search(line)
        return int(found[1]) if found else None

    return read


def allocator() -> dict[str, str]:
    """Variables of the allocator's settings, as our own steps give them to themselves: every contender gets them."""
    return settings_for("glibc", os.environ)


def compile_cache(folder: Path, fresh: bool) -> dict[str, str]:
    """Variables that keep what torch.compile makes in `folder`; `fresh`: nothing of it is there before."""
    if fresh:
        shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    return {"TORCHINDUCTOR_CACHE_DIR": str(folder)}


def _shown(command: Sequence[str]) -> str:
    return " ".join([Path(command[0]).name, *command[1:]])
