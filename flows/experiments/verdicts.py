"""Which of several variants needs fewer bits per character, and whether that is more than noise.

Two things scatter: training (other seeds would have given other models) and the held-out documents (others might have been
drawn). A difference between two variants counts only when its interval, which allows for both, leaves out zero.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from components.evaluate.intervals import ratio_stderr

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Difference:
    """Bits per character of `a` minus those of `b`, with an interval; `low` and `high` are None for a single seed.

    `seeds` and `documents` are the standard errors that come from training and from the choice of held-out documents.
    """

    a: str
    b: str
    mean: float
    low: float | None
    high: float | None
    seeds: float
    documents: float

    @property
    def beyond_noise(self) -> bool:
        """Whether the interval leaves out zero."""
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)


def means(bits: Mapping[str, NDArray[np.float64]], characters: NDArray[np.int64]) -> dict[str, tuple[float, float]]:
    """Mean bits per character of each variant over its seeds, and the standard deviation (nan for a single seed).

    bits: [seeds, documents] of each variant; characters: [documents], end marks counted.
    """
    found = {}
    for name, table in bits.items():
        runs = table.sum(axis=1) / characters.sum()
        found[name] = (float(runs.mean()), float(runs.std(ddof=1)) if len(runs) > 1 else math.nan)
    return found


def differences(
    bits: Mapping[str, NDArray[np.float64]], characters: NDArray[np.int64], level: float = 0.95
) -> list[Difference]:
    """Every pair of variants, `a` the one of fewer bits; together their intervals hold with probability `level`.

    A t interval: the variance of the difference is the sum of those of both means over seeds and of the choice of documents
    (the same for both variants, so paired), its degrees of freedom by Welch and Satterthwaite. With several pairs the level is
    divided among them (Bonferroni), so that the best of many is not called better by luck.
    """
    from scipy import stats

    order = sorted(bits, key=lambda name: (means(bits, characters)[name][0], name))
    pairs = list(itertools.combinations(order, 2))
    found = []
    for a, b in pairs:
        runs = [bits[name].sum(axis=1) / characters.sum() for name in (a, b)]
        difference = float(runs[0].mean() - runs[1].mean())
        apart = bits[a].mean(axis=0) - bits[b].mean(axis=0)
        documents = ratio_stderr(apart.tolist(), characters.tolist())
        if min(map(len, runs)) < 2:
            found.append(Difference(a, b, difference, None, None, math.nan, documents))
            continue
        parts = [(float(run.var(ddof=1)) / len(run), len(run) - 1) for run in runs]
        seeds = math.sqrt(sum(part for part, _ in parts))
        parts.append((documents**2, max(1, len(apart) - 1)))
        total = sum(part for part, _ in parts)
        margin = 0.0
        if total > 0:
            freedom = total**2 / sum(part**2 / count for part, count in parts)
            margin = float(stats.t.ppf(0.5 + (1 - (1 - level) / len(pairs)) / 2, freedom)) * math.sqrt(total)
        found.append(Difference(a, b, difference, difference - margin, difference + margin, seeds, documents))
    return found


def verdict(found: list[Difference]) -> str:
    """One or two sentences on `differences`, the first variant of which is the one of fewest bits."""
    best = found[0].a
    against = [difference for difference in found if difference.a == best]
    if any(difference.low is None for difference in against):
        return f"{best} needs the fewest bits per character, but one seed has no spread: nothing can be said; give --seeds 3."
    beaten = [difference for difference in against if difference.beyond_noise]
    equal = [difference for difference in against if not difference.beyond_noise]
    told = []
    if beaten:
        named = ", ".join(
            f"{d.b} (by {-d.mean:.4f} bits per character, 95 % interval {-(d.high or 0):.4f} to {-(d.low or 0):.4f})"
            for d in beaten
        )
        told.append(f"{best} is better than {named}.")
    if equal:
        names = [d.b for d in equal]
        named = " and ".join(part for part in (", ".join(names[:-1]), names[-1]) if part)
        seen = max(((d.high or 0) - (d.low or 0)) / 2 for d in equal)
        told.append(
            f"No difference beyond the noise between {best} and {named}; one below {seen:.4f} bits per character could not have been seen."
        )
    return " ".join(told)
