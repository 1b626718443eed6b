"""Dropout of what attention and feed-forward blocks add to the residual stream, for any stock decoder.

Most configurations of transformers have dropout of attention weights only; this one (Vaswani et al. 2017, section 5.4)
is put on from outside, by hooks that act while the model trains, and leaves configuration and saved weights as they are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import nn
from torch.nn import functional

from components.errors import InkwellError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# what transformers calls the parts of a block whose outputs are added to the stream
PARTS = ("self_attn", "attn", "attention", "mlp", "block_sparse_moe", "feed_forward", "mixer")


def add_residual_dropout(model: PreTrainedModel, share: float) -> None:
    """Drop `share` (0 to 1) of the numbers that each part of each block adds, while `model` is in training mode."""
    if not share:
        return
    found = [
        part
        for module in model.modules()
        if isinstance(module, nn.ModuleList)
        for block in module
        for name, part in block.named_children()
        if name in PARTS
    ]
    if not found:
        raise InkwellError(
            f"pretrain.residual_dropout: no attention or feed-forward part is known in a {model.config.model_type} model; set it to 0."
        )

    def drop(module: nn.Module, _: Any, output: Any) -> Any:
        if not module.training:
            return output
        if isinstance(output, tuple):
            return (functional.dropout(output[0], share), *output[1:])
        return functional.dropout(output, share)

    for part in found:
        part.register_forward_hook(drop)
