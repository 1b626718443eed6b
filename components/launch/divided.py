"""A step that finds, once it knows its model and has measured, that several processes would do its work faster."""

from __future__ import annotations


class Divided(Exception):  # noqa: N818 - word to the step's caller, not a failure
    """Raised before any work is done: `components.step` starts the same command in `processes` processes."""

    def __init__(self, processes: int) -> None:
        super().__init__(f"{processes} processes would be faster")
        self.processes = processes
