"""How many cores this process may use."""

from __future__ import annotations

import os
from pathlib import Path


def choose_threads(wanted: int | None) -> int:
    """Threads of this process: as asked, else the cores that it may use."""
    return wanted or available_cores()


def available_cores() -> int:
    """Cores that this process may use: its affinity, and a container's share of processor time (cgroup), rounded up."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
    return max(1, min(cores, _container_cores(Path("/sys/fs/cgroup")) or cores))


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
