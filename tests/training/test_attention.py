"""A model that trains with flash attention is looked at, kept and handed over with one that every machine has."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AttentionInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from tests.training.runs import fitted, prepared, quick_validation

NAME = "flash_stand_in"


class OnlyInTraining:
    """Flash attention is not installed here: SDPA that fails where flash attention would, outside of training."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, module: Any, query: torch.Tensor, *rest: Any, **options: Any) -> Any:
        assert module.training, "flash attention on a processor, in float32"
        self.calls += 1
        return sdpa_attention_forward(module, query, *rest, **options)


@pytest.mark.parametrize("ema_decay", [0.0, 0.9])
def test_who_looks_at_a_model_and_who_gets_it_need_no_flash_attention(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ema_decay: float
) -> None:
    attention = OnlyInTraining()
    AttentionInterface.register(NAME, attention)
    # what would load the kernels of a name with "flash" in it
    monkeypatch.setattr("transformers.modeling_utils.lazy_import_flash_attention", lambda *_, **__: None)
    training = prepared(ema_decay=ema_decay, checkpoints={"minutes": 60, "history_every": 6})
    training.model.set_attn_implementation(NAME)
    looks = []

    def sample(model: PreTrainedModel) -> list[str]:
        looks.append(model.config._attn_implementation)
        return [f"{quick_validation(model)['validation']:.6f}"]

    outcome = fitted(training, tmp_path, sample=sample)
    assert looks == ["sdpa", "sdpa"]
    assert attention.calls == 2 * 12, "both layers, in the steps before the looks and in those after"
    assert outcome.model is not None
    assert outcome.model.config._attn_implementation == "sdpa"
    assert quick_validation(outcome.model)["validation"] == pytest.approx(outcome.curve[-1]["validation"])
