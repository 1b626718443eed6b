"""The forward pass of training: from a batch to a summed loss, whatever way it is computed.

The loop knows the protocol and nothing of precision, compiling or fused modules.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import torch
from torch.nn import functional

from components.errors import InkwellError
from components.model.architectures import of
from components.model.forward import Pass, forward_passes, logits_and_balance
from components.training.fused.decoder import FusedDecoder, unsupported
from components.training.order import IGNORED

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Computation(Protocol):
    """How a batch becomes a loss."""

    def loss_sum(self, inputs: torch.Tensor, targets: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
        """Sum of the cross-entropies (nats) of all targets that are not IGNORED; float32 scalar with a graph behind it.

        All three are int64 [B, T]. inputs: token ids; targets: ids to predict; numbers: which sequence of its row a token
        belongs to (attention stays inside each). Gradients arrive in `.grad` of the model's own parameters.
        """
        ...

    def weights_changed(self) -> None:
        """The optimizer has moved the model's parameters: what was derived from them is out of date."""
        ...


class StockComputation:
    """The model's own forward under autocast: right for every architecture, and what faster ones are tested against.

    dtype: what matrices are multiplied in (float32: no autocast). Sequences that cannot share a row make shapes that
    change from batch to batch; such models are not compiled.
    """

    def __init__(self, model: PreTrainedModel, *, dtype: torch.dtype = torch.float32, compile: bool = False) -> None:
        self.model, self.dtype = model, dtype
        compiled = compile and of(model.config).packs
        self._compute = torch.compile(self.pass_loss) if compiled else self.pass_loss

    def loss_sum(self, inputs: torch.Tensor, targets: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
        """See `Computation`."""
        losses = [self._compute(step) for step in forward_passes(self.model.config, inputs, targets, numbers)]
        return torch.stack(losses).sum() if len(losses) > 1 else losses[0]

    def weights_changed(self) -> None:
        """Nothing is derived."""

    def pass_loss(self, step: Pass) -> torch.Tensor:
        """What one of the passes that `loss_sum` makes of a batch adds to it; scalar."""
        with torch.autocast(step.targets.device.type, dtype=self.dtype, enabled=self.dtype != torch.float32):
            logits, balance = logits_and_balance(self.model, step)
        loss = functional.cross_entropy(
            logits.float().flatten(0, -2), step.targets.flatten(), ignore_index=IGNORED, reduction="sum"
        )
        # experts are trained to share the work, but the figure stays a plain cross-entropy
        return loss if balance is None else loss + (balance - balance.detach())


def computation_for(
    model: PreTrainedModel,
    *,
    dtype: torch.dtype,
    compile: bool,
    fused: str = "auto",
    stock_modules: bool = False,
    residual_dropout: float = 0.0,
) -> Computation:
    """The fastest way to compute this model's loss.

    fused: `machine.fused`; stock_modules: a strategy has taken the modules in hand (fsdp2), so they must run themselves.
    residual_dropout: what hooks do to the stock modules, which fused ones do themselves. Raises InkwellError where fused
    modules are asked for and cannot be.
    """
    reason = "fsdp2 shards the model's own modules" if stock_modules else unsupported(model)
    if reason is None and dtype == torch.float16:
        reason = "fused modules make gradients of logits before the loss is scaled, which fp16 needs"
    if fused == "on" and reason is not None:
        raise InkwellError(f"machine.fused = 'on': {reason}; use auto.")
    if fused == "off" or reason is not None:
        return StockComputation(model, dtype=dtype, compile=compile)
    return FusedDecoder(
        model,
        dtype=dtype,
        compile=compile,
        residual_dropout=residual_dropout,
        activation_checkpointing=bool(model.is_activation_checkpointing),
    )
