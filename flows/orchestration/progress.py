"""How far a stage is, as a progress artifact of Prefect, read from the lines that its bars write into a log."""

from __future__ import annotations

import contextlib
import contextvars
import re
import threading
import time
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from flows.orchestration.links import REPORT, RUN, Links

# "  pretrain:  34%, 1:23 left, loss 3.210, 2,000 tokens/s" and "  encode: 100% in 0:12": components.progress writes them.
_LINE = re.compile(
    r"^\s*(?P<label>\S.*?):\s+(?P<percent>\d{1,3})%(?:, (?P<left>\d+(?::\d\d)+) left| in (?:\d+(?::\d\d)+))?(?:, (?P<note>.+))?$"
)
_SECONDS = 5.0  # between two updates: each is a request
_LAST_WORD = 5.0  # seconds that the end of a stage waits for a server that may be away


@dataclass(frozen=True)
class Seen:
    """One line of a bar: `percent` of what `label` names, `left` as a clock ("1:23") or "", and the bar's own note."""

    label: str
    percent: int
    left: str
    note: str

    def __str__(self) -> str:
        return ", ".join(part for part in (self.label, self.left and f"{self.left} left", self.note) if part)


def seen(line: str) -> Seen | None:
    """What a line tells of progress; None for any other line."""
    found = _LINE.match(line)
    if not found or int(found["percent"]) > 100:
        return None
    return Seen(found["label"], int(found["percent"]), found["left"] or "", found["note"] or "")


class StageProgress:
    """The artifact `progress-STAGE` of the task run it is made in; it appears with the first bar. Nothing here can fail a stage or hold it up.

    A thread sends the latest state: Prefect's client asks a server that is away for a minute, and whoever waited would no longer read
    what the stage writes. States that have become old meanwhile are not sent.

    Behind its words stand links to the pipeline's run in MLflow, and to the report card that the workspace has: an earlier run's, until
    this one has come so far.
    """

    def __init__(self, stage: str, links: Links | None = None) -> None:
        self.stage, self.key = stage, f"progress-{stage.replace('_', '-').lower()}"
        self._links = links
        self._artifact: UUID | None = None
        self._told = 0.0
        self._last: Seen | None = None
        self._lock = threading.Lock()
        self._waiting: tuple[float, str] | None = None  # what is to be sent next: percent and words
        self._sender: threading.Thread | None = None

    def line(self, line: str) -> Seen | None:
        """Look at a line of the stage's output and show what it tells, at most every five seconds."""
        found = seen(line)
        if found:
            self._last = found
            if found.percent == 100 or time.monotonic() - self._told >= _SECONDS:
                self._tell(found.percent, str(found))
        return found

    def end(self, words: str, stands: bool) -> None:
        """The last word: `stands` when the stage is up to date, else the bar stays where it was. It takes seconds at most."""
        if self._last is not None:
            note = f", {self._last.note}" if self._last.note else ""
            self._tell(100 if stands else self._last.percent, f"{words}{note}")
            self.sent(_LAST_WORD)

    def sent(self, seconds: float) -> bool:
        """Whether nothing is left to be sent, after `seconds` at most."""
        with self._lock:
            sender = self._sender
        if sender is not None:
            sender.join(seconds)
        return sender is None or not sender.is_alive()

    def _tell(self, percent: float, description: str) -> None:
        self._told = time.monotonic()
        with self._lock:
            self._waiting = percent, description
            if self._sender is None:
                # In the context of the task: it names the run, its client and the server.
                context = contextvars.copy_context()
                self._sender = threading.Thread(target=context.run, args=(self._send,), daemon=True)
                self._sender.start()

    def _send(self) -> None:
        while True:
            with self._lock:
                state, self._waiting = self._waiting, None
                if state is None:
                    self._sender = None
                    return
            with contextlib.suppress(Exception):  # the server is away: the next state tries again
                self._request(*state)

    def _request(self, percent: float, description: str) -> None:
        from prefect.artifacts import create_progress_artifact, update_progress_artifact

        pages = self._links.known() if self._links else {}
        titles = {RUN: RUN, REPORT: "the last report card"}
        shown = [f"[{titles[title]}]({pages[title]})" for title in titles if title in pages]
        description = " · ".join([description, *shown])
        if self._artifact is None:
            created: Any = create_progress_artifact(percent, key=self.key, description=description)
            self._artifact = created
        else:
            update_progress_artifact(self._artifact, percent, description=description)
