"""Fused modules give the loss and the gradients of the stock ones, and every weight of theirs reaches the optimizer."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from components.configuration.training import Machine, Optimization, Parallel
from components.errors import InkwellError
from components.launch.processes import Place
from components.machine.devices import fused_modules
from components.machine.hardware import decide
from components.model.architectures import new_model
from components.model.forward import visible
from components.training.averaging import WeightAverage
from components.training.computation import StockComputation, computation_for
from components.training.distributed import World
from components.training.fused import attention
from components.training.fused.attention import attend
from components.training.fused.decoder import FusedDecoder, unsupported
from components.training.fused.loss import linear_cross_entropy
from components.training.fused.weights import PackedWeight
from components.training.order import IGNORED
from components.training.recipe import prepare
from tests.training.runs import SMALL, Tiny, plain_choices, tiny_decoder

SHAPE = {
    "vocab_size": 96,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "intermediate_size": 160,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
}


def _model(architecture: str = "qwen3", **changed: Any) -> Any:
    torch.manual_seed(3)
    heads = {"num_key_value_heads": 2, "head_dim": 16} if architecture != "gpt2" else {}
    model = new_model(architecture, **{**SHAPE, **heads, **changed})
    for name, weight in model.named_parameters():
        if "norm" in name:  # ones would hide a norm that is left out
            torch.nn.init.uniform_(weight, 0.5, 1.5)
    return model.train()


def _batch() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(5)
    inputs, targets = (torch.randint(0, 96, (3, 40), generator=generator) for _ in range(2))
    targets[:, ::5] = IGNORED
    numbers = torch.tensor([0] * 13 + [1] * 20 + [2] * 7).expand(3, 40)
    return inputs, targets, numbers


def _gradients(model: Any, computation: Any) -> tuple[float, dict[str, torch.Tensor]]:
    model.zero_grad(set_to_none=True)
    loss = computation.loss_sum(*_batch())
    loss.backward()
    return loss.item(), {name: weight.grad.clone() for name, weight in model.named_parameters()}


@pytest.mark.parametrize(
    ("architecture", "changed"),
    [
        ("qwen3", {}),
        ("llama", {}),
        ("llama", {"tie_word_embeddings": False}),
        ("llama", {"num_key_value_heads": 1}),
        ("mistral", {"sliding_window": 8}),
        ("mistral", {"sliding_window": None}),
    ],
)
def test_loss_and_gradients_equal_those_of_the_stock_modules(architecture: str, changed: dict[str, Any]) -> None:
    model = _model(architecture, **changed)
    loss, wanted = _gradients(model, StockComputation(model))
    fused, found = _gradients(model, FusedDecoder(model, dtype=torch.float32, compile=False))
    assert fused == pytest.approx(loss, rel=1e-5)
    for name, gradient in wanted.items():
        assert torch.allclose(found[name], gradient, rtol=1e-3, atol=1e-5 * float(gradient.abs().max())), name


def test_in_bfloat16_it_is_as_near_to_float32_as_the_stock_modules_are() -> None:
    model = _model()
    exact, wanted = _gradients(model, StockComputation(model))
    stock, stock_gradients = _gradients(model, StockComputation(model, dtype=torch.bfloat16))
    fused, fused_gradients = _gradients(model, FusedDecoder(model, dtype=torch.bfloat16, compile=False))
    assert abs(fused - exact) <= 2 * abs(stock - exact) + 1e-3 * exact
    for name, gradient in wanted.items():
        off_stock, off_fused = (float((g[name] - gradient).norm()) for g in (stock_gradients, fused_gradients))
        assert off_fused <= 2 * off_stock + 0.01 * float(gradient.norm()), name


def test_compiled_it_computes_the_same() -> None:
    model = _model()
    loss, wanted = _gradients(model, FusedDecoder(model, dtype=torch.float32, compile=False))
    compiled, found = _gradients(model, FusedDecoder(model, dtype=torch.float32, compile=True))
    assert compiled == pytest.approx(loss, rel=1e-5)
    for name, gradient in wanted.items():
        assert torch.allclose(found[name], gradient, rtol=1e-3, atol=1e-5 * float(gradient.abs().max())), name


def test_a_step_of_the_optimizer_or_a_checkpoint_is_seen_at_once() -> None:
    model = _model()
    computation = FusedDecoder(model, dtype=torch.bfloat16, compile=False)
    before = computation.loss_sum(*_batch()).item()
    state = {name: weight.clone() for name, weight in model.state_dict().items()}
    with torch.no_grad():
        model.lm_head.weight.mul_(2.0)
        model.model.layers[1].mlp.down_proj.weight.mul_(3.0)
    changed = computation.loss_sum(*_batch()).item()
    assert changed == FusedDecoder(model, dtype=torch.bfloat16, compile=False).loss_sum(*_batch()).item() != before
    model.load_state_dict(state)
    assert computation.loss_sum(*_batch()).item() == before


def test_activation_checkpointing_changes_nothing() -> None:
    model = _model()
    loss, wanted = _gradients(model, FusedDecoder(model, dtype=torch.float32, compile=False))
    again, found = _gradients(
        model, FusedDecoder(model, dtype=torch.float32, compile=False, activation_checkpointing=True)
    )
    assert again == loss
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


def test_dropout_acts_in_training_only_and_follows_the_seed() -> None:
    model = _model(attention_dropout=0.2)
    computation = FusedDecoder(model, dtype=torch.float32, compile=False, residual_dropout=0.2)
    losses = []
    for _ in range(2):
        torch.manual_seed(11)
        losses.append(computation.loss_sum(*_batch()).item())
    assert losses[0] == losses[1] != computation.loss_sum(*_batch()).item()
    model.eval()
    assert computation.loss_sum(*_batch()).item() == pytest.approx(StockComputation(model).loss_sum(*_batch()).item())


def test_long_rows_take_flash_attention_with_the_same_outcome(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(1)
    query, key, value = (torch.randn(2, heads, 30, 16, generator=generator) for heads in (4, 2, 2))
    mask = visible(torch.tensor([0] * 11 + [1] * 19).expand(2, 30))
    written_out = attend(query, key, value, mask, 0.25, 0.0)
    monkeypatch.setattr(attention, "LONGEST_WRITTEN_OUT", 16)
    assert torch.allclose(attend(query, key, value, mask, 0.25, 0.0), written_out, atol=1e-5)


def test_who_sees_whom() -> None:
    seen = visible(torch.tensor([[0, 0, 0, 1, 1]]), window=2)[0, 0].int().tolist()
    assert seen == [[1, 0, 0, 0, 0], [1, 1, 0, 0, 0], [0, 1, 1, 0, 0], [0, 0, 0, 1, 0], [0, 0, 0, 1, 1]]


def test_the_loss_by_chunks_is_the_cross_entropy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("components.training.fused.loss._CHUNK_LOGITS", 96 * 7)  # chunks of 7 of 40 tokens
    generator = torch.Generator().manual_seed(2)
    hidden = torch.randn(40, 16, generator=generator, requires_grad=True)
    head = torch.randn(96, 16, generator=generator, requires_grad=True)
    targets = torch.randint(0, 96, (40,), generator=generator)
    targets[3:9] = IGNORED
    wanted = functional.cross_entropy(hidden @ head.T, targets, ignore_index=IGNORED, reduction="sum")
    gradients = torch.autograd.grad(wanted, (hidden, head))
    found = linear_cross_entropy(hidden, head, targets)
    assert found.item() == pytest.approx(wanted.item(), rel=1e-6)
    for one, other in zip(torch.autograd.grad(3 * found, (hidden, head)), gradients, strict=True):
        assert torch.allclose(one, 3 * other, atol=1e-5)


def test_the_gradient_of_the_head_is_as_exact_with_many_chunks_as_with_one(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(2)
    hidden, head = (torch.randn(size, 32, generator=generator).bfloat16() for size in (1024, 96))
    head.requires_grad_()
    targets = torch.randint(0, 96, (1024,), generator=generator)
    wide = head.detach().float().requires_grad_()
    wanted = functional.cross_entropy(hidden.float() @ wide.T, targets, reduction="sum")
    (exact,) = torch.autograd.grad(wanted, wide)

    def error(tokens_a_chunk: int) -> float:
        monkeypatch.setattr("components.training.fused.loss._CHUNK_LOGITS", 96 * tokens_a_chunk)
        (found,) = torch.autograd.grad(linear_cross_entropy(hidden, head, targets), head)
        assert found.dtype == torch.bfloat16
        return float((found.float() - exact).norm() / exact.norm())

    assert error(8) < 1.2 * error(1024) < 0.01


def test_copies_follow_weights_that_are_moved() -> None:
    """`meta` stands for a card; moved there a parameter is another object, which it is not on a card."""
    packed = PackedWeight([nn.Parameter(torch.ones(2, 3)), nn.Parameter(torch.ones(4, 3))], torch.bfloat16)
    packed.refresh()
    packed.weights = [nn.Parameter(weight.detach().to("meta")) for weight in packed.weights]
    packed.refresh()
    assert packed.packed.device.type == "meta"
    assert packed().shape == (6, 3)
    model = tiny_decoder()
    average = WeightAverage(model, 0.9)
    average._weights = list(model.to("meta").parameters())
    average.update()
    assert {tensor.device.type for tensor in average._averages} == {"meta"}


def test_a_model_is_where_it_trains_before_anything_is_derived_from_it() -> None:
    choices = replace(plain_choices("on"), device="meta")
    training = prepare(Optimization(**SMALL), tiny_decoder(), Tiny(), 1, choices, World(Place(), Parallel()))
    assert isinstance(training.computation, FusedDecoder)
    assert training.computation._head.packed.device.type == "meta"


def test_half_precision_with_scaled_losses_keeps_the_stock_modules() -> None:
    assert isinstance(computation_for(_model(), dtype=torch.float16, compile=False), StockComputation)
    with pytest.raises(InkwellError, match="fp16"):
        computation_for(_model(), dtype=torch.float16, compile=False, fused="on")


def test_an_attention_that_is_asked_for_is_that_of_the_models_own_modules(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a new run, and in one that began without the wish."""
    monkeypatch.setenv("INKWELL_CACHE", str(tmp_path / "cache"))
    plain = Machine(precision="fp32", threads=1, compile="off", calibrate=False)

    def computed(machine: Machine, work: str) -> tuple[type, str]:
        (tmp_path / work).mkdir(exist_ok=True)
        choices = decide(machine, 1000, tmp_path / work)
        training = prepare(Optimization(**SMALL), tiny_decoder(), Tiny(), 1, choices, World(Place(), Parallel()))
        return type(training.computation), training.model.config._attn_implementation

    assert computed(plain, "begun") == (FusedDecoder, "sdpa")
    for wished in ("sdpa", "eager"):
        asked = plain.model_copy(update={"attention": wished})
        for work in (f"new with {wished}", "begun"):
            assert computed(asked, work) == (StockComputation, wished)
    with pytest.raises(InkwellError, match=r"machine\.attention = 'eager' is for the model's own modules"):
        decide(asked.model_copy(update={"fused": "on"}), 1000, tmp_path)


def test_layers_of_float8_are_not_gone_past() -> None:
    assert fused_modules(Machine(precision="fp8")) == "off"
    with pytest.raises(InkwellError, match=r"machine\.fused = 'on': machine\.precision = 'fp8'"):
        fused_modules(Machine(precision="fp8", fused="on"))


def test_what_has_no_equivalent_keeps_its_own_modules() -> None:
    model = _model("gpt2")
    assert unsupported(model) == "there are no fused modules for gpt2"
    assert isinstance(computation_for(model, dtype=torch.float32, compile=False), StockComputation)
    with pytest.raises(InkwellError, match=r"machine\.fused = 'on': there are no fused modules for gpt2; use auto"):
        computation_for(model, dtype=torch.float32, compile=False, fused="on")
    assert isinstance(computation_for(_model(), dtype=torch.float32, compile=False), FusedDecoder)
    assert isinstance(computation_for(_model(), dtype=torch.float32, compile=False, fused="off"), StockComputation)
