"""The forward pass of training: from a batch to a summed loss, whatever way it is computed.

The loop knows this protocol and nothing of precision, compiling or fused modules.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import torch
from torch.nn import functional

from components.training.order import IGNORED

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Computation(Protocol):
    """How a batch becomes a loss."""

    def loss_sum(self, inputs: torch.Tensor, targets: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
        """Sum of the cross-entropies (nats) of all targets that are not IGNORED; float32 scalar with a graph behind it.

        All three are int64 [B, T]. inputs: token ids; targets: ids to predict; numbers: which sequence of its row a token belongs to (attention
        stays inside each). Gradients arrive in `.grad` of the model's own parameters.
        """
        ...

    def weights_changed(self) -> None:
        """The optimizer has moved the model's parameters: what was derived from them is out of date."""
        ...


class StockComputation:
    """The model's own forward under autocast: right for every architecture, and what faster ones are tested against."""

    def __init__(self, model: PreTrainedModel, *, bf16: bool, compile: bool) -> None:
        self.model, self.bf16 = model, bf16
        self._compute = torch.compile(self._loss_sum) if compile else self._loss_sum

    def loss_sum(self, inputs: torch.Tensor, targets: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
        """See `Computation`."""
        return self._compute(inputs, targets, numbers)

    def weights_changed(self) -> None:
        """Nothing is derived."""

    def _loss_sum(self, inputs: torch.Tensor, targets: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
        # a sequence sees itself alone, as it will when it is scored or answered; transformers takes a mask of this shape as it is
        length = inputs.shape[1]
        causal = torch.ones(length, length, dtype=torch.bool, device=inputs.device).tril()
        visible_B1TT = ((numbers[:, :, None] == numbers[:, None, :]) & causal)[:, None]
        with torch.autocast(inputs.device.type, dtype=torch.bfloat16, enabled=self.bf16):
            logits = self.model(input_ids=inputs, attention_mask=visible_B1TT, use_cache=False).logits
        return functional.cross_entropy(
            logits.float().flatten(0, 1), targets.flatten(), ignore_index=IGNORED, reduction="sum"
        )
