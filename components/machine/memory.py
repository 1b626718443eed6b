"""How much memory this process may use, and how much of it a training may take."""

from __future__ import annotations

from pathlib import Path

_UNLIMITED = 2**60  # bytes: control groups of version 1 say a number as large as this where there is no limit


def available_memory() -> int:
    """Bytes that this process may use in all: the machine's, or a container's share of them (cgroup)."""
    import psutil

    machine = int(psutil.virtual_memory().total)
    return min(machine, _container_memory(Path("/sys/fs/cgroup")) or machine)


def free_memory() -> int:
    """Bytes that are free now, of those that this process may use.

    What a container has used counts as free, since most of it is files that the kernel gives up when asked.
    """
    import psutil

    return min(int(psutil.virtual_memory().available), available_memory())


def device_memory(device: str, processes: int = 1) -> float:
    """Bytes that each of `processes` on this machine may train in: its card's, else an equal share of the machine's."""
    if device == "cuda":  # untested on this hardware
        import torch

        return float(torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory)
    return available_memory() / processes


def _container_memory(root: Path) -> int | None:
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        try:
            limit = (root / name).read_text(encoding="ascii").strip()
        except OSError:
            continue
        return int(limit) if limit.isdigit() and 0 < int(limit) < _UNLIMITED else None
    return None
