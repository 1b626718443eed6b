"""Low-precision copies of float32 weights, packed for one matrix product each, through which gradients flow back.

Autocast casts every weight in every forward pass and multiplies q, k and v apart. A copy is made once an optimizer
step instead, and projections that read the same input stand in one matrix.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn


class _Through(torch.autograd.Function):
    """Returns the packed copy; its gradient is handed to the float32 weights that it was made from."""

    @staticmethod
    def forward(ctx: Any, packed: Tensor, *weights: Tensor) -> Tensor:  # type: ignore[override]
        ctx.rows = [weight.shape[0] for weight in weights]
        return packed.view_as(packed)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        return (None, *(part.float() for part in gradient.split(ctx.rows)))


class PackedWeight:
    """Copies of matrices [rows_i, columns] below each other, [sum of rows, columns], in a lower precision.

    They lie where the weights lie: a model that was moved to another device gets new ones there.
    """

    def __init__(self, weights: Sequence[nn.Parameter], dtype: torch.dtype) -> None:
        self.weights, self.dtype = list(weights), dtype
        self._allocate()

    def _allocate(self) -> None:
        rows = [weight.shape[0] for weight in self.weights]
        first = self.weights[0]
        self.packed = torch.empty(sum(rows), first.shape[1], dtype=self.dtype, device=first.device)
        self._views = list(self.packed.split(rows))

    def refresh(self) -> None:
        """Copy the weights as they are now, where they are now."""
        if self.packed.device != self.weights[0].device:
            self._allocate()
        with torch.no_grad():
            torch._foreach_copy_(self._views, self.weights)

    def __call__(self) -> Tensor:
        """The copy, with a way back for gradients."""
        through: Tensor = _Through.apply(self.packed, *self.weights)  # type: ignore[no-untyped-call]
        return through
