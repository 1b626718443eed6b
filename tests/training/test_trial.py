"""Timed training steps: real ones of tiny models, which leave the run that they are for as it was."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from torch.optim import Optimizer
from transformers import PreTrainedModel

from components.configuration import Sft
from components.machine.choices import Choices
from components.sft.lora import add_adapters
from components.training.computation import Computation
from components.training.optimizers import adamw, muon_and_adamw
from components.training.recipe import optimizers_for
from components.training.trial import StepTrial, _Copy
from tests.tiny_models import sharp, tiny

CHOICES = Choices("cpu", threads=1)


def optimizers(model: PreTrainedModel) -> list[Optimizer]:
    return muon_and_adamw(
        model, matrix_learning_rate=0.01, embedding_learning_rate=0.01, learning_rate=0.001, weight_decay=0.0
    )


def trial(architecture: str = "qwen3", make: Any = optimizers, **shape: Any) -> StepTrial:
    shape = {"micro_batch": 4, "accumulation": 2, "block": 32, **shape}
    dropout = {} if architecture == "mamba2" else {"dropout": 0.1}
    return StepTrial(sharp(tiny(architecture, **dropout)), make, **shape)


@pytest.mark.parametrize("architecture", ["qwen3", "gpt2", "mamba2", "mixtral"])
def test_every_choice_has_a_rate(architecture: str) -> None:
    made = StepTrial(sharp(tiny(architecture)), optimizers, micro_batch=4, accumulation=1, block=32)
    for choices in (
        CHOICES,
        replace(CHOICES, precision="bf16"),
        replace(CHOICES, fused="off", attention="eager"),
        replace(CHOICES, micro_batch_parts=2, threads=2),
    ):
        assert made.rate(choices, 0.01) > 0
    assert made.rate(CHOICES, 0.01, whole=True) > 0
    made.release()
    assert made.rate(CHOICES, 0.01) > 0


def test_the_run_is_left_as_it_was() -> None:
    made = trial()
    weights = {name: value.clone() for name, value in made.model.state_dict().items()}
    torch.manual_seed(5)
    before = (torch.get_rng_state(), torch.get_num_threads(), torch.get_float32_matmul_precision())
    made.rate(replace(CHOICES, threads=2, float32_onednn=True, attention="eager", fused="off"), 0.01)
    after = (torch.get_rng_state(), torch.get_num_threads(), torch.get_float32_matmul_precision())
    assert torch.equal(before[0], after[0])
    assert before[1:] == after[1:]
    assert all(torch.equal(value, weights[name]) for name, value in made.model.state_dict().items())
    assert all(weight.grad is None for weight in made.model.parameters())
    assert not made.model.training
    assert made.model.config._attn_implementation == "sdpa"


def test_what_rates_depend_on_is_in_the_identity() -> None:
    one = trial()
    assert one.identity == trial().identity
    others = [
        trial("llama"),
        trial(micro_batch=8),
        trial(accumulation=1),
        trial(block=16),
        trial(activation_checkpointing=True),
    ]
    frozen = sharp(tiny("qwen3"))
    frozen.get_input_embeddings().weight.requires_grad_(False)
    others.append(StepTrial(frozen, optimizers, micro_batch=4, accumulation=2, block=32))
    others.append(trial(make=partial(adamw, learning_rate=0.001, weight_decay=0.0)))
    assert len({one.identity, *(other.identity for other in others)}) == 8


def test_what_the_model_bears() -> None:
    assert (trial().fused, trial().attention, trial().compiles) == (True, ("sdpa", "eager"), True)
    assert (trial("mamba2").fused, trial("mamba2").attention, trial("mamba2").compiles) == (False, (), False)
    assert trial().parts == (1, 2, 4)
    assert trial(micro_batch=6).parts == (1, 2)
    weights = sum(weight.numel() for weight in trial().model.parameters())
    assert trial().memory == 16 * weights


def test_rows_are_divided_among_processes() -> None:
    shares = {(4, 2): (4, 1), (4, 3): (2, 3), (3, 3): None}
    for (micro_batch, accumulation), wanted in shares.items():
        share = trial(micro_batch=micro_batch, accumulation=accumulation).divided(2)
        assert (share and (share.micro_batch, share.accumulation)) == wanted
        assert share is None or share.tokens_a_step * 2 == micro_batch * accumulation * 32


class Clockwork:
    """Seconds that passes and optimizers take, instead of time."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, a_token: float, optimizer: float = 0.0) -> None:
        self.passes: list[tuple[int, int]] = []
        self.now = 0.0

        def pass_seconds(copy: _Copy, computation: Computation, rows: int, length: int) -> float:
            self.passes.append((rows, length))
            self.now += rows * length * a_token
            return rows * length * a_token

        monkeypatch.setattr(_Copy, "pass_seconds", pass_seconds)
        monkeypatch.setattr(_Copy, "optimizer_seconds", lambda copy, threads: optimizer)
        monkeypatch.setattr("time.perf_counter", lambda: self.now)


