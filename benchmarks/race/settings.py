"""What is searched in the race: the others' best learning rate and batch, the least time in which Inkwell reaches the target."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import inf, isfinite

BUDGETS = (0.025, 0.035, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5)  # shares of the best peer's time, tried from 0.1 on
_FIRST = BUDGETS.index(0.1)
BEYOND = 3.0  # times or over the best rate, where that is the largest or smallest of those that were tried


def tuned(
    rates: Sequence[float], batches: Sequence[int], bits: Callable[[float, int], float]
) -> tuple[float, int, dict[tuple[float, int], float]]:
    """(rate, batch) of the fewest `bits`: rates at the middle batch first, then the other batches at the best rate.

    Where the best is the smallest or the largest that was tried, one beyond it is tried too: a third or three times of a
    rate, half or twice a batch. Also what was tried.
    """
    found: dict[tuple[float, int], float] = {}

    def best(among: Sequence[tuple[float, int]]) -> tuple[float, int]:
        for rate, batch in among:
            if (rate, batch) not in found:
                value = bits(rate, batch)
                found[rate, batch] = value if isfinite(value) else inf  # it diverged
        return min(among, key=lambda pair: found[pair])

    middle = batches[len(batches) // 2]
    tried = [(rate, middle) for rate in sorted(rates)]
    rate, _ = best(tried)
    if len(rates) > 1 and rate in (min(rates), max(rates)):
        beyond = float(f"{rate * BEYOND if rate == max(rates) else rate / BEYOND:.3g}")
        rate, _ = best([*tried, (beyond, middle)])
    _, batch = best([(rate, rows) for rows in batches])
    if len(batches) > 1 and batch in (min(batches), max(batches)):
        further = batch * 2 if batch == max(batches) else max(1, batch // 2)
        _, batch = best([(rate, rows) for rows in (*batches, further)])
    return rate, batch, found


def smallest(reaches: Callable[[float], bool], holds: Callable[[float], bool]) -> float | None:
    """The smallest budget that reaches the target, looked for from a tenth on: down while it `reaches`, else up.

    What was found has to hold for every seed; where it does not, the next larger one is asked. None: not even the largest.
    """
    at = _FIRST
    if reaches(BUDGETS[at]):
        while at > 0 and reaches(BUDGETS[at - 1]):
            at -= 1
    else:
        at += 1
    return next((share for share in BUDGETS[at:] if reaches(share) and holds(share)), None)
