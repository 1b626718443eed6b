"""A short calibration: which choices train fastest on this machine, tried on steps of the model that is to be trained.

One choice after the other is compared with what is best so far, in turns (A B, B A, A B), so that a machine that slows down
slows both. To leave a default a candidate must win every round and more than 3 % in the median; one that falls far behind is
dropped after the first. What was found is kept by `components.machine.cache`.
"""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from components.machine.choices import Choices

SECONDS = 20.0  # of a calibration that finds nothing in the cache, at most; one step that is under way may exceed it
WORTH = 1.03  # a candidate must be this much faster than what it replaces
_HOPELESS = 0.8  # slower than that in the first round: no second one
_UNLIKELY = 0.97  # slower than that after two: no third one
_ROUNDS = 3
_WHOLE = ("micro_batch_parts",)  # choices that only micro-batches of the run's own size can tell about
_SHORTEST, _LONGEST = 0.15, 0.7  # seconds of one measurement


class Trial(Protocol):
    """Training steps of one model, run under any choices.

    identity: of all that rates depend on, apart from choices and machine; operations: floating-point operations a trained
    token; memory: bytes that it takes beside the run; parts, attention: values of those choices that the model bears;
    fused: whether it has fused equivalents.
    """

    identity: str
    operations: float
    memory: int
    parts: Sequence[int]
    attention: Sequence[str]
    fused: bool
    compiles: bool

    def rate(self, choices: Choices, seconds: float, whole: bool = False) -> float:
        """Trained tokens a second, measured for about `seconds`; never compiled. Leaves all generators as they were.

        whole: micro-batches as large as the run's, where a few rows might do for other comparisons.
        """
        ...

    def release(self) -> None:
        """Give memory back; the trial can be used again."""
        ...


@dataclass(frozen=True)
class Comparison:
    """One candidate against what was best when it was tried: `ratio` of the rates (median over the rounds)."""

    choice: str
    value: Any
    against: Any
    rate: float
    ratio: float
    rounds: int
    kept: bool


@dataclass(frozen=True)
class Calibration:
    """What a calibration found: the fastest choices with their rate (tokens a second), and every comparison."""

    choices: Choices
    rate: float
    table: tuple[Comparison, ...]
    seconds: float
    complete: bool  # all candidates were tried before the time was over

    def gains(self) -> dict[str, float]:
        """By choice: how many times as fast the value that was taken is as the best other one that was tried."""
        return {name: gain for name, (gain, _, _) in self._against_best_other().items()}

    def words(self) -> list[str]:
        """The same for people: "threads 2 (1.61 x 1)": 1.61 times as fast as 1 thread."""
        return [
            f"{name.replace('_', ' ')} {_shown(taken)} ({gain:.2f} x {_shown(other)})"
            for name, (gain, taken, other) in self._against_best_other().items()
        ]

    def _against_best_other(self) -> dict[str, tuple[float, Any, Any]]:
        """(gain, value taken, best other value) by choice."""
        found: dict[str, tuple[float, Any, Any]] = {}
        for name in dict.fromkeys(row.choice for row in self.table):
            rows = [row for row in self.table if row.choice == name]
            taken = next((row for row in reversed(rows) if row.kept), None)
            losers = rows[rows.index(taken) + 1 :] if taken else rows
            others = [(1 / row.ratio, row.against, row.value) for row in losers if row.ratio]
            if taken:
                others.append((taken.ratio, taken.value, taken.against))
            if others:
                found[name] = min(others, key=lambda one: one[0])
        return found


def calibrate(
    start: Choices,
    candidates: Mapping[str, Sequence[Any]],
    trial: Trial,
    seconds: float = SECONDS,
    *,
    only_measured: Collection[str] = (),
    clock: Callable[[], float] = time.perf_counter,
) -> Calibration:
    """Choices that train fastest, beginning at `start`, and the rates that were measured on the way.

    candidates: values to try by the name of a field of Choices, the likeliest to matter first; of one field's values the
    nearest first, for when one loses, those behind it are not tried. A candidate that cannot run (RuntimeError: too little
    memory, an operation that is missing) counts as infinitely slow. only_measured: choices that are tried for the record
    and not taken.
    """
    began = clock()
    tries = sum(len(values) for values in candidates.values())
    each = max(_SHORTEST, min(_LONGEST, seconds / (2 * _ROUNDS * max(1, tries))))
    best, rate = start, trial.rate(start, each)
    table: list[Comparison] = []
    complete = True
    for name, values in candidates.items():
        for value in values:
            if clock() - began + 2 * each > seconds:
                complete = False
                break
            other = dataclasses.replace(best, **{name: value})
            rates, references = _compare(trial, best, other, each, name in _WHOLE, lambda: clock() - began > seconds)
            ratios = [found / reference for found, reference in zip(rates, references, strict=True)]
            ratio, found = statistics.median(ratios), statistics.median(rates)
            kept = len(ratios) > 1 and min(ratios) > 1.0 and ratio > WORTH and name not in only_measured
            table.append(Comparison(name, value, getattr(best, name), found, ratio, len(ratios), kept))
            rate = found if kept else statistics.median(references)
            if not kept:
                break
            best = other
    return Calibration(best, rate, tuple(table), clock() - began, complete)


def _compare(
    trial: Trial, best: Choices, other: Choices, seconds: float, whole: bool, over: Callable[[], bool]
) -> tuple[list[float], list[float]]:
    """Rates of `other` and of `best`, round by round."""
    rates: list[float] = []
    references: list[float] = []
    for number in range(_ROUNDS):
        turns = (other, best) if number % 2 else (best, other)
        try:
            measured = [trial.rate(choices, seconds, whole) for choices in turns]
        except RuntimeError:
            return [0.0], [trial.rate(best, seconds, whole)]
        if not number % 2:
            measured.reverse()
        rates.append(measured[0])
        references.append(measured[1])
        middle = statistics.median(rate / reference for rate, reference in zip(rates, references, strict=True))
        if (number == 0 and middle < _HOPELESS) or (number == 1 and middle < _UNLIKELY) or over():
            break
    return rates, references


def _shown(value: Any) -> str:
    return {"auto": "on"}.get(str(value), str(value))
