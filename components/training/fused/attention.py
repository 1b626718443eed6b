"""Attention inside the sequences of packed rows.

PyTorch's flash attention for CPUs took 40 % of a training step at rows of 256 tokens (139 of 340 ms at 8 layers of width 256, 2,048
tokens); with its scores written out in half precision the same work took 60. Longer rows keep flash attention: scores grow with the
square of the row.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

_HIDDEN = -1e30  # a score that no softmax sees; not -inf, whose differences are no numbers
LONGEST_WRITTEN_OUT = 512  # tokens


def attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor, scale: float, dropout: float) -> Tensor:
    """query [B, H, T, W], key and value [B, K, T, W] (H a multiple of K), mask [B, 1, T, T] -> [B, H, T, W]."""
    groups = query.shape[1] // key.shape[1]
    if query.shape[2] > LONGEST_WRITTEN_OUT:
        return functional.scaled_dot_product_attention(
            query, key, value, attn_mask=mask, scale=scale, dropout_p=dropout, enable_gqa=groups > 1
        )
    if groups > 1:
        key, value = (part.repeat_interleave(groups, dim=1) for part in (key, value))
    scores_BHTT = torch.matmul(query, key.transpose(-1, -2)).float() * scale
    weights_BHTT = torch.softmax(scores_BHTT.masked_fill(~mask, _HIDDEN), -1)
    if dropout:
        weights_BHTT = functional.dropout(weights_BHTT, dropout)
    return torch.matmul(weights_BHTT.to(value.dtype), value)
