"""A law fitted to finished runs, with what chance and the choice of runs leave open: bands by bootstrap, predictions, optima."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from components.errors import InkwellError
from components.scaling import FRESH_RUNS, PUBLISHED, Law, Run, fitted

_REPLICATES = 200
_TOKENS = 1e6  # where tokens a parameter are told; with equal exponents, as published, they are the same everywhere
# Runs of one pass follow Chinchilla: the published penalty of parameters in excess was fitted to runs that repeat.
_SHAPE = replace(PUBLISHED, excess=math.inf)


@dataclass(frozen=True)
class Band:
    """A value and its 95 % band."""

    value: float
    low: float
    high: float

    def __contains__(self, other: object) -> bool:
        return isinstance(other, int | float) and self.low <= other <= self.high


@dataclass(frozen=True)
class Fit:
    """The law of all runs, and the laws of as many samples of them."""

    law: Law
    runs: Sequence[Run]
    laws: Sequence[Law]

    def residuals(self) -> list[float]:
        """What each run came to less what the law says, nats a token."""
        return [run.loss - self.law.loss(run.parameters, run.tokens, run.unique) for run in self.runs]

    def predicted(self, parameters: float, tokens: float, unique: float) -> Band:
        """The loss of a run that was not fitted, nats a token; its band holds the fit's uncertainty and a run's own scatter.

        Residuals are widened by n / (n - 3), for three scales were fitted to them.
        """
        import numpy as np

        draw = np.random.default_rng(1)
        widened = np.array(self.residuals()) * math.sqrt(len(self.runs) / max(1, len(self.runs) - 3))
        means = np.array([law.loss(parameters, tokens, unique) for law in self.laws])
        scattered = (means[:, None] + draw.choice(widened, (len(means), 20))).ravel()
        low, high = np.quantile(scattered, (0.025, 0.975))
        return Band(self.law.loss(parameters, tokens, unique), float(low), float(high))

    def mean(self, parameters: float, tokens: float, unique: float) -> Band:
        """The law's own value there, with the band of the fit alone."""
        import numpy as np

        low, high = np.quantile([law.loss(parameters, tokens, unique) for law in self.laws], (0.025, 0.975))
        return Band(self.law.loss(parameters, tokens, unique), float(low), float(high))

    def scales(self) -> dict[str, Band]:
        """The fitted scales with their bands; that of repetition's harm where runs repeated."""
        import numpy as np

        found = {}
        for name in ("irreducible", "capacity", "data", *(["harm"] if self.law.harm else [])):
            low, high = np.quantile([getattr(law, name) for law in self.laws], (0.025, 0.975))
            found[name] = Band(getattr(self.law, name), float(low), float(high))
        return found

    def tokens_per_parameter(self) -> float | None:
        """Tokens a parameter where a little more work is as well spent on either; None where the runs leave a scale open."""
        scales = self.scales()
        if any(
            scales[name].low < scales[name].value / 10 or scales[name].value < 1e-3 for name in ("capacity", "data")
        ):
            return None
        return _TOKENS / self.law.parameters_for(_TOKENS)


def fit(runs: Sequence[Run], replicates: int = _REPLICATES, seed: int = 1) -> Fit:
    """The law by least squares, and again for each sample of the runs drawn with replacement (Efron 1979).

    Raises InkwellError where the runs cannot determine its scales.
    """
    import numpy as np

    require([(run.parameters, run.tokens) for run in runs], runs[0].unique if runs else 0.0)
    draw = np.random.default_rng(seed)
    laws: list[Law] = []
    for _ in range(replicates * 10):
        sample = [runs[index] for index in draw.integers(len(runs), size=len(runs))]
        if _determined([(run.parameters, run.tokens) for run in sample], runs[0].unique):
            laws.append(fitted(sample, _SHAPE))
        if len(laws) == replicates:
            break
    return Fit(fitted(runs, _SHAPE), list(runs), laws)


def require(extents: Sequence[tuple[float, float]], unique: float) -> None:
    """Raise InkwellError unless runs of these (parameters, tokens) on a corpus of `unique` tokens determine the law's scales."""
    if not _determined(extents, unique):
        raise InkwellError(
            f"a law needs at least {FRESH_RUNS} different runs of one pass over the corpus or less, of two sizes and two numbers of tokens: give more "
            f"--sizes, or --budgets further apart and below {unique:,.0f} tokens."
        )


def _determined(extents: Sequence[tuple[float, float]], unique: float) -> bool:
    fresh = {(parameters, tokens) for parameters, tokens in extents if tokens <= unique}
    return len(fresh) >= FRESH_RUNS and len({n for n, _ in fresh}) > 1 and len({d for _, d in fresh}) > 1


def operations(parameters: float, tokens: float) -> float:
    """Floating-point operations of a training: 6 for each parameter and token (Kaplan et al. 2020)."""
    return 6 * parameters * tokens


def tokens_for(budget: float, parameters: float) -> float:
    """Tokens that a model of `parameters` can be trained on with `budget` operations."""
    return budget / operations(parameters, 1)


def best_at(law: Law, budget: float, unique: float, smallest: float, largest: float) -> tuple[float, float]:
    """(parameters, loss) that `budget` operations are best spent on, between the two sizes."""
    best = (smallest, math.inf)
    for step in range(201):
        size = smallest * (largest / smallest) ** (step / 200)
        loss = law.loss(size, tokens_for(budget, size), unique)
        best = min(best, (size, loss), key=lambda found: found[1])
    return best
