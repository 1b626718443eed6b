"""No decoder of the table holds all logits of a large batch, and none learns anything else for it."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from components.configuration import Sft
from components.model.architectures import TABLE
from components.sft.lora import add_adapters
from components.training.computation import Computation, StockComputation, computation_for
from components.training.order import IGNORED
from tests.tiny_models import VOCABULARY, sharp, tiny

WIDTH = 64  # of the models: the head, turned, is a tensor of so many rows
TOKENS = 96
Gradients = dict[str, torch.Tensor]


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks of seven tokens, which do not divide a batch evenly."""
    monkeypatch.setattr("components.training.fused.loss._CHUNK_LOGITS", 7 * VOCABULARY)


class Widest(TorchDispatchMode):
    """The most rows of a tensor that is as wide as the vocabulary."""

    def __init__(self) -> None:
        super().__init__()
        self.rows = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = function(*args, **(kwargs or {}))
        for tensor in tree_iter(made):
            if isinstance(tensor, torch.Tensor) and tensor.ndim > 1 and tensor.shape[-1] == VOCABULARY:
                self.rows = max(self.rows, tensor.numel() // VOCABULARY)
        return made


def _model(architecture: str, **changed: Any) -> Any:
    model = sharp(tiny(architecture, **changed)).train()
    if hasattr(model.config, "router_aux_loss_coef"):
        model.config.router_aux_loss_coef = 1.0  # what routers add must not be lost in rounding
    return model


def _learnt(model: Any, computation: Computation, watched: bool = True) -> tuple[float, Gradients, int]:
    """Loss, gradients, and the most tokens whose logits were there at once (or the width, if that is more).

    watched: False for what is compiled, which would not be where somebody looks at its tensors.
    """
    generator = torch.Generator().manual_seed(5)
    inputs, targets = (torch.randint(0, VOCABULARY, (3, 32), generator=generator) for _ in range(2))
    targets[:, ::5] = IGNORED
    numbers = torch.tensor([0] * 11 + [1] * 14 + [2] * 7).expand(3, 32)
    model.zero_grad(set_to_none=True)
    widest = Widest()
    with widest if watched else nullcontext():
        loss = computation.loss_sum(inputs, targets, numbers)
        loss.backward()
    found = {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}
    return loss.item(), found, widest.rows


def _assert_alike(found: Gradients, wanted: Gradients) -> None:
    assert found.keys() == wanted.keys()
    for name, gradient in wanted.items():
        assert torch.allclose(found[name], gradient, rtol=1e-3, atol=1e-5 * float(gradient.abs().max())), name


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("architecture", TABLE)
def test_by_chunks_loss_and_gradients_are_those_of_all_logits(architecture: str, tied: bool) -> None:
    model = _model(architecture, tie_embeddings=tied)
    loss, wanted, held = _learnt(model, StockComputation(model, all_logits=True))
    by_chunks, found, most = _learnt(model, computation_for(model, dtype=torch.float32, compile=False, fused="off"))
    assert most <= WIDTH < TOKENS <= held
    assert by_chunks == pytest.approx(loss, rel=1e-5)
    _assert_alike(found, wanted)


@pytest.mark.parametrize("architecture", TABLE)
def test_in_bfloat16_chunks_are_as_near_to_float32(architecture: str) -> None:
    model = _model(architecture)
    exact, wanted, _ = _learnt(model, StockComputation(model, all_logits=True))
    whole, wholes, _ = _learnt(model, StockComputation(model, dtype=torch.bfloat16, all_logits=True))
    by_chunks, found, most = _learnt(model, StockComputation(model, dtype=torch.bfloat16))
    assert most <= WIDTH
    assert abs(by_chunks - exact) <= 2 * abs(whole - exact) + 1e-3 * exact
    for name, gradient in wanted.items():
        off_whole, off_chunks = (float((one[name] - gradient).norm()) for one in (wholes, found))
        assert off_chunks <= 2 * off_whole + 0.01 * float(gradient.norm()), name


def test_compiled_it_computes_the_same() -> None:
    model = _model("gpt2")
    loss, wanted, _ = _learnt(model, StockComputation(model, all_logits=True))
    compiled, found, _ = _learnt(model, StockComputation(model, compile=True), watched=False)
    assert compiled == pytest.approx(loss, rel=1e-5)
    _assert_alike(found, wanted)


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_beside_adapters_the_head_learns_nothing(architecture: str) -> None:
    model: Any = add_adapters(_model(architecture), Sft(method="lora", lora_rank=4))
    for name, weight in model.named_parameters():
        if "lora_B" in name:  # zeros would hide what passes through them
            torch.nn.init.normal_(weight, std=0.1)
    loss, wanted, held = _learnt(model, StockComputation(model, all_logits=True))
    by_chunks, found, most = _learnt(model, computation_for(model, dtype=torch.float32, compile=False))
    assert most <= WIDTH < TOKENS <= held
    assert by_chunks == pytest.approx(loss, rel=1e-5)
    assert all("lora_" in name for name in found)
    _assert_alike(found, wanted)


def test_modules_in_the_hands_of_a_strategy_and_scaled_losses_keep_all_logits() -> None:
    model = _model("llama")
    divided = computation_for(model, dtype=torch.float32, compile=False, stock_modules=True)
    scaled = computation_for(model, dtype=torch.float16, compile=False)
    for computation in (divided, scaled):
        assert _learnt(model, computation)[2] >= TOKENS


def test_a_batch_that_is_one_chunk_is_computed_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("components.training.fused.loss._CHUNK_LOGITS", TOKENS * VOCABULARY)
    model = _model("gpt2")
    assert _learnt(model, StockComputation(model))[2] >= TOKENS


def test_logits_that_a_model_caps_are_left_to_it() -> None:
    from transformers import Gemma2Config, Gemma2ForCausalLM

    shape = {"hidden_size": WIDTH, "intermediate_size": 96, "num_hidden_layers": 1, "head_dim": 32}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2}
    torch.manual_seed(0)
    model = Gemma2ForCausalLM(Gemma2Config(vocab_size=VOCABULARY, final_logit_softcapping=1.0, **shape, **heads))
    torch.nn.init.normal_(model.get_output_embeddings().weight)
    loss, _, held = _learnt(model.train(), StockComputation(model))
    assert held >= TOKENS
    assert loss == _learnt(model, StockComputation(model, all_logits=True))[0]
