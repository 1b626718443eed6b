"""What happened while models were trained, as the run logs tell it: restarts, spikes, stalls, and when.

A run log holds times and is no output of a step, so it is looked for where training leaves it (`components/training/run.py`): the page
shows the newest log of each step on this machine, and says from which file it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from components.errors import InkwellError
from components.step import STATE

TRAINED = ("pretrain", "sft")
SHOWN = 200  # lines of a log; the first and the last of a longer one


@dataclass(frozen=True)
class ShownLog:
    """The log of one run: its first and last lines, how many between them were left out, and how often it was started again."""

    step: str
    path: str
    first: list[str]
    left_out: int
    last: list[str]
    restarts: int


def newest_logs(state: Path = STATE) -> list[ShownLog]:
    """The newest run log of each training step; steps without one are left out. Raises InkwellError for an unreadable one."""
    found = []
    for step in TRAINED:
        logs = sorted((state / "runs" / step).glob("*/run.log"), key=lambda path: path.stat().st_mtime)
        if logs:
            found.append(_shown(step, logs[-1]))
    return found


def _shown(step: str, path: Path) -> ShownLog:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InkwellError(f"{path} cannot be read ({error}): remove it, or run the step {step} again.") from error
    if len(lines) <= SHOWN:
        first, left_out, last = lines, 0, []
    else:
        first, last = lines[: SHOWN // 2], lines[-SHOWN // 2 :]
        left_out = len(lines) - SHOWN
    return ShownLog(step, path.as_posix(), first, left_out, last, sum("  started again" in line for line in lines))
