"""How far a corpus lies from the one that was accepted last, and where."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from components.corpus.statistics import STATISTICS
from components.validate.check import Contract, Suite

if TYPE_CHECKING:
    from components.configuration import Validate
    from components.configuration.validate import Drift

# Characters of one text are not independent draws: so many count as one when chance is reckoned.
_CHARACTERS_A_DRAW = 3
_LENGTHS = "lengths"
_MEND = (
    "look at what changed; if it is meant, accept the corpus (python -m components.validate.accept), else mend the sources, "
    "or allow more by validate.drift"
)
_CLAIMS = {
    "size": "The corpus is about as large as the accepted one",
    _LENGTHS: "Documents are about as long",
    "languages": "Languages have about the same shares",
    "scripts": "Scripts have about the same shares",
    "sources": "Sources have about the same shares",
    "outcomes": "Cleaning keeps and drops about the same shares",
    "characters": "Characters have about the same shares",
}


@dataclass(frozen=True)
class Comparison:
    """One distribution then and now: `distance`, what is `allowed` (chance included), and the change in words."""

    what: str
    measure: str
    distance: float
    allowed: float
    told: str
    statistic: bool = False  # one of components.corpus.statistics, which share one expectation

    @property
    def drifted(self) -> bool:
        """Whether it lies further than allowed."""
        return self.distance > self.allowed


def compare(accepted: Mapping[str, Any], now: Mapping[str, Any], allowed: Drift) -> list[Comparison]:
    """Every distribution that both profiles hold, in a fixed order: size, shares, lengths, statistics."""
    found = [_size(accepted, now, allowed.size)]
    for what in accepted["shares"]:
        if what in now["shares"]:
            found.append(_shares(what, accepted, now, allowed.shares))
    for what in (_LENGTHS, *STATISTICS):
        pair = [profile["quantiles"].get(what) for profile in (accepted, now)]
        if all(pair):
            found.append(_quantiles(what, pair[0], pair[1], allowed.quantiles))
    return found


def _size(accepted: Mapping[str, Any], now: Mapping[str, Any], allowed: float) -> Comparison:
    losses = {}
    for unit in ("documents", "characters"):
        ratio = now[unit] / max(1, accepted[unit])
        losses[unit] = 1 - min(ratio, 1 / ratio) if ratio else 1.0
    told = ", ".join(f"{accepted[unit]:,} → {now[unit]:,} {unit}" for unit in losses)
    return Comparison("size", "relative change", max(losses.values()), allowed, told)


def divergence(a: Mapping[str, float], b: Mapping[str, float]) -> float:
    """Jensen-Shannon divergence of two distributions in bits (Lin 1991): 0 where equal, 1 where nothing is shared."""
    return sum(_terms(a, b).values())


def _terms(a: Mapping[str, float], b: Mapping[str, float]) -> dict[str, float]:
    terms = {}
    for name in sorted({*a, *b}):
        p, q = a.get(name, 0.0), b.get(name, 0.0)
        middle = (p + q) / 2
        terms[name] = sum(share / 2 * math.log2(share / middle) for share in (p, q) if share)
    return terms


def _shares(what: str, accepted: Mapping[str, Any], now: Mapping[str, Any], allowed: float) -> Comparison:
    a, b = accepted["shares"][what], now["shares"][what]
    if what == "characters":
        sizes = [profile["characters"] / _CHARACTERS_A_DRAW for profile in (accepted, now)]
    else:
        sizes = [profile["read" if what == "outcomes" else "documents"] for profile in (accepted, now)]
    terms = _terms(a, b)
    telling = sorted(terms, key=lambda name: (-terms[name], name))[:3]
    told = ", ".join(f"{_printable(name)} {a.get(name, 0):.1%} → {b.get(name, 0):.1%}" for name in telling)
    chance = _divergence_by_chance(len(terms), sizes)
    return Comparison(what, "Jensen-Shannon", sum(terms.values()), allowed + chance, told)


def _divergence_by_chance(categories: int, sizes: Sequence[float]) -> float:
    """What two samples of one distribution exceed once in a thousand.

    Samples of n and m scatter as 8 ln 2 JSD / (1/n + 1/m) ~ chi-squared with k - 1 degrees of freedom; its 99.9 % quantile is
    about d + 4.4 sqrt(d) + 6.
    """
    freedom = categories - 1
    quantile = freedom + 4.4 * math.sqrt(freedom) + 6 if freedom else 0.0
    return quantile / (8 * math.log(2)) * sum(1 / max(1.0, size) for size in sizes)


def distance(a: Mapping[str, Any], b: Mapping[str, Any]) -> tuple[float, float, bool]:
    """Largest distance between two cumulative distributions (`profile.points`): (distance, at which value, including it)."""
    values = np.union1d([row[0] for row in a["points"]], [row[0] for row in b["points"]])
    best = (0.0, float(values[0]), True)
    for including in (True, False):
        gaps = np.abs(cumulative(a, values, including) - cumulative(b, values, including))
        at = int(gaps.argmax())
        best = max(best, (float(gaps[at]), float(values[at]), including), key=lambda found: found[0])
    return best


def cumulative(distribution: Mapping[str, Any], values: np.ndarray[Any, Any], including: bool) -> np.ndarray[Any, Any]:
    """Share of the distribution below each value, or up to and including it; straight lines between the points kept."""
    grid, below, upto = np.array(distribution["points"], dtype=float).T
    left = np.searchsorted(grid, values, "right") - 1  # the last point at or before the value
    right = np.minimum(left + 1, len(grid) - 1)
    span = np.where(grid[right] > grid[left], grid[right] - grid[left], 1.0)
    between = upto[left] + (below[right] - upto[left]) * np.clip((values - grid[left]) / span, 0, 1)
    at_point = (upto if including else below)[np.maximum(left, 0)]
    found: np.ndarray[Any, Any] = np.where(grid[np.maximum(left, 0)] == values, at_point, between)
    found = np.where(values > grid[-1], 1.0, found)
    return np.where(values < grid[0], 0.0, found)


def _quantiles(what: str, a: Mapping[str, Any], b: Mapping[str, Any], allowed: float) -> Comparison:
    gap, value, including = distance(a, b)
    before, after = (float(cumulative(side, np.array([value]), including)[0]) for side in (a, b))
    unit = STATISTICS["characters"] if what == _LENGTHS else STATISTICS[what]
    bound = f"{unit.show(value)}{' characters' if what == _LENGTHS else ''}"
    told = f"{'at most' if including else 'less than'} {bound}: {before:.1%} → {after:.1%} of the documents"
    # Kolmogorov-Smirnov at the level of one in a thousand.
    chance = 1.95 * math.sqrt(1 / max(1, a["count"]) + 1 / max(1, b["count"]))
    return Comparison(what, "Kolmogorov-Smirnov", gap, allowed + chance, told, statistic=what != _LENGTHS)


def _printable(name: str) -> str:
    return f"U+{ord(name):04X}" if len(name) == 1 and (name.isspace() or not name.isprintable()) else name


def contract(found: Sequence[Comparison], validate: Validate, metrics: dict[str, float]) -> Contract:
    """The suite of a comparison: an expectation for each distribution, one for all statistics together."""
    import great_expectations.expectations as gx
    import pandas as pd

    suite = Suite(validate)
    figures: dict[str, float] = {}
    for one in found:
        if one.statistic:
            continue
        figures[one.what] = metrics[f"drift_{one.what}"] = round(one.distance, 6)
        suite.add(f"drift_{one.what}", gx.ExpectColumnMaxToBeBetween, _CLAIMS[one.what],
            f"{one.measure} at most {one.allowed:.3f}", _MEND, table="figures",
            found=f"{one.distance:.3f} ({one.told})", column=one.what, min_value=0, max_value=round(one.allowed, 6))  # fmt: skip
    statistics = [one for one in found if one.statistic]
    drifted = sorted((one for one in statistics if one.drifted), key=lambda one: one.allowed - one.distance)
    figures["statistics"] = metrics["drift_statistics"] = len(drifted)
    told = "; ".join(f"{one.what}: {one.told}" for one in drifted[:3])
    more = f" and {len(drifted) - 3} more" if len(drifted) > 3 else ""
    suite.add("drift_statistics", gx.ExpectColumnMaxToBeBetween, "Statistics are distributed as they were",
        f"none of {len(statistics)} further than validate.drift.quantiles allows", _MEND, table="figures",
        found=f"{len(drifted)}{f' ({told}{more})' if told else ''}", column="statistics", min_value=0, max_value=0)  # fmt: skip
    metrics["drifted"] = sum(one.drifted for one in found)
    shown = [("what", "measure", "distance", "allowed", "accepted → now", "")]
    shown += [
        (
            f"statistic {one.what}" if one.statistic else one.what,
            one.measure,
            f"{one.distance:.4f}",
            f"{one.allowed:.4f}",
            one.told,
            "drifted" if one.drifted else "",
        )
        for one in found
    ]
    return Contract("drift", "clean documents beside the accepted corpus", suite.checks, pd.DataFrame(), pd.DataFrame([figures]), shown)  # fmt: skip
