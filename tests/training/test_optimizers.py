"""Which rule moves which weight, and that Muon does what its authors' does."""

from __future__ import annotations

from copy import deepcopy as copy_of
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from components.configuration.training import Optimization, Parallel
from components.launch.processes import Place
from components.model.architectures import new_model
from components.training import sharded_optimizer
from components.training.bare_step import bare_step
from components.training.distributed import World
from components.training.muon import Muon, orthogonalise
from components.training.optimizers import adamw, attention_blocks, muon_and_adamw, transposed_matrices
from components.training.recipe import prepare
from tests.training import runs

RATES = {"matrix_learning_rate": 0.02, "embedding_learning_rate": 0.1, "learning_rate": 0.003, "weight_decay": 0.1}
SMALL = {
    "vocab_size": 64,
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "intermediate_size": 64,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
}


def _model(architecture: str, **changed: Any) -> Any:
    torch.manual_seed(0)
    return new_model(architecture, **{**SMALL, **changed})


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("architecture", ["llama", "gpt2", "mixtral"])
def test_every_weight_has_exactly_one_optimizer_and_embeddings_are_not_muons(architecture: str, tied: bool) -> None:
    model = _model(architecture, tie_word_embeddings=tied)
    muon, rest = muon_and_adamw(model, **RATES)
    moved = [p for optimizer in (muon, rest) for group in optimizer.param_groups for p in group["params"]]
    assert sorted(map(id, moved)) == sorted(map(id, model.parameters()))
    muons = {id(p) for group in muon.param_groups for p in group["params"]}
    assert id(model.get_input_embeddings().weight) not in muons
    assert id(model.get_output_embeddings().weight) not in muons
    routers = [p for name, p in model.named_parameters() if name.endswith("mlp.gate.weight")]
    assert (len(routers) == 1) == (architecture == "mixtral")
    assert not {id(p) for p in routers} & muons


def test_adamw_decays_matrices_only() -> None:
    model = _model("llama")
    (optimizer,) = adamw(model, learning_rate=0.01, weight_decay=0.3)
    decay = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert len(decay) == len(list(model.parameters()))
    assert {decay[id(p)] for p in model.parameters() if p.ndim > 1} == {0.3}
    assert {decay[id(p)] for p in model.parameters() if p.ndim == 1} == {0.0}


@pytest.mark.parametrize("shape", [(48, 32), (32, 48), (32, 32)])
def test_whole_matrices_move_as_torch_moves_them(shape: tuple[int, int]) -> None:
    """Against `torch.optim.Muon`, over several steps, within what bfloat16 rounds."""
    torch.manual_seed(1)
    start = torch.randn(shape)
    ours, theirs = (torch.nn.Parameter(start.clone()) for _ in range(2))
    settings = {"lr": 0.02, "weight_decay": 0.1, "momentum": 0.95}
    pair = [(ours, Muon([ours], **settings)), (theirs, torch.optim.Muon([theirs], adjust_lr_fn="original", **settings))]
    for _ in range(5):
        gradient = torch.randn(shape)
        for parameter, optimizer in pair:
            parameter.grad = gradient.clone()
            optimizer.step()
    assert (ours - theirs).norm() <= 0.02 * (theirs - start).norm()


def test_matrices_of_one_shape_do_not_hear_each_other() -> None:
    torch.manual_seed(2)
    weights = [torch.nn.Parameter(torch.randn(24, 16)) for _ in range(3)]
    gradients = [torch.randn(24, 16) for _ in range(3)]
    alone = []
    for weight, gradient in zip(weights, gradients, strict=True):
        copy = torch.nn.Parameter(weight.detach().clone())
        copy.grad = gradient.clone()
        Muon([copy], lr=0.1).step()
        alone.append(copy)
    for weight, gradient in zip(weights, gradients, strict=True):
        weight.grad = gradient.clone()
    Muon(weights, lr=0.1).step()
    for together, single in zip(weights, alone, strict=True):
        assert torch.allclose(together, single, atol=1e-3)


@pytest.mark.parametrize(("side", "axis"), [("rows", 0), ("columns", 1)])
def test_blocks_move_as_matrices_of_their_own(side: Any, axis: int) -> None:
    torch.manual_seed(3)
    start, gradient = torch.randn(32, 32), torch.randn(32, 32)
    whole = torch.nn.Parameter(start.clone())
    whole.grad = gradient.clone()
    Muon([{"params": [whole], "blocks": (side, 4)}], lr=0.1).step()
    for part, was, slope in zip(whole.chunk(4, axis), start.chunk(4, axis), gradient.chunk(4, axis), strict=True):
        expected = orthogonalise(slope[None])[0].float()
        assert torch.allclose(was - part, 0.1 * expected, atol=2e-3)


