"""How busy the machine is while a step runs: MLflow's system metrics, which its pages show on a tab of their own.

Measured by the process that delivers the record, so that the step spends no time on it, and written to the record like the step's own
points: a server that is away misses none of them. They are the machine's, with all that runs on it. A step that is shorter than the interval has none.
"""

from __future__ import annotations

import contextlib
import time
from typing import Any

from components.tracking.spool import Record, milliseconds

EVERY = 10.0  # seconds between two points: MLflow's own default


class Load:
    """The points of one step's run. Where something cannot be measured, it is left out."""

    def __init__(self, every: float = EVERY) -> None:
        self._every = every
        self._due = time.monotonic() + every
        self._points = 0
        self._monitors = _monitors()
        self._values()  # shares of the processor are told since the last look: the first one tells nothing

    def tell(self, record: Record) -> None:
        """Add a point to the record when it is time for one."""
        now = time.monotonic()
        if now < self._due:
            return
        self._due = now + self._every
        values = self._values()
        if not values:
            return
        with contextlib.suppress(OSError):  # a full disk: the step will tell of it
            record.append({"kind": "metrics", "at": milliseconds(), "step": self._points, "values": values})
            self._points += 1

    def _values(self) -> dict[str, float]:
        found: dict[str, float] = {}
        for monitor in list(self._monitors):
            try:
                monitor.collect_metrics()
                found |= {f"system/{name}": float(value) for name, value in monitor.aggregate_metrics().items()}
                monitor.clear_metrics()
            except Exception:  # a driver that answers no more is no reason to end a delivery
                self._monitors.remove(monitor)
        return found


def _monitors() -> list[Any]:
    import importlib

    found = []
    for name in ("CPU", "Disk", "Network", "GPU"):
        try:
            module = importlib.import_module(f"mlflow.system_metrics.metrics.{name.lower()}_monitor")
            found.append(getattr(module, f"{name}Monitor")())
        except Exception:  # no accelerator, no driver, no permission: it is left out
            continue
    return found
