"""Dropout on what blocks add: for every family, while training only."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from components.configuration import Pretrain
from components.errors import InkwellError
from components.training.residual_dropout import add_residual_dropout

SHAPE = {"hidden_size": 32, "layers": 2, "heads": 2, "key_value_heads": 2, "feed_forward_size": 48, "block": 32}


@pytest.mark.parametrize("architecture", ["qwen3", "llama", "mistral", "gpt2", "mixtral", "mamba2"])
def test_parts_of_blocks_are_dropped_while_training(architecture: str) -> None:
    from components.model.architectures import build

    torch.manual_seed(1)
    parameters = Pretrain.model_validate({"architecture": architecture, "context": 32, "state_size": 16, **SHAPE})
    model = build(parameters, 64)
    ids = torch.arange(4, 20)[None]
    model.eval()
    with torch.inference_mode():
        before = model(input_ids=ids).logits
        add_residual_dropout(model, 0.5)
        assert torch.equal(model(input_ids=ids).logits, before), "nothing is dropped in evaluation"
        model.train()
        torch.manual_seed(2)
        one = model(input_ids=ids).logits
        other = model(input_ids=ids).logits
        torch.manual_seed(2)
        again = model(input_ids=ids).logits
    assert not torch.equal(one, before)
    assert not torch.equal(one, other)
    assert torch.equal(one, again)


def test_everything_dropped_leaves_the_embeddings_alone() -> None:
    from components.model.architectures import new_model

    model = new_model(
        "llama", vocab_size=64, hidden_size=32, num_hidden_layers=2, intermediate_size=48, num_attention_heads=2
    )
    add_residual_dropout(model, 1.0)
    model.train()
    ids = torch.arange(4, 20)[None]
    with torch.inference_mode():
        stream = model.get_input_embeddings()(ids)
        assert torch.equal(model(input_ids=ids).logits, model.lm_head(model.model.norm(stream)))


def test_a_model_without_known_parts_is_refused_in_words() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList([nn.Linear(2, 2)])
            self.config = type("Config", (), {"model_type": "odd"})()

    with pytest.raises(InkwellError, match="residual_dropout"):
        add_residual_dropout(Odd(), 0.1)  # type: ignore[arg-type]
