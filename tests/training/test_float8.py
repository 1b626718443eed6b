"""A model that trains with float8 layers is looked at, kept and handed over with those that every machine has."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import nn
from transformers import PreTrainedModel

from components.machine import precision
from components.machine.precision import leave_float8, without_float8
from tests.training.runs import fitted, prepared, quick_validation, tiny_decoder


class Float8Linear(nn.Linear):
    """torchao is not installed here: its layer, which shares the weight that it stands for, and fails outside of training."""

    calls = 0

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        assert self.training, "float8 on a processor, in float32"
        Float8Linear.calls += 1
        return super().forward(input)


Float8Linear.__module__ = "torchao.float8.float8_linear"


def convert(model: nn.Module, *, module_filter_fn: Callable[[nn.Module, str], bool]) -> None:
    """As torchao does it: layer by layer, in place."""
    for path, layer in list(model.named_modules()):
        if isinstance(layer, nn.Linear) and module_filter_fn(layer, path):
            made = Float8Linear(layer.in_features, layer.out_features, bias=False, device="meta")
            made.weight = layer.weight
            around, _, name = path.rpartition(".")
            setattr(model.get_submodule(around), name, made)


def to_float8(model: PreTrainedModel) -> None:
    """Converted with torchao there; afterwards it is not, for transformers would look for the rest of it."""
    part = ModuleType("torchao.float8")
    part.__dict__.update(convert_to_float8_training=convert)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "torchao", ModuleType("torchao"))
        patch.setitem(sys.modules, "torchao.float8", part)
        precision.to_float8(model)


def _linear(model: nn.Module) -> list[type]:
    return [type(layer) for layer in model.modules() if isinstance(layer, nn.Linear)]


LAYERS = 14  # seven in each of two blocks; the head is none of them


def test_layers_are_put_back_over_the_same_weights() -> None:
    model: Any = tiny_decoder()
    weights = {name: id(weight) for name, weight in model.named_parameters()}
    assert leave_float8(model) == []
    to_float8(model)
    assert _linear(model).count(Float8Linear) == LAYERS
    layers = list(model.modules())
    model.train()
    with without_float8(model):
        assert _linear(model).count(nn.Linear) == LAYERS + 1
        assert all(layer.training for layer in model.modules())
        model.eval()
    assert list(map(id, model.modules())) == list(map(id, layers))
    assert not any(layer.training for layer in model.modules())
    assert len(leave_float8(model)) == LAYERS
    assert {name: id(weight) for name, weight in model.named_parameters()} == weights


@pytest.mark.parametrize("ema_decay", [0.0, 0.9])
def test_who_looks_at_a_model_and_who_gets_it_need_no_float8(tmp_path: Path, ema_decay: float) -> None:
    training = prepared(ema_decay=ema_decay, checkpoints={"minutes": 60, "history_every": 6})
    to_float8(training.model)
    Float8Linear.calls = 0
    looks = []

    def sample(model: PreTrainedModel) -> list[str]:
        looks.append(Float8Linear in _linear(model))
        return [f"{quick_validation(model)['validation']:.6f}"]

    outcome = fitted(training, tmp_path, sample=sample)
    assert looks == [False, False]
    assert Float8Linear.calls == LAYERS * 12, "in the steps before the looks and in those after"
    assert outcome.model is not None
    assert set(_linear(outcome.model)) == {nn.Linear}
    assert quick_validation(outcome.model)["validation"] == pytest.approx(outcome.curve[-1]["validation"])
