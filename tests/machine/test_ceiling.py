"""The ceiling that training is measured against: real products, and operations counted by PyTorch itself."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from components.machine.ceiling import (
    Ceiling,
    CeilingMeter,
    gemm_ceiling,
    operations_per_token,
    run_shapes,
    threads_set,
)
from components.model.forward import forward_arguments
from tests.tiny_models import VOCABULARY, sharp, tiny

SMALL = ((64, 64, 64), (128, 96, 32))


def test_a_ceiling_is_the_fastest_of_the_shapes() -> None:
    found = gemm_ceiling(torch.float32, 1, SMALL, rounds=3)
    assert found.shape in SMALL
    assert set(found.rates) == set(SMALL)
    assert found.operations_per_second == max(found.rates.values())
    assert found.best >= found.operations_per_second > 1e6
    assert found.spread >= 0


def test_the_rate_is_two_operations_a_multiplication(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def timed(self: CeilingMeter, left: torch.Tensor, right: torch.Tensor, count: int) -> float:
        asked.append(count)
        return 0.004 * count

    monkeypatch.setattr(CeilingMeter, "_timed", timed)
    meter = CeilingMeter(torch.float32, shapes=((10, 20, 30),))
    meter.read(2)
    assert asked == [1, 1, 8, 8]  # 0.03 s of products of 4 ms each
    assert meter.ceiling().operations_per_second == pytest.approx(2 * 10 * 20 * 30 / 0.004)
    assert meter.ceiling().spread == 0


def test_readings_go_on_where_they_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = iter([1.0, 1.0, 1.0, 1.0, 1.0, 0.5, 1.0, 1.0, 0.25])
    monkeypatch.setattr(CeilingMeter, "_timed", lambda self, left, right, count: next(seconds) * count)
    meter = CeilingMeter(torch.float32, shapes=((1, 1, 1),))
    for _ in range(3):
        meter.read()
    found = meter.ceiling()
    assert (found.operations_per_second, found.best) == (4.0, 8.0)
    assert found.spread == pytest.approx((8.0 - 2.0) / 2 / 4.0)


def test_a_reading_leaves_threads_and_generators_alone() -> None:
    before, state = torch.get_num_threads(), torch.get_rng_state()
    CeilingMeter(torch.float32, threads=before + 1, shapes=SMALL).read()
    assert torch.get_num_threads() == before
    assert torch.equal(torch.get_rng_state(), state)
    with threads_set(before + 1):
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before


def test_shapes_that_cannot_be_the_ceiling_are_timed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    timed: list[int] = []

    def seconds(self: CeilingMeter, left: torch.Tensor, right: torch.Tensor, count: int) -> float:
        timed.append(len(left))
        return count * len(left) ** 2.0  # so that larger products are slower, operation by operation

    monkeypatch.setattr(CeilingMeter, "_timed", seconds)
    meter = CeilingMeter(torch.float32, shapes=((4, 1, 1), (5, 1, 1), (8, 1, 1)))
    for _ in range(3):
        meter.read()
    assert {rows: timed.count(rows) // 3 for rows in (4, 5, 8)} == {4: 3, 5: 3, 8: 1}
    assert meter.ceiling().shape == (4, 1, 1)


def test_a_head_of_a_large_vocabulary_is_cut_in_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CeilingMeter, "_timed", lambda self, left, right, count: float(count))
    monkeypatch.setattr("components.machine.ceiling._LARGEST", 2.0 * 100 * 64 * 32)
    meter = CeilingMeter(torch.float32, shapes=((5000, 64, 32),))
    meter.read()
    assert meter.ceiling().shape == (100, 64, 32)


def test_the_shapes_of_a_run_are_its_costliest_products() -> None:
    model = sharp(tiny("qwen3"))
    assert run_shapes(model, tokens=512) == (
        (512, 64, 64),  # query, key, value and output of two layers
        (512, 96, 64),  # gate and up
        (512, VOCABULARY, 64),  # the head; embeddings are looked up
        (512, 64, 96),  # down
    )
    assert run_shapes(model, tokens=512, most=1) == ((512, 64, 64),)


@pytest.mark.parametrize("architecture", ["qwen3", "gpt2"])
def test_operations_are_those_that_pytorch_counts(architecture: str) -> None:
    model = sharp(tiny(architecture))
    model.set_attn_implementation("eager")  # its products are counted one by one
    rows, block = 2, 32
    ids = torch.randint(0, VOCABULARY, (rows, block))
    with FlopCounterMode(display=False) as counter:
        model(**forward_arguments(model.config, ids, torch.zeros_like(ids)), use_cache=False).logits.sum().backward()
    heads = 12.0 * 2 * 64 * block  # layers x width: every pair of tokens, of which causality leaves half
    assert counter.get_total_flops() / (rows * block) == operations_per_token(model, block)
    assert operations_per_token(model, block, causal=True) == operations_per_token(model, block) - heads / 2


def test_a_window_bounds_attention_and_a_recurrent_model_has_none() -> None:
    whole, windowed = (sharp(tiny("mistral", sliding_window=window)) for window in (None, 16))
    assert operations_per_token(whole, 32) - operations_per_token(windowed, 32) == 12.0 * 2 * 64 * 16
    # of 32 places the first 16 see half a window on average, the others a whole one: 12 instead of 16
    causal = operations_per_token(whole, 32, causal=True) - operations_per_token(windowed, 32, causal=True)
    assert causal == 12.0 * 2 * 64 * 4
    recurrent = sharp(tiny("mamba2"))
    assert operations_per_token(recurrent, 32) == operations_per_token(recurrent, 1024)


def test_utilisation_is_a_share_of_the_ceiling() -> None:
    assert Ceiling(1e12, 1.1e12, 0.01, (1, 1, 1), {}).share(5_000, 1e8) == 0.5
