"""The rate of matrix products alone: what a training run's own rate is measured against, instead of a data sheet.

Products run in this process, so with its allocator, its threads and whatever else the machine is busy with; a meter can be
read between training steps, so that the ceiling belongs to the same minutes as the run.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

Shape = tuple[int, int, int]  # rows, columns and the inner dimension of a product: [M, K] x [K, N]

SQUARES: tuple[Shape, ...] = ((1024, 1024, 1024), (2048, 2048, 2048))
_SLICE = 0.03  # seconds of products a reading, of each shape; one product at least
_FAR = 0.7  # of the fastest shape's rate
_LARGEST = 2e10  # operations of one product: longer ones are cut in rows, which costs them nothing


@dataclass(frozen=True)
class Ceiling:
    """Floating-point operations a second of matrix products (a multiplication and an addition are two).

    operations_per_second: median over the readings of the fastest shape; best: the fastest reading of any; spread: half
    the distance between the quartiles of that shape's readings, as a share of the median; rates: medians by shape.
    """

    operations_per_second: float
    best: float
    spread: float
    shape: Shape
    rates: dict[Shape, float]

    def share(self, tokens_per_second: float, operations_per_token: float) -> float:
        """Model FLOPs utilisation: the share of the ceiling that a run's own products reach."""
        return tokens_per_second * operations_per_token / self.operations_per_second


@dataclass
class CeilingMeter:
    """Takes readings when it is asked to; `ceiling` sums them up.

    threads: of the products, None for as many as the process has; `device` other than cpu: untested on this hardware.
    """

    dtype: torch.dtype
    threads: int | None = None
    shapes: Sequence[Shape] = SQUARES
    device: str = "cpu"
    _readings: dict[Shape, list[float]] = field(default_factory=dict, init=False, repr=False)

    def read(self, rounds: int = 1) -> None:
        """Time products, `rounds` times; about 0.1 s a shape and round. Draws no random numbers.

        A shape that was far slower than another one is not timed again: it will not be the ceiling.
        """
        import torch

        shapes = [_bounded(shape) for shape in dict.fromkeys(self.shapes)]
        with threads_set(self.threads), torch.no_grad():
            for rows, columns, inner in self._promising(shapes):
                left = torch.ones(rows, inner, dtype=self.dtype, device=self.device)
                right = torch.ones(inner, columns, dtype=self.dtype, device=self.device)
                self._timed(left, right, 1)  # caches, and the choice of a kernel
                count = max(1, round(_SLICE / self._timed(left, right, 1)))
                found = self._readings.setdefault((rows, columns, inner), [])
                for _ in range(rounds):
                    found.append(2.0 * rows * columns * inner * count / self._timed(left, right, count))

    def _promising(self, shapes: Sequence[Shape]) -> list[Shape]:
        medians = {shape: statistics.median(found) for shape, found in self._readings.items()}
        fastest = max(medians.values(), default=0.0)
        return [shape for shape in shapes if medians.get(shape, fastest) >= _FAR * fastest]

    def _timed(self, left: torch.Tensor, right: torch.Tensor, count: int) -> float:
        import torch

        started = time.perf_counter()
        for _ in range(count):
            torch.mm(left, right)
        if self.device != "cpu":
            getattr(torch, self.device).synchronize()
        return time.perf_counter() - started

    def ceiling(self) -> Ceiling:
        """What the readings so far say; at least one is needed."""
        assert self._readings, "the meter has not been read"
        rates = {shape: statistics.median(found) for shape, found in self._readings.items()}
        shape = max(rates, key=lambda one: rates[one])
        found = self._readings[shape]
        low, _, high = statistics.quantiles(found, n=4) if len(found) > 1 else (found[0],) * 3
        return Ceiling(
            rates[shape],
            max(max(found) for found in self._readings.values()),
            (high - low) / 2 / rates[shape],
            shape,
            rates,
        )


def gemm_ceiling(
    dtype: torch.dtype,
    threads: int | None = None,
    shapes: Sequence[Shape] = SQUARES,
    rounds: int = 5,
    device: str = "cpu",
) -> Ceiling:
    """The ceiling now, from `rounds` readings of each shape in turns; about 0.1 s a shape and round."""
    meter = CeilingMeter(dtype, threads, shapes, device)
    for _ in range(rounds):
        meter.read()
    return meter.ceiling()


def run_shapes(model: PreTrainedModel, tokens: int, most: int = 4) -> tuple[Shape, ...]:
    """The products of a forward pass of `model` over `tokens` tokens that cost most, the costliest first.

    A weight that several layers share the shape of is one; looked-up embeddings are none.
    """
    from components.model.architectures import roles

    costs: dict[Shape, int] = {}
    for name, role in roles(model).items():
        weight = model.get_parameter(name)
        if role in ("matrix", "head") and weight.ndim == 2:
            shape = (tokens, weight.shape[0], weight.shape[1])
            costs[shape] = costs.get(shape, 0) + weight.numel()
    return tuple(sorted(costs, key=lambda shape: (-costs[shape], shape))[:most])


def operations_per_token(model: PreTrainedModel, block: int, *, causal: bool = False) -> float:
    """Floating-point operations of training a token in rows of `block` tokens: 6 N + 12 L d T.

    N counts the weights that a token is multiplied with (Kaplan et al. 2020, arXiv 2001.08361: 2 forward, 4 backward);
    the second term is attention over the whole row, as is usual (Chowdhery et al. 2022, arXiv 2204.02311, appendix B),
    or with `causal` what causality leaves of it, half. A recurrent model's scan is left out: the figure is a lower bound
    there. `components.pretrain.cost` counts alike before there is a model.
    """
    from components.model.architectures import count_of, of

    config = model.config
    operations = 6.0 * count_of(model).multiplied
    if of(config).recurrent:
        return operations
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    window = min(block, getattr(config, "sliding_window", None) or block)
    seen = window - window**2 / (2 * block) if causal else window  # tokens that one attends to, on average
    return operations + 12.0 * float(config.num_hidden_layers * config.num_attention_heads * width) * seen


@contextmanager
def threads_set(threads: int | None) -> Iterator[None]:
    """PyTorch's threads for this block; None leaves them as they are."""
    import torch

    before = torch.get_num_threads()
    if threads and threads != before:
        torch.set_num_threads(threads)
    try:
        yield
    finally:
        if torch.get_num_threads() != before:
            torch.set_num_threads(before)


def _bounded(shape: Shape) -> Shape:
    rows, columns, inner = shape
    return (max(1, min(rows, int(_LARGEST / (2 * columns * inner)))), columns, inner)