def test_a_stored_transpose_is_scaled_by_its_outputs() -> None:
    torch.manual_seed(4)
    start, gradient = torch.randn(16, 64), torch.randn(16, 64)  # 16 inputs, 64 outputs
    stored, usual = torch.nn.Parameter(start.clone()), torch.nn.Parameter(start.T.contiguous())
    stored.grad, usual.grad = gradient.clone(), gradient.T.contiguous()
    Muon([{"params": [stored], "transposed": True}], lr=0.1).step()
    Muon([usual], lr=0.1).step()
    assert torch.allclose(stored.T, usual, atol=2e-3)


def test_stacks_of_experts_move_one_by_one() -> None:
    torch.manual_seed(5)
    stack, gradient = torch.nn.Parameter(torch.randn(3, 24, 16)), torch.randn(3, 24, 16)
    singles = [torch.nn.Parameter(part.detach().clone()) for part in stack]
    stack.grad = gradient.clone()
    Muon([stack], lr=0.1).step()
    for single, part in zip(singles, gradient, strict=True):
        single.grad = part.clone()
    Muon(singles, lr=0.1).step()
    assert torch.allclose(stack, torch.stack(singles), atol=1e-3)


def test_orthogonalised_singular_values_are_near_one() -> None:
    torch.manual_seed(6)
    for shape in [(2, 32, 80), (2, 80, 32)]:
        values = torch.linalg.svdvals(orthogonalise(torch.randn(shape)).float())
        assert float(values.min()) > 0.6
        assert float(values.max()) < 1.3


@pytest.mark.parametrize("shape", [(3, 32, 80), (3, 80, 32), (3, 64, 64)])
def test_in_float32_matrices_come_out_as_in_bfloat16_but_for_rounding(shape: tuple[int, int, int]) -> None:
    torch.manual_seed(8)
    matrices = torch.randn(shape)
    wide, narrow = orthogonalise(matrices, dtype=torch.float32), orthogonalise(matrices)
    assert (wide.dtype, narrow.dtype) == (torch.float32, torch.bfloat16)
    assert float((wide - narrow).abs().max()) < 0.02
    assert float((wide - narrow).norm() / wide.norm()) < 0.03


class Products(TorchDispatchMode):
    """Number formats of batched products."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[torch.dtype] = set()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = function(*args, **(kwargs or {}))
        if function in (torch.ops.aten.bmm.default, torch.ops.aten.baddbmm.default):
            self.seen.add(made.dtype)
        return made


@pytest.mark.parametrize("native", [True, False])
def test_a_step_multiplies_in_bfloat16_only_where_that_is_native(native: bool) -> None:
    """A run in float32: nothing but Muon could."""
    choices = replace(runs.plain_choices("off"), muon_bf16=native)
    training = prepare(
        Optimization(**runs.SMALL), runs.tiny_decoder(), runs.Tiny(), 1, choices, World(Place(), Parallel())
    )
    optimizers = training.make_optimizers(training.model)
    with Products() as products:
        bare_step(training, optimizers, next(iter(training.loader)))
    assert (torch.bfloat16 in products.seen) is native
    assert torch.float32 in products.seen or native


def test_what_muon_iterates_in_is_the_machines_and_not_the_checkpoints() -> None:
    weights = [torch.nn.Parameter(torch.eye(8)) for _ in range(2)]
    native, other = Muon([weights[0]], lr=0.1), Muon([weights[1]], lr=0.1, bf16=False)
    other.load_state_dict(native.state_dict())
    assert sharded_optimizer._arguments(other)["bf16"] is False
    weights[1].grad = torch.ones(8, 8)
    with Products() as products:
        other.step()
    assert products.seen == {torch.float32}


def test_heads_are_found_by_name() -> None:
    llama = attention_blocks(_model("llama", num_attention_heads=4, num_key_value_heads=2))
    assert {name.split(".")[-2]: cut for name, cut in llama.items()} == {
        "q_proj": ("rows", 4),
        "k_proj": ("rows", 2),
        "v_proj": ("rows", 2),
        "o_proj": ("columns", 4),
    }
    gpt2 = _model("gpt2")
    assert set(attention_blocks(gpt2).values()) == {("columns", 6), ("rows", 2)}
    assert set(attention_blocks(gpt2)) < transposed_matrices(gpt2)


def test_a_vector_is_refused() -> None:
    with pytest.raises(ValueError, match="matrices"):
        Muon([torch.nn.Parameter(torch.zeros(3))], lr=0.1)


def test_momentum_survives_a_checkpoint() -> None:
    torch.manual_seed(7)
    weight = torch.nn.Parameter(torch.randn(8, 8))
    optimizer = Muon([{"params": [weight], "blocks": ("rows", 2)}], lr=0.1)
    weight.grad = torch.randn(8, 8)
    optimizer.step()
    copy = torch.nn.Parameter(weight.detach().clone())
    other = Muon([{"params": [copy], "blocks": ("rows", 2)}], lr=0.1)
    other.load_state_dict(copy_of(optimizer.state_dict()))  # torch shares the tensors else
    gradient = torch.randn(8, 8)
    weight.grad, copy.grad = gradient.clone(), gradient.clone()
    optimizer.step()
    other.step()
    assert torch.equal(weight, copy)
