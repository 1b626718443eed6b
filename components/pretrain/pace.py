"""How fast a shape trains here: a curve of operations a second over widths, pinned by what was measured on this machine."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import exp, log
from typing import TYPE_CHECKING

from components.pretrain.cost import operations_a_token, optimizer_operations

if TYPE_CHECKING:
    from components.configuration import Pretrain
    from components.model.architectures import Count

# Share of the matrix-product ceiling that a training step reaches, by width: narrow matrices are too small to fill a
# core, and element-wise work weighs more. Only the shape of this curve matters where a step was measured.
UTILISATION: tuple[tuple[int, float], ...] = (
    (64, 0.10),
    (128, 0.22),
    (256, 0.42),
    (512, 0.58),
    (1024, 0.66),
    (2048, 0.70),
)


@dataclass(frozen=True)
class Pace:
    """Operations a second by width.

    measured: (width, operations a second) of training steps that were timed, by rising width. Between them the ratio
    of measured to UTILISATION is interpolated, outside them it is that of the nearest. processes: that share the rows of a
    step, each as fast as the one that was timed; exchanging gradients is not counted. gain: how many times as fast whole
    steps are as that, where the cores are divided among processes that were not there when it was timed.
    """

    measured: tuple[tuple[int, float], ...]
    processes: int = 1
    gain: float = 1.0

    def rate(self, width: int) -> float:
        """Operations a second of a training step of that width."""
        ratios = [(at, rate / _interpolated(UTILISATION, at)) for at, rate in self.measured]
        return _interpolated(ratios, width) * _interpolated(UTILISATION, width)

    def with_step(
        self, parameters: Pretrain, count: Count, vocabulary: int, batch_tokens: float, seconds: float
    ) -> Pace:
        """This curve, pinned to a step of `batch_tokens` tokens that took one process so many seconds."""
        rate = _work(parameters, count, vocabulary, batch_tokens) / seconds
        others = [point for point in self.measured if point[0] != parameters.hidden_size]
        return replace(self, measured=tuple(sorted([*others, (parameters.hidden_size, rate)])))

    def meeting(self, other: Pace, width: int) -> Pace:
        """This curve, faster or slower throughout, so that it meets `other` at that width."""
        factor = other.rate(width) / self.rate(width)
        return replace(self, measured=tuple((at, rate * factor) for at, rate in self.measured))

    def seconds_of_step(self, parameters: Pretrain, count: Count, vocabulary: int, batch_tokens: float) -> float:
        """Seconds of an optimizer step of `batch_tokens` tokens."""
        work = _work(parameters, count, vocabulary, batch_tokens / self.processes)
        return work / (self.gain * self.rate(parameters.hidden_size))


def _work(parameters: Pretrain, count: Count, vocabulary: int, batch_tokens: float) -> float:
    """Operations of an optimizer step: the passes over its tokens, and the optimizer's own."""
    passes = batch_tokens * operations_a_token(parameters, count)
    return passes + optimizer_operations(parameters, count, vocabulary)


def _interpolated(points: Sequence[tuple[int, float]], width: float) -> float:
    """Straight between points in logarithms of both; constant beyond the ends."""
    if width <= points[0][0]:
        return points[0][1]
    if width >= points[-1][0]:
        return points[-1][1]
    at = bisect_left([point[0] for point in points], width)
    (low, below), (high, above) = points[at - 1], points[at]
    share = (log(width) - log(low)) / (log(high) - log(low))
    return exp(log(below) + share * (log(above) - log(below)))
