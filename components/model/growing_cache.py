"""What a decoder remembers while it writes: keys and values in buffers that grow in blocks, or a recurrent state.

`transformers`' DynamicCache concatenates: each token copies all keys and values of the batch. Its StaticCache attends
over the whole reserved length at every step. Import inside functions: this module needs torch and transformers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer

from components.model.architectures import attention_mask, context_of, of

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

_BLOCK = 64  # tokens


class GrowingLayer(DynamicLayer):
    """Keys and values of one layer, [rows, heads, tokens, width]; `keys` and `values` are views into larger buffers."""

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Append the states of new tokens and return those of all tokens."""
        length = self.get_seq_length()
        total = length + key_states.shape[-2]
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self._buffers = [key_states[:, :, :0], value_states[:, :, :0]]
        for index, states in enumerate((key_states, value_states)):
            buffer = self._buffers[index]
            if total > buffer.shape[-2]:
                rows, heads, _, width = states.shape
                grown = states.new_empty(rows, heads, -(-total // _BLOCK) * _BLOCK, width)
                grown[:, :, :length] = buffer[:, :, :length]
                self._buffers[index] = buffer = grown
            buffer[:, :, length:total] = states
        self.keys, self.values = (buffer[:, :, :total] for buffer in self._buffers)
        return self.keys, self.values

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        """Keep only the rows `indices`."""
        length = self.get_seq_length()
        self._buffers = [buffer[indices] for buffer in self._buffers]
        self.keys, self.values = (buffer[:, :, :length] for buffer in self._buffers)


def growing_cache() -> Cache:
    """An empty cache for a decoder whose layers all keep every token's keys and values."""
    return Cache(layer_class_to_replicate=GrowingLayer)


class Memory:
    """What the model has read in each row of a batch, and the arguments with which it reads on.

    Rows begin with prompts padded on the left: padding is masked and has no position.
    """

    def __init__(self, config: PreTrainedConfig, lengths: Sequence[int], device: torch.device) -> None:
        width = max(lengths)
        places = torch.arange(width, device=device)
        self.config = config
        architecture = of(config)
        self.recurrent = architecture.recurrent
        # else transformers makes masks out of what is padding: for flash attention, which takes no other, and for
        # families that it knows better
        self.masks = architecture.packs and not str(config._attn_implementation).startswith("flash")
        self.window: int | None = getattr(config, "sliding_window", None)
        self.context = context_of(config)
        self.read_BT = places >= width - torch.tensor(list(lengths), device=device)[:, None]
        self.cache = growing_cache() if architecture.packs else DynamicCache(config=config)

    def first(self, inputs: torch.Tensor) -> dict[str, Any]:
        """Arguments for the prompts, int64 [rows, width]."""
        if self.recurrent:
            return {"input_ids": inputs, "cache_params": self.cache, "attention_mask": self.read_BT}
        width = inputs.shape[1]
        places_T = torch.arange(width, device=inputs.device)
        back_TT = places_T[:, None] - places_T
        visible_TT = (back_TT >= 0) if self.window is None else (back_TT >= 0) & (back_TT < self.window)
        # itself too, so that padding has something to attend to
        visible_BTT = (self.read_BT[:, None] & visible_TT) | (back_TT == 0)
        positions = (self.read_BT.long().cumsum(1) - 1).clamp(min=0)
        return self._attending(inputs, visible_BTT, positions)

    def next(self, tokens: torch.Tensor) -> dict[str, Any]:
        """Arguments for one new token a row, int64 [rows]."""
        self.read_BT = torch.cat([self.read_BT, self.read_BT.new_ones(len(tokens), 1)], 1)
        if self.recurrent:
            return {"input_ids": tokens[:, None], "cache_params": self.cache}
        visible_BT = self.read_BT
        if self.window is not None and visible_BT.shape[1] > self.window:
            visible_BT = visible_BT.clone()
            visible_BT[:, : -self.window] = False
        # a row that has ended may stay for some steps, past the last of learnt positions
        positions = (self.read_BT.sum(1, keepdim=True) - 1).clamp(max=self.context - 1)
        return self._attending(tokens[:, None], visible_BT[:, None], positions)

    def keep(self, rows: torch.Tensor) -> None:
        """Go on with the rows of these indices alone."""
        self.read_BT = self.read_BT[rows]
        if self.recurrent:
            self.cache.reorder_cache(rows)
        else:
            self.cache.batch_select_indices(rows)

    def _attending(self, inputs: torch.Tensor, visible: torch.Tensor, positions: torch.Tensor) -> dict[str, Any]:
        return {
            "input_ids": inputs,
            "attention_mask": attention_mask(self.config, visible[:, None]) if self.masks else self.read_BT,
            "position_ids": positions,
            "past_key_values": self.cache,
        }
