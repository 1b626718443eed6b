"""How loss falls with parameters, tokens and repeated tokens: a law that weighs a larger model against more passes.

Chinchilla's form (Hoffmann et al. 2022, arXiv 2203.15556) for a corpus that is seen more than once, after two papers:
Muennighoff et al. 2023, "Scaling Data-Constrained Language Models" (arXiv 2305.16264), where a repeated token is worth
less than a fresh one, and Lovelace et al. 2026, "Prescriptive Scaling Laws for Data Constrained Training" (arXiv
2605.01640), where repetition does harm, the more the larger the model is for its corpus. Parameters are those that a token
is multiplied with (`Count.multiplied` of `components.model.architectures`): at small sizes an embedding that is only looked up
would count for more than it does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import exp, inf, log, pow, sqrt

_MOST_PASSES = 10_000.0  # where a search for too many of them ends
_RUNS_FOR_EXPONENTS = 6
FRESH_RUNS = 4  # of one pass or less, at least: three scales are fitted to them


@dataclass(frozen=True)
class Law:
    """L(N, D) = irreducible + capacity / N'^alpha + data / D'^beta + harm R^harm_repeated (N / U)^harm_large, nats a token.

    N parameters, D tokens seen, U tokens of the corpus, R = max(0, D / U - 1) repetitions. D' = U + U r (1 - exp(-R / r))
    with r = `repeated`, the decay of a repeated token's worth; D' = D up to the first pass's end. N' likewise with `excess`
    above the parameters that U tokens ask for; infinite: N' = N. (Muennighoff et al. let U be the tokens seen where that is
    less than the corpus; here it is always the corpus, so that the first pass follows Chinchilla whatever the model.)
    """

    irreducible: float
    capacity: float
    data: float
    alpha: float
    beta: float
    repeated: float
    excess: float = inf
    harm: float = 0.0
    harm_repeated: float = 1.0
    harm_large: float = 1.0

    def loss(self, parameters: float, tokens: float, unique: float) -> float:
        """Nats a token that a model of `parameters` reaches with `tokens` drawn from `unique`."""
        size = self.effective_parameters(parameters, unique)
        seen = self.effective_tokens(tokens, unique)
        learnt = self.capacity / pow(size, self.alpha) + self.data / pow(seen, self.beta)
        return self.irreducible + learnt + self.overfitting(parameters, tokens, unique)

    def overfitting(self, parameters: float, tokens: float, unique: float) -> float:
        """The part of the loss, nats a token, that repetition adds."""
        if not self.harm or tokens <= unique:
            return 0.0
        return self.harm * pow(tokens / unique - 1, self.harm_repeated) * pow(parameters / unique, self.harm_large)

    def parameters_for(self, tokens: float) -> float:
        """Parameters at which a little work more is as well spent on size as on tokens, while tokens are fresh."""
        return pow(self.alpha * self.capacity / (self.beta * self.data) * pow(tokens, self.beta), 1 / self.alpha)

    def effective_tokens(self, tokens: float, unique: float) -> float:
        """Fresh tokens that teach as much as `tokens` of a corpus of `unique`."""
        return _saturating(tokens, unique, self.repeated)

    def effective_parameters(self, parameters: float, unique: float) -> float:
        """Parameters that would do as much, were they no more than `unique` tokens ask for."""
        return _saturating(parameters, self.parameters_for(unique), self.excess)

    def gain_of_tokens(self, parameters: float, tokens: float, unique: float) -> float:
        """-dL / d log D: what a per cent more tokens is worth, times 100; negative where they do harm."""
        learnt = self._gain_of_learning(tokens, unique)
        if tokens <= unique:
            return learnt
        harm = self.overfitting(parameters, tokens, unique) * self.harm_repeated / (tokens / unique - 1)
        return learnt - harm * tokens / unique

    def gain_of_parameters(self, parameters: float, tokens: float, unique: float) -> float:
        """-dL / d log N: what a per cent more parameters is worth, times 100; negative where they do harm."""
        worth = self.worth_of_parameter(parameters, unique)
        effective = self.effective_parameters(parameters, unique)
        learnt = self.capacity * self.alpha * parameters * worth / pow(effective, self.alpha + 1)
        return learnt - self.harm_large * self.overfitting(parameters, tokens, unique)

    def worth_of_token(self, parameters: float, tokens: float, unique: float) -> float:
        """What one more token does, as a share of what a fresh one would; negative where it does harm."""
        worth = _marginal(tokens, unique, self.repeated)
        gain = self._gain_of_learning(tokens, unique)
        return worth * self.gain_of_tokens(parameters, tokens, unique) / gain if gain else 0.0

    def worth_of_parameter(self, parameters: float, unique: float) -> float:
        """What one more parameter can learn, as a share of what it would with fresh tokens enough."""
        return _marginal(parameters, self.parameters_for(unique), self.excess)

    def most_tokens(self, parameters: float, unique: float, worth: float) -> float:
        """Tokens after which one more does less than `worth` of a fresh one."""
        low, high = unique, unique * _MOST_PASSES
        for _ in range(80):
            middle = sqrt(low * high)
            enough = self.worth_of_token(parameters, middle, unique) < worth
            low, high = (low, middle) if enough else (middle, high)
        return low

    def _gain_of_learning(self, tokens: float, unique: float) -> float:
        worth = _marginal(tokens, unique, self.repeated)
        return self.data * self.beta * tokens * worth / pow(self.effective_tokens(tokens, unique), self.beta + 1)


def _saturating(amount: float, full: float, decay: float) -> float:
    if amount <= full or decay == inf:
        return amount
    return full + full * decay * (1 - exp(-(amount / full - 1) / decay))


def _marginal(amount: float, full: float, decay: float) -> float:
    return 1.0 if amount <= full else exp(-(amount / full - 1) / decay)


# Muennighoff et al., fitted on C4 with GPT-2's vocabulary, models of 7 M to 9 G parameters (their appendix A).
PUBLISHED = Law(
    irreducible=exp(0.6254804),
    capacity=exp(6.255414),
    data=exp(7.3049974),
    alpha=0.3526596,
    beta=0.3526596,
    repeated=15.387756,
    excess=5.309743,
)


@dataclass(frozen=True)
class Run:
    """A finished run that a law can be fitted to: loss in nats a token of `tokens` drawn from `unique`."""

    parameters: float
    tokens: float
    unique: float
    loss: float


def fitted(runs: Sequence[Run], shape: Law = PUBLISHED) -> Law:
    """A law with the exponents of `shape` whose scales fit `runs` best, by least squares of the loss.

    Runs of one pass or less give irreducible, capacity and data: a dozen small ones determine three scales and no more,
    which is why the exponents, and the decay of repeated tokens, are taken from the many runs of the paper. Runs that
    repeat give the harm, in place of `excess`, and six of them its exponents too; without any there is no harm, and
    `excess` stays. A miss counts the less the oftener the text is repeated: where a model has
    learnt it by heart the loss runs away, and how far is of no interest; where another pass begins to do harm is.
    """
    from scipy.optimize import least_squares

    fresh = [run for run in runs if run.tokens <= run.unique]
    again = [run for run in runs if run.tokens > run.unique]
    assert len({(run.parameters, run.tokens) for run in fresh}) >= FRESH_RUNS, "three scales need at least four runs"
    plain = replace(shape, excess=inf if again else shape.excess, harm=0.0)

    def scaled(scales: Sequence[float]) -> Law:
        return replace(plain, irreducible=float(scales[0]), capacity=exp(scales[1]), data=exp(scales[2]))

    def harmed(law: Law, harms: Sequence[float]) -> Law:
        exponents = {"harm_repeated": float(harms[1]), "harm_large": float(harms[2])} if len(harms) > 1 else {}
        return replace(law, harm=exp(harms[0]), **exponents)

    def misses(law: Law, among: Sequence[Run]) -> list[float]:
        return [law.loss(run.parameters, run.tokens, run.unique) - run.loss for run in among]

    start = [min(run.loss for run in fresh) / 2, log(shape.capacity) - 1, log(shape.data) - 1]
    bounds = ([0, -inf, -inf], [inf, inf, inf])
    law = scaled(least_squares(lambda scales: misses(scaled(scales), fresh), start, bounds=bounds).x)
    if again:
        free = 3 if len(again) >= _RUNS_FOR_EXPONENTS else 1
        bounds = ([-inf, 0.2, 0.0][:free], [inf, 3.0, 3.0][:free])
        start = [log(0.01), shape.harm_repeated, shape.harm_large][:free]
        heavy = [max(1.0, run.tokens / run.unique - 1) for run in again]

        def lighter(harms: Sequence[float]) -> list[float]:
            return [miss / by for miss, by in zip(misses(harmed(law, harms), again), heavy, strict=True)]

        law = harmed(law, least_squares(lighter, start, bounds=bounds).x)
    return law
