"""The forward pass of training: from a batch to a summed loss, whatever way it is computed.

The loop knows the protocol and nothing of precision, compiling or fused modules.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import nn
from torch.nn import functional

from components.errors import InkwellError
from components.model.architectures import TABLE, of
from components.model.forward import Pass, forward_passes, logits_and_balance, router_imbalance
from components.training.fused.decoder import FusedDecoder, unsupported
from components.training.fused.loss import chunk_loss, linear_cross_entropy, one_chunk
from components.training.order import IGNORED

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# Classes whose logits are their last states times the head and nothing else; others scale or cap them, or may.
_PLAIN_LOGITS = {*(architecture.model for architecture in TABLE.values()), "Qwen2ForCausalLM"}


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
    change from batch to batch; such models are not compiled. Logits of a pass that are more than a chunk
    (`components.training.fused.loss`) are never held at once, unless `all_logits` says so, in fp16, whose loss must be
    scaled before there are gradients, and for models whose logits may be more than a plain matrix product.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        *,
        dtype: torch.dtype = torch.float32,
        compile: bool = False,
        all_logits: bool = False,
    ) -> None:
        self.model, self.dtype = model, dtype
        self._parts = None if all_logits or dtype == torch.float16 else _decoder_and_head(model)
        compiled = compile and of(model.config).packs
        self._at_once = torch.compile(self._loss_at_once) if compiled else self._loss_at_once
        self._states = torch.compile(self._last_states) if compiled else self._last_states
        self._chunk = torch.compile(chunk_loss) if compiled else chunk_loss

    def loss_sum(self, inputs: torch.Tensor, targets: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
        """See `Computation`."""
        losses = [self.pass_loss(step) for step in forward_passes(self.model.config, inputs, targets, numbers)]
        return torch.stack(losses).sum() if len(losses) > 1 else losses[0]

    def weights_changed(self) -> None:
        """Nothing is derived."""

    def pass_loss(self, step: Pass) -> torch.Tensor:
        """What one of the passes that `loss_sum` makes of a batch adds to it; scalar."""
        if self._parts is None or one_chunk(step.targets.numel(), len(self._parts[1].weight)):
            loss, balance = self._at_once(step)
        else:
            # not compiled as one: every chunk would be compiled anew
            states_ND, balance = self._states(step)
            head_VD = self._parts[1].weight.to(self.dtype)
            loss = linear_cross_entropy(states_ND, head_VD, step.targets.flatten(), self._chunk)
        # experts are trained to share the work, but the figure stays a plain cross-entropy
        return loss if balance is None else loss + (balance - balance.detach())

    def _loss_at_once(self, step: Pass) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The cross-entropies' sum, and what routers add to it."""
        with torch.autocast(step.targets.device.type, dtype=self.dtype, enabled=self.dtype != torch.float32):
            logits, balance = logits_and_balance(self.model, step)
        loss = functional.cross_entropy(
            logits.float().flatten(0, -2), step.targets.flatten(), ignore_index=IGNORED, reduction="sum"
        )
        return loss, balance

    def _last_states(self, step: Pass) -> tuple[torch.Tensor, torch.Tensor | None]:
        """What the head is given, [tokens, D], and what routers add to the loss (`logits_and_balance`)."""
        assert self._parts is not None
        with torch.autocast(step.targets.device.type, dtype=self.dtype, enabled=self.dtype != torch.float32):
            outputs = self._parts[0](**step.arguments, use_cache=False)
            routed = getattr(outputs, "router_logits", None)
            balance = router_imbalance(self.model.config, routed, step.targets) if routed else None
        return outputs.last_hidden_state.to(self.dtype).flatten(0, -2), balance


def _decoder_and_head(model: PreTrainedModel) -> tuple[Any, nn.Linear] | None:
    """What makes the last states and what makes logits of them, where that is known to be all; else None."""
    plain: Any = model.get_base_model() if hasattr(model, "get_base_model") else model  # under peft's adapters
    if type(plain).__name__ not in _PLAIN_LOGITS:
        return None
    head = plain.get_output_embeddings()
    return (plain.base_model, head) if type(head) is nn.Linear and head.bias is None else None


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
        # hooks on the model's own modules must see the head as well
        return StockComputation(model, dtype=dtype, compile=compile, all_logits=stock_modules)
    return FusedDecoder(
        model,
        dtype=dtype,
        compile=compile,
        residual_dropout=residual_dropout,
        activation_checkpointing=bool(model.is_activation_checkpointing),
    )
