"""Whether others keep this machine busy: what is measured on it now may not hold in an hour."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass

_BUSY = 0.9  # share of the wanted cores below which the machine counts as busy
_SECONDS = 0.4


@dataclass(frozen=True)
class Interference:
    """What a process that wants `threads` cores gets.

    share: of the processor time that it asked for, 0 to 1; others: cores that other processes kept busy meanwhile;
    stolen: cores that the hypervisor gave to other machines (0 where that is not known).
    """

    threads: int
    share: float
    others: float
    stolen: float

    @property
    def busy(self) -> bool:
        """Whether timings taken now would speak of others' work too."""
        return self.share < _BUSY

    def __str__(self) -> str:
        stolen = f", the hypervisor takes {self.stolen:.1f}" if self.stolen >= 0.05 else ""
        return (
            f"the machine is busy: a process that wants {self.threads} {'core' if self.threads == 1 else 'cores'} gets "
            f"{self.share:.0%} of that (others use {self.others:.1f}{stolen})"
        )


def interference(threads: int, seconds: float = _SECONDS) -> Interference:
    """Multiply matrices on `threads` threads for `seconds`, and see how much of the processors' time that was given."""
    import psutil
    import torch

    from components.machine.ceiling import threads_set

    matrix = torch.ones(512, 512)
    with threads_set(threads), torch.no_grad():
        torch.mm(matrix, matrix)
        before, own, started = psutil.cpu_times(), time.process_time(), time.perf_counter()
        while time.perf_counter() - started < seconds:
            torch.mm(matrix, matrix)
        passed, used, after = time.perf_counter() - started, time.process_time() - own, psutil.cpu_times()
    idle = sum(getattr(after, name, 0.0) - getattr(before, name, 0.0) for name in ("idle", "iowait"))
    stolen = (getattr(after, "steal", 0.0) - getattr(before, "steal", 0.0)) / passed
    busy = (os.cpu_count() or 1) - idle / passed - used / passed - stolen
    return Interference(threads, min(1.0, used / (passed * threads)), max(0.0, busy), max(0.0, stolen))
