"""How many cores this process may use."""

from __future__ import annotations

import os
from pathlib import Path

# how many processes share the cores that this one is allowed, and how many share the container's processor time
_sharing_cores = _sharing_time = 1
# cores that all of them are allowed, where this one's affinity is a part of them by now
_together: int | None = None


def choose_threads(wanted: int | None) -> int:
    """Threads of this process: as asked, else the cores that it may use."""
    return wanted or available_cores()


def share_cores(processes: int, *, divided: bool, together: int | None = None) -> None:
    """So many processes of this machine work together from now on, and each takes its part in `available_cores`.

    divided: the affinity of each is its own part already; a container's share of processor time is everybody's even so.
    together: cores of all of them, where they are divided; some may belong to nobody.
    """
    global _sharing_cores, _sharing_time, _together
    _sharing_cores, _sharing_time, _together = 1 if divided else processes, processes, together


def available_cores() -> int:
    """Cores that this process may use: its affinity, and a container's share of processor time (cgroup), rounded up.

    Of several processes that work together, a part of both (`share_cores`).
    """
    cores = allowed_cores() // _sharing_cores
    quota = _container_cores(Path("/sys/fs/cgroup"))
    return max(1, cores if quota is None else min(cores, quota // _sharing_time))


def cores_together() -> int:
    """Cores that this process and those that it works with on this machine may use: as many before they are divided as after."""
    cores = _together or allowed_cores()
    quota = _container_cores(Path("/sys/fs/cgroup"))
    return max(1, cores if quota is None else min(cores, quota))


def allowed_cores() -> int:
    """Cores that the system lets this process run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)


def _container_cores(root: Path) -> int | None:
    try:
        if (root / "cpu.max").exists():
            quota, period = (root / "cpu.max").read_text(encoding="ascii").split()
        else:  # cgroup v1
            quota, period = (
                (root / "cpu" / f"cpu.cfs_{kind}_us").read_text(encoding="ascii").strip()
                for kind in ("quota", "period")
            )
        return -(-int(quota) // int(period)) if quota.isdigit() else None
    except (OSError, ValueError, ZeroDivisionError):
        return None
