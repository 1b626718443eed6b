"""The forward pass of Llama-like decoders (Llama, Mistral, Qwen3) with fewer and larger operations.

Equal to the stock modules within rounding: weights in bfloat16 are copied once a step and packed, norms, rotary embedding and
SwiGLU are one compiled function a block, attention is written out for short rows, and the loss never holds all logits. The
residual stream stays in float32, as under autocast. Blocks share one compiled function: compiling costs a block, not a model.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from components.model.forward import visible
from components.training.fused.attention import attend
from components.training.fused.loss import chunk_loss, linear_cross_entropy
from components.training.fused.weights import PackedWeight

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_FAMILIES = ("llama", "mistral", "qwen3")


def unsupported(model: PreTrainedModel) -> str | None:
    """Why this decoder has no fused equivalent, in a few words; None: it has one."""
    configuration = model.config
    if configuration.model_type not in _FAMILIES:
        return f"there are no fused modules for {configuration.model_type}"
    if type(model).__name__ not in ("LlamaForCausalLM", "MistralForCausalLM", "Qwen3ForCausalLM"):
        return f"{type(model).__name__} wraps the decoder"
    if configuration.hidden_act != "silu":
        return f"its activation is {configuration.hidden_act}"
    if len(set(getattr(configuration, "layer_types", None) or ["full_attention"])) > 1:
        return "its layers attend in different ways"
    if any(parameter.ndim == 1 and name.endswith(".bias") for name, parameter in model.named_parameters()):
        return "its projections have biases"
    if any(not parameter.requires_grad for parameter in model.parameters()):
        return "some of its weights are frozen"
    return None


def _norm(hidden: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    wide = hidden.float()
    return wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + epsilon) * weight


def _rotate(states: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """states [B, T, H, W], cosine and sine [T, 1, W / 2] -> rotary embedding (Su et al. 2021), halves as transformers has them."""
    first, second = states.chunk(2, -1)
    return torch.cat((first * cosine - second * sine, second * cosine + first * sine), -1)


class FusedDecoder:
    """A `Computation` (components.training.computation) over the weights of a stock Llama-like model."""

    def __init__(
        self,
        model: PreTrainedModel,
        *,
        dtype: torch.dtype,
        compile: bool,
        residual_dropout: float = 0.0,
        activation_checkpointing: bool = False,
    ) -> None:
        reason = unsupported(model)
        assert reason is None, reason
        self.model, self.dtype = model, dtype
        configuration = model.config
        self.heads: int = configuration.num_attention_heads
        self.key_value_heads: int = configuration.num_key_value_heads
        self.width: int = getattr(configuration, "head_dim", None) or configuration.hidden_size // self.heads
        sliding = getattr(configuration, "use_sliding_window", True)
        self.window: int | None = getattr(configuration, "sliding_window", None) if sliding else None
        self.epsilon: float = configuration.rms_norm_eps
        self.attention_dropout: float = configuration.attention_dropout
        self.residual_dropout = residual_dropout
        self.activation_checkpointing = activation_checkpointing
        decoder: Any = model.model
        embedding: Any = model.get_input_embeddings()
        self._embedding, self._padding = embedding.weight, embedding.padding_idx
        self._layers = [self._packed(layer) for layer in decoder.layers]
        self._norms = [self._norm_weights(layer) for layer in decoder.layers]
        self._last_norm = decoder.norm.weight
        self._head = PackedWeight([model.get_output_embeddings().weight], dtype)
        self._rotary = decoder.rotary_emb
        self._angles: dict[tuple[int, torch.device], tuple[Tensor, Tensor]] = {}
        self._state: tuple[torch.device, list[int]] | None = None  # of the weights that were copied last
        self._parameters = list(model.parameters())
        self._block = torch.compile(self._compute_block) if compile else self._compute_block
        self._finish = torch.compile(self._compute_finish) if compile else self._compute_finish
        self._chunk = torch.compile(chunk_loss) if compile else chunk_loss

    def _packed(self, layer: Any) -> tuple[PackedWeight, ...]:
        attention, feed_forward = layer.self_attn, layer.mlp
        return (
            PackedWeight([attention.q_proj.weight, attention.k_proj.weight, attention.v_proj.weight], self.dtype),
            PackedWeight([attention.o_proj.weight], self.dtype),
            PackedWeight([feed_forward.gate_proj.weight, feed_forward.up_proj.weight], self.dtype),
            PackedWeight([feed_forward.down_proj.weight], self.dtype),
        )

    def _norm_weights(self, layer: Any) -> tuple[Tensor | None, ...]:
        attention = layer.self_attn
        return (
            layer.input_layernorm.weight,
            layer.post_attention_layernorm.weight,
            attention.q_norm.weight if hasattr(attention, "q_norm") else None,
            attention.k_norm.weight if hasattr(attention, "k_norm") else None,
        )

    def weights_changed(self) -> None:
        """See `Computation`."""
        self._state = None

    def loss_sum(self, inputs: Tensor, targets: Tensor, numbers: Tensor) -> Tensor:
        """See `Computation`."""
        self._refresh()
        mask = visible(numbers, self.window)
        cosine, sine = self._rotation(inputs.shape[1])
        training = self.model.training
        attention_dropout = self.attention_dropout if training else 0.0
        residual_dropout = self.residual_dropout if training else 0.0
        hidden_BTD = functional.embedding(inputs, self._embedding, padding_idx=self._padding)
        for packed, norms in zip(self._layers, self._norms, strict=True):
            arguments = (
                hidden_BTD,
                *(weight() for weight in packed),
                *norms,
                cosine,
                sine,
                mask,
                attention_dropout,
                residual_dropout,
            )
            if self.activation_checkpointing:
                hidden_BTD = checkpoint(self._block, *arguments, use_reentrant=False)
            else:
                hidden_BTD = self._block(*arguments)
        last_ND = self._finish(hidden_BTD, self._last_norm)
        return linear_cross_entropy(last_ND, self._head(), targets.reshape(-1), self._chunk)

    def _refresh(self) -> None:
        """Copy the weights where they have changed; every change in place counts a tensor's version up.

        Moving a model to another device does not: the device is looked at as well.
        """
        state = (self._embedding.device, [parameter._version for parameter in self._parameters])
        if state != self._state:
            for packed in (*(weight for layer in self._layers for weight in layer), self._head):
                packed.refresh()
            self._state = state

    def _rotation(self, length: int) -> tuple[Tensor, Tensor]:
        """Cosine and sine of every position's angles, each [T, 1, W / 2]."""
        device = self._embedding.device
        place = (length, device)
        if place not in self._angles:
            positions = torch.arange(length, device=device)[None]
            with torch.no_grad():
                cosine, sine = self._rotary(torch.zeros((), device=device), positions)
            half = self.width // 2
            self._angles[place] = (cosine[0, :, None, :half].contiguous(), sine[0, :, None, :half].contiguous())
        return self._angles[place]

    def _compute_block(
        self,
        hidden: Tensor,
        joined: Tensor,
        out: Tensor,
        gate_up: Tensor,
        down: Tensor,
        first_norm: Tensor,
        second_norm: Tensor,
        query_norm: Tensor | None,
        key_norm: Tensor | None,
        cosine: Tensor,
        sine: Tensor,
        mask: Tensor,
        attention_dropout: float,
        residual_dropout: float,
    ) -> Tensor:
        rows, length, _ = hidden.shape
        dtype, width = joined.dtype, self.width
        heads_BTHW = functional.linear(_norm(hidden, first_norm, self.epsilon).to(dtype), joined).view(
            rows, length, self.heads + 2 * self.key_value_heads, width
        )
        query, key, value = heads_BTHW.split([self.heads, self.key_value_heads, self.key_value_heads], 2)
        if query_norm is not None and key_norm is not None:
            query, key = _norm(query, query_norm, self.epsilon), _norm(key, key_norm, self.epsilon)
        query = _rotate(query.float(), cosine, sine).to(dtype).transpose(1, 2)
        key = _rotate(key.float(), cosine, sine).to(dtype).transpose(1, 2)
        mixed = attend(query, key, value.transpose(1, 2), mask, width**-0.5, attention_dropout)
        mixed = functional.linear(mixed.transpose(1, 2).reshape(rows, length, self.heads * width), out)
        if residual_dropout:
            mixed = functional.dropout(mixed, residual_dropout)
        hidden = hidden + mixed
        gate, up = functional.linear(_norm(hidden, second_norm, self.epsilon).to(dtype), gate_up).chunk(2, -1)
        inner = (functional.silu(gate.float()) * up).to(dtype)
        added = functional.linear(inner, down)
        if residual_dropout:
            added = functional.dropout(added, residual_dropout)
        return hidden + added

    def _compute_finish(self, hidden: Tensor, weight: Tensor) -> Tensor:
        return _norm(hidden, weight, self.epsilon).to(self.dtype).flatten(0, 1)
