"""The log of a run that a person reads afterwards: what happened to it and when, restarts included.

It holds times, so it is no output of a step: it lies in `.inkwell/runs/<step>/<run>/run.log`, stays there when the run has ended,
and goes to MLflow with it.
"""

from __future__ import annotations

import sys
from datetime import datetime
from pathlib import Path

_END = "end: "


class RunLog:
    """Lines with their time, appended to a file; without a path nothing is written.

    A line that cannot be written is shown on standard error and does not stop the run.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.path = path

    def closed(self) -> bool:
        """Whether the last line was written by `close`: otherwise the process that wrote it was killed."""
        try:
            lines = self.path.read_text(encoding="utf-8").splitlines() if self.path else []
        except OSError:
            return False
        return bool(lines) and _END in lines[-1]

    def close(self, text: str) -> None:
        """Append the last line of a process."""
        self.add(f"{_END}{text}")

    def add(self, text: str) -> None:
        """Append one line."""
        if self.path is None:
            return
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a", encoding="utf-8") as handle:
                handle.write(f"{datetime.now().astimezone().isoformat(sep=' ', timespec='seconds')}  {text}\n")
        except OSError as error:
            print(f"  the run log cannot be written ({error.strerror or error}): {text}", file=sys.stderr, flush=True)
