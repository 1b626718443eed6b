"""The schedule's shape, and which optimizer moves which weights."""

import pytest
import torch

from components.models import build_model
from components.training.optimizers import muon_and_adamw
from components.training.schedules import warmup_stable_decay


def test_schedule_rises_stays_and_falls_to_zero() -> None:
    factors = [warmup_stable_decay(step, 100, warmup=9, decay_fraction=0.4) for step in range(101)]
    assert factors[0] == pytest.approx(0.1)
    assert factors[9:60] == [1.0] * 51
    assert factors[80] == pytest.approx(0.5)
    assert factors[100] == 0.0


def test_no_warmup_and_no_decay_is_constant() -> None:
    assert {warmup_stable_decay(step, 10, 0, 0.0) for step in range(10)} == {1.0}


@pytest.mark.parametrize("tied", [True, False])
def test_every_weight_has_exactly_one_optimizer_and_embeddings_are_not_muons(tied: bool) -> None:
    torch.manual_seed(0)
    model = build_model(
        "llama",
        tie_word_embeddings=tied,
        vocab_size=64,
        hidden_size=32,
        num_hidden_layers=1,
        intermediate_size=64,
        num_attention_heads=2,
    )
    muon, adamw = muon_and_adamw(
        model, matrix_learning_rate=0.02, embedding_learning_rate=0.1, learning_rate=0.003, weight_decay=0.1
    )
    moved = [p for o in (muon, adamw) for group in o.param_groups for p in group["params"]]
    assert sorted(map(id, moved)) == sorted(map(id, model.parameters()))
    assert id(model.get_input_embeddings().weight) not in {id(p) for g in muon.param_groups for p in g["params"]}
