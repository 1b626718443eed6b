"""Cross-entropy of a vocabulary without ever holding all logits.

Tokens pass through the head a chunk at a time; each chunk's gradient is made at once, while its logits are in the cache, as Liger's
fused linear cross-entropy does on GPUs (Hsu et al. 2024, arXiv 2410.10989). The backward pass then only scales.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from components.training.order import IGNORED

_CHUNK_LOGITS = 1 << 22  # logits of a chunk: 16 MiB in float32, which a last-level cache holds

Chunk = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


def one_chunk(tokens: int, vocabulary: int) -> bool:
    """Whether all logits of so many tokens are no more than a chunk: nothing is saved then."""
    return tokens * vocabulary <= _CHUNK_LOGITS


def chunk_loss(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """logits [n, V], targets [n] -> summed loss (float32) and its gradient by the logits, [n, V] in the logits' type."""
    wide_NV = logits.float()
    counted_N = targets != IGNORED
    safe_N = targets.clamp(min=0)
    largest_N1 = wide_NV.amax(-1, keepdim=True)
    exponents_NV = (wide_NV - largest_N1).exp()
    sums_N1 = exponents_NV.sum(-1, keepdim=True)
    right_N = wide_NV.gather(-1, safe_N[:, None])[:, 0]
    losses_N = (largest_N1 + sums_N1.log())[:, 0] - right_N
    hit_NV = torch.arange(wide_NV.shape[-1], device=logits.device)[None, :] == safe_N[:, None]
    gradient_NV = (exponents_NV / sums_N1 - hit_NV.float()) * counted_N[:, None]
    return (losses_N * counted_N).sum(), gradient_NV.to(logits.dtype)


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, head: Tensor, targets: Tensor, chunk: Chunk) -> Tensor:  # type: ignore[override]
        rows = max(1, _CHUNK_LOGITS // head.shape[0])
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        hidden_gradient = torch.empty_like(hidden)
        # summed in float32: in bfloat16 every sum would be rounded, and the error grow with the number of chunks
        head_gradient = None
        head_learns = ctx.needs_input_grad[1]  # not beside adapters
        for start in range(0, hidden.shape[0], rows):
            part = hidden[start : start + rows]
            loss, gradient = chunk(functional.linear(part, head), targets[start : start + rows])
            total += loss
            hidden_gradient[start : start + rows] = gradient @ head
            if not head_learns:
                continue
            if head_gradient is None:
                head_gradient = gradient.mT @ part
            elif head.dtype == torch.float32:
                head_gradient.addmm_(gradient.mT, part)
            else:
                head_gradient = head_gradient.float().add_(gradient.mT @ part)
        ctx.save_for_backward(hidden_gradient, head_gradient)
        return total

    @staticmethod
    def backward(ctx: Any, scale: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        hidden_gradient, head_gradient = ctx.saved_tensors
        if head_gradient is None:
            return hidden_gradient * scale, None, None, None
        cast = torch.empty_like(head_gradient, dtype=hidden_gradient.dtype)
        return hidden_gradient * scale, torch.mul(head_gradient, scale, out=cast), None, None


def linear_cross_entropy(hidden: Tensor, head: Tensor, targets: Tensor, chunk: Chunk = chunk_loss) -> Tensor:
    """hidden [n, D], head [V, D], targets [n] (IGNORED counts nothing) -> summed cross-entropy in nats, float32 scalar."""
    loss: Tensor = _LinearCrossEntropy.apply(hidden, head, targets, chunk)  # type: ignore[no-untyped-call]
    return loss
