"""How fast a run trains: seconds of training steps, and nothing else."""

from __future__ import annotations

import time


class Clock:
    """Tokens and seconds of training steps, over all processes that worked on a run.

    The first step of a process is left out, because it compiles; so is what `pause` keeps out.
    """

    def __init__(self) -> None:
        self.tokens = 0
        self.seconds = 0.0
        self._last: float | None = None
        self._warm = False

    def begin(self) -> None:
        """A step begins; after a pause time runs again from here."""
        if self._warm and self._last is None:
            self._last = time.perf_counter()

    def tick(self, tokens: int) -> None:
        """A step of that many predicted tokens has ended."""
        now = time.perf_counter()
        if self._last is not None:
            self.tokens += tokens
            self.seconds += now - self._last
        self._last, self._warm = now, True

    def pause(self) -> None:
        """What follows (validation, samples, a checkpoint) is not training."""
        self._last = None

    @property
    def rate(self) -> float:
        """Predicted tokens a second."""
        return self.tokens / self.seconds if self.seconds else 0.0
