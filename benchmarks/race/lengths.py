"""Runs that end when the time does: one that took another time than it had is repeated."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

MARGIN = 0.99  # speed is not known to the percent
OVERRUN = 1.02  # a run that took longer than this share of the time is repeated with less
SHORT = 0.96  # a run of the others that took less than this share is repeated with more: the time is theirs
_AGAIN = 2  # times

Length = TypeVar("Length", int, float)


def in_time(seconds: float, train: Callable[[float], dict[str, Any]]) -> dict[str, Any]:
    """A run of Inkwell in `seconds` of wall time: `train` is told what seconds to plan for, and again, with less, where it took longer.

    What it takes beside training does not grow with the run, so it is given less by what it was late.
    """
    return _repeated(
        seconds,
        seconds * MARGIN,
        train,
        lambda planned, took: max(0.1 * seconds, planned - (took - seconds * MARGIN)),
        0.0,
        "{:.0f} s",
    )


def steps_in_time(seconds: float, steps: int, train: Callable[[int], dict[str, Any]]) -> dict[str, Any]:
    """A run of `steps` in `seconds` of wall time, again with more or fewer where it took less or longer.

    A few steps have promised another pace than thousands keep, so their number changes with the pace.
    """
    return _repeated(
        seconds, steps, train, lambda planned, took: max(1, int(planned * seconds * MARGIN / took)), SHORT, "{} steps"
    )


def _repeated(
    seconds: float,
    length: Length,
    train: Callable[[Length], dict[str, Any]],
    another: Callable[[Length, float], Length],
    least: float,
    told: str,
) -> dict[str, Any]:
    done = train(length)
    for _ in range(_AGAIN):
        if least * seconds <= done["trained"] <= OVERRUN * seconds:
            break
        length = another(length, done["trained"])
        print(f"  it took {done['trained']:.0f} s of {seconds:.0f}: again, with {told.format(length)}", flush=True)
        done = train(length)
    return done
