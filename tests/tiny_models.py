"""Models of every architecture that compute in milliseconds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from components.configuration import Pretrain

if TYPE_CHECKING:
    from transformers import PreTrainedModel

VOCABULARY = 300


def tiny(architecture: str, **changes: Any) -> Pretrain:
    """Parameters of a small model of `architecture`."""
    shape = {"hidden_size": 64, "layers": 2, "heads": 4, "key_value_heads": 4, "feed_forward_size": 96, "experts": 4}
    shape |= {"state_size": 16, "block": 32, "context": 32}
    return Pretrain.model_validate({"architecture": architecture, **shape, **changes})


def sharp(parameters: Pretrain, vocabulary: int = VOCABULARY, seed: int = 3, deviation: float = 0.2) -> PreTrainedModel:
    """A model in which tokens matter to each other: fresh weights are so small that each hears hardly any but itself.

    deviation: of all weights; one over the root of the width keeps numbers in bounds.
    """
    import torch

    from components.model.architectures import build

    torch.manual_seed(seed)
    model = build(parameters, vocabulary).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=deviation)
    return model
