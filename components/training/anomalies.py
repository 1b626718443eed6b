"""Steps that go wrong: losses that are no number, spikes of loss or gradient, steps that do not end.

A spike is told by the robust z-score: the distance from the median of the last steps, in units of 1.4826 times the median
absolute deviation, which is one standard deviation of normal data and which outliers hardly move (Iglewicz and Hoaglin
1993). Returning to a checkpoint and leaving out the rows behind it is what Chowdhery et al. 2022 (PaLM, section 5.1) did.
"""

from __future__ import annotations

import math
import os
import statistics
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from components.configuration.training import Anomalies

Action = Literal["record", "skip", "roll_back", "stop"]
_AT_LEAST = 10  # steps that must have been seen before any is judged
_STEPS_KNOWN = 5  # steps that must have been seen before one is a stall by their median
_NOTHING_KNOWN = 1800.0  # seconds that anything may take of which it is not known how long it usually takes


@dataclass(frozen=True)
class Verdict:
    """What is wrong with a step, in words, and what is to be done."""

    action: Action
    reason: str


class Judge:
    """Judges every step by its loss and gradient norm. Its state is part of a checkpoint."""

    def __init__(self, parameters: Anomalies) -> None:
        self.parameters = parameters
        self.losses: deque[float] = deque(maxlen=parameters.window)
        self.norms: deque[float] = deque(maxlen=parameters.window)
        self.recorded = self.left_out = self.rolled_back = 0

    def look(self, loss: float, norm: float) -> Verdict | None:
        """The verdict on a step of that loss (nats a token) and norm of the gradient; None when nothing is wrong."""
        verdict = self._not_finite(loss, norm) or self._spike(loss, norm)
        if verdict is None or verdict.action == "record":
            self.losses.append(loss)
            self.norms.append(norm)
        if verdict is None:
            return None
        match verdict.action:
            case "record":
                self.recorded += 1
            case "skip":
                self.left_out += 1
            case "roll_back":
                self.rolled_back += 1
        maximum = self.parameters.maximum
        if verdict.action != "stop" and self.left_out + self.rolled_back > maximum:
            return Verdict("stop", f"{verdict.reason}, and {maximum} steps were left out or rolled back before")
        return verdict

    def state_dict(self, events: bool = True) -> dict[str, Any]:
        """What it has seen; with `events` also what was done."""
        seen: dict[str, Any] = {"losses": list(self.losses), "norms": list(self.norms)}
        return seen | ({"done": (self.recorded, self.left_out, self.rolled_back)} if events else {})

    def load_state_dict(self, state: dict[str, Any], events: bool = True) -> None:
        """Take up a saved state; without `events` the counts stay, because what was done stays done."""
        self.losses = deque(state["losses"], self.parameters.window)
        self.norms = deque(state["norms"], self.parameters.window)
        if events:
            self.recorded, self.left_out, self.rolled_back = state["done"]

    def _not_finite(self, loss: float, norm: float) -> Verdict | None:
        if math.isfinite(loss) and math.isfinite(norm):
            return None
        what = "gradient" if math.isfinite(loss) else "loss"
        return Verdict(self.parameters.not_finite, f"the {what} is {norm if what == 'gradient' else loss}")

    def _spike(self, loss: float, norm: float) -> Verdict | None:
        if len(self.losses) < max(_AT_LEAST, self.parameters.window // 4):
            return None
        for what, value, seen in (("loss", loss, self.losses), ("gradient norm", norm, self.norms)):
            score = robust_z_score(value, seen)
            if score > self.parameters.z_score:
                usual = statistics.median(seen)
                return Verdict(
                    self.parameters.spike,
                    f"{what} {value:.4g} where {usual:.4g} is usual ({score:.1f} robust standard deviations)",
                )
        return None


def robust_z_score(value: float, seen: Iterable[float]) -> float:
    """Distance of `value` from the median of `seen` in robust standard deviations; negative below it.

    Where nearly all values are equal, a hundredth of the median is taken for a deviation.
    """
    values = list(seen)
    middle = statistics.median(values)
    deviation = 1.4826 * statistics.median(abs(other - middle) for other in values)
    return (value - middle) / max(deviation, 0.01 * abs(middle), 1e-12)


@dataclass(frozen=True)
class _Doing:
    """What a run does since `since` (seconds of the monotonic clock): step number `step`, or what follows it."""

    step: int
    follows: bool
    since: float

    @property
    def name(self) -> str:
        return (
            f"what follows step {self.step} (validation, samples, checkpoints)" if self.follows else f"step {self.step}"
        )

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.since


class StallWatch:
    """Tells what takes too long, while it still hangs and when it has ended.

    Of a step that is more than `factor` times the median of the last ones. Before five are known (the first ones compile),
    and for what comes between two steps, which is mostly nothing and at times a validation, it is half an hour, or `factor`
    times the longest that came between two if that is more.

    stop: what ends the process where something has hung for twice as long; it is told why. Times are of the machine and not
    of the run: they change no weight.
    """

    def __init__(
        self,
        factor: float,
        tell: Callable[[str], None],
        window: int = 50,
        poll: float = 1.0,
        stop: Callable[[str], None] | None = None,
    ) -> None:
        self.factor, self.tell, self.poll, self.stop = factor, tell, poll, stop
        self.stalls = 0
        self._seconds: deque[float] = deque(maxlen=window)  # of steps
        self._longest = 0.0  # seconds between two steps, stalls left out
        self._doing: _Doing | None = None
        self._told: _Doing | None = None
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> StallWatch:
        self._thread = threading.Thread(target=self._watch, name="stall-watch", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        if self._thread:
            self._thread.join()

    def begin(self, step: int) -> None:
        """A step begins, with reading what it trains on; what followed the one before has ended."""
        self._finish()
        self._doing = _Doing(step, False, time.monotonic())

    def end(self) -> None:
        """It has ended; what follows until the next one begins is watched too."""
        if self._doing is None or self._doing.follows:
            return
        step = self._doing.step
        self._finish()
        self._doing = _Doing(step, True, time.monotonic())

    def _finish(self) -> None:
        doing, self._doing = self._doing, None
        if doing is None:
            return
        seconds, (limit, reason) = doing.seconds, self._limit(doing)
        if seconds > limit:
            self.stalls += 1
            self.tell(f"{doing.name} took {seconds:.1f} s, {reason}")
        if not doing.follows:
            self._seconds.append(seconds)  # a median does not mind the first, which compiles
        elif seconds <= limit:
            self._longest = max(self._longest, seconds)

    def _limit(self, doing: _Doing) -> tuple[float, str]:
        """Seconds that it may take, and why."""
        seen = tuple(self._seconds)  # two threads: the other must not meet a change while it reads
        if not doing.follows and len(seen) >= _STEPS_KNOWN:
            usual = statistics.median(seen)
            return self.factor * usual, f"where {usual:.2g} s is usual"
        limit = max(_NOTHING_KNOWN, self.factor * self._longest) if doing.follows else _NOTHING_KNOWN
        return limit, f"where {limit:.0f} s would be long"

    def _watch(self) -> None:
        while not self._ended.wait(self.poll):
            doing = self._doing
            if doing is None:
                continue
            seconds, (limit, reason) = doing.seconds, self._limit(doing)
            if seconds > limit and doing is not self._told:
                self._told = doing
                self.tell(f"{doing.name} has been going on for {seconds:.1f} s and does not end")
            if self.stop is not None and seconds > 2 * limit:
                self.stop(f"{doing.name} has been going on for {seconds:.1f} s, {reason}")
                return


def end_process(label: str, reason: str) -> None:
    """End this process with a sentence and status 2, whatever its main thread hangs in."""
    print(
        f"{label}: training stopped: {reason} (anomalies.stall = 'stop'). The same command goes on from the last checkpoint.",
        file=sys.stderr,
        flush=True,
    )
    os._exit(2)