def test_a_rate_is_that_of_whole_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    Clockwork(monkeypatch, a_token=0.001, optimizer=0.064)
    # 2 passes of 4 rows of 32 tokens, a millisecond a token, and the optimizer
    assert trial().rate(CHOICES, 0.5) == pytest.approx(256 / (0.256 + 0.064))


def test_a_long_pass_is_measured_with_fewer_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clockwork(monkeypatch, a_token=0.004)  # a row takes 0.128 s
    made = trial(micro_batch=8)
    assert made.rate(CHOICES, 0.5) == pytest.approx(250.0)
    assert set(clock.passes) == {(1, 32), (1, 4), (2, 32)}
    clock.passes.clear()
    made.rate(CHOICES, 0.5, whole=True)
    assert clock.passes[-1] == (8, 32)
    clock.passes.clear()
    made.rate(replace(CHOICES, micro_batch_parts=2), 0.5, whole=True)
    assert clock.passes[-1] == (4, 32)


def test_parts_of_a_micro_batch_that_takes_too_long_are_not_compared_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clockwork(monkeypatch, a_token=0.004)
    made = trial(micro_batch=16)  # 2 s a pass; half of it would be short enough
    for parts in (1, 2):
        made.rate(replace(CHOICES, micro_batch_parts=parts), 0.5, whole=True)
        assert clock.passes[-1] == (1, 32)


def test_a_choice_that_is_far_too_slow_never_runs_a_whole_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    Clockwork(monkeypatch, a_token=0.0001)
    made = trial(micro_batch=16)
    fast = made.rate(CHOICES, 0.3)
    clock = Clockwork(monkeypatch, a_token=0.1)  # 51 s for a pass of 16 rows, 3.2 s for one
    assert made.rate(replace(CHOICES, precision="bf16"), 0.3) == pytest.approx(10.0)
    assert fast == pytest.approx(10_000)
    assert set(clock.passes) == {(1, 4)}
    assert clock.now < 1.0


def test_a_warmed_choice_is_measured_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clockwork(monkeypatch, a_token=0.004)
    made = trial()
    made.rate(CHOICES, 0.1)
    clock.passes.clear()
    made.rate(CHOICES, 0.1)
    assert clock.passes == [(2, 32)]


def test_adapters_are_a_trial_of_their_own_optimizers() -> None:
    made = trial(make=lambda model: adamw(model, learning_rate=0.001, weight_decay=0.0))
    assert made.rate(CHOICES, 0.01) > 0


def test_low_rank_adapters_on_a_frozen_model_have_a_rate_too() -> None:
    parameters = Sft(method="lora", lora_rank=4)
    model = add_adapters(sharp(tiny("qwen3")), parameters)
    made = StepTrial(model, partial(optimizers_for, parameters, True), micro_batch=4, accumulation=1, block=32)
    assert (made.fused, made.attention, made.parts) == (False, ("sdpa", "eager"), (1, 2, 4))
    frozen = sum(weight.numel() for weight in model.parameters() if not weight.requires_grad)
    trained = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
    assert 0 < trained < frozen
    assert made.memory == 4 * frozen + 16 * trained
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    others = (replace(CHOICES, precision="bf16"), replace(CHOICES, attention="eager"))
    for choices in (CHOICES, *others, replace(CHOICES, micro_batch_parts=2)):
        assert made.rate(choices, 0.01) > 0
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())


@pytest.mark.skipif(
    sys.platform != "linux" or len(os.sched_getaffinity(0)) < 2, reason="two cores of Linux are divided"
)
def test_two_processes_are_measured_against_one() -> None:
    from components.training.pinned import measure_processes

    made = trial()
    rate = made.rate(CHOICES, 0.2)
    division = measure_processes(made, CHOICES, rate)
    assert division is not None
    assert division.processes >= 2
    assert division.gain > 0
    assert 0 < division.slowest_core <= 1
    assert division.all_reduce_seconds > 0


def test_what_cannot_be_sent_to_another_process_is_not_measured() -> None:
    from components.training.pinned import measure_processes

    if sys.platform != "linux":
        pytest.skip("Linux only")
    hidden = trial(make=lambda model: adamw(model, learning_rate=0.001, weight_decay=0.0))
    assert measure_processes(hidden, CHOICES, 1.0) is None
    assert measure_processes(trial(micro_batch=3, accumulation=3), CHOICES, 1.0) is None
