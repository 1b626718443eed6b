"""Steps that go wrong in the real loop: what is done, what is told, and that a kill changes neither."""

from __future__ import annotations

import dataclasses
import math
import os
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from components.configuration.training import Anomalies
from components.errors import InkwellError
from components.tracking import Recorder
from components.training import anomalies
from components.training.anomalies import Judge, StallWatch, robust_z_score
from components.training.computation import Computation, StockComputation
from components.training.loop import Outcome, fit
from tests.training.runs import (
    ByRows,
    Interfering,
    Tiny,
    assert_same_end,
    content,
    held_run,
    killed_at,
    prepared,
    quick_validation,
    train,
)

STEPS = 24


def _batches() -> list[int]:
    """The content of each batch, in order."""
    return [content(inputs[0]) for inputs, *_ in prepared(steps=STEPS).loader]


def _log(folder: Path) -> str:
    return (folder / "kept" / "run.log").read_text(encoding="utf-8")


def _bad(folder: Path, batches: list[int], change: Any, **anomalies: Any) -> Outcome:
    """A run in which the batches of these numbers, from 1, go wrong however often they come."""
    known = _batches()
    wanted = {known[number - 1] for number in batches}
    assert len(wanted) == len(batches)
    return train(
        folder,
        lambda inner: ByRows(inner, wanted.__contains__, change),
        steps=STEPS,
        anomalies={"window": 10, **anomalies},
    )


def _nan(loss: torch.Tensor) -> torch.Tensor:
    return loss * math.nan


def _high(loss: torch.Tensor) -> torch.Tensor:
    return loss * 50


def test_a_loss_that_is_no_number_is_left_out(tmp_path: Path) -> None:
    outcome = _bad(tmp_path, [3, 20], _nan, not_finite="skip")
    assert outcome.left_out == 2
    assert [row["step"] for row in outcome.curve] == list(range(1, STEPS - 1))
    assert all(math.isfinite(row["loss"]) for row in outcome.curve)
    assert outcome.model is not None
    assert all(bool(weight.isfinite().all()) for weight in outcome.model.parameters())
    assert "step 3 (rows 8 to 12): the loss is nan; the step is left out" in _log(tmp_path)


def test_a_gradient_that_is_infinite_is_left_out(tmp_path: Path) -> None:
    def explode(loss: torch.Tensor) -> torch.Tensor:
        loss.register_hook(lambda gradient: gradient * math.inf)
        return loss

    outcome = _bad(tmp_path, [4], explode)
    assert outcome.left_out == 1
    assert "the gradient is" in _log(tmp_path)


def test_a_spike_is_recorded_and_taken(tmp_path: Path) -> None:
    outcome = _bad(tmp_path, [15], _high, spike="record")
    assert (outcome.recorded, outcome.left_out) == (1, 0)
    assert len(outcome.curve) == STEPS
    assert outcome.curve[14]["loss"] > 10 * outcome.curve[13]["loss"]
    assert "robust standard deviations); recorded" in _log(tmp_path)


def test_a_spike_is_left_out(tmp_path: Path) -> None:
    outcome = _bad(tmp_path, [15], _high, spike="skip")
    assert (outcome.recorded, outcome.left_out) == (0, 1)
    assert len(outcome.curve) == STEPS - 1
    assert max(row["loss"] for row in outcome.curve) < 10


@pytest.mark.parametrize("kind", ["spike", "not_finite"])
def test_rolled_back_it_goes_on_from_the_last_anchor_with_the_rows_behind(tmp_path: Path, kind: str) -> None:
    change = _high if kind == "spike" else _nan
    outcome = _bad(tmp_path, [14], change, **{kind: "roll_back"})
    assert outcome.rolled_back == 1
    # ten steps up to the anchor, then the rows behind the bad batch: those of batches 11 to 14 are left out
    assert [row["rows"] for row in outcome.curve] == [4 * n for n in (*range(1, 11), *range(15, STEPS + 1))]
    assert [row["step"] for row in outcome.curve] == list(range(1, 21))
    assert "rolled back from step 13 to step 10" in _log(tmp_path)


def test_a_run_that_rolls_back_can_be_killed_anywhere(tmp_path: Path) -> None:
    case: dict[str, Any] = {"anomalies": {"window": 10, "not_finite": "roll_back"}, "dropout": 0.1, "ema_decay": 0.9}
    bad = {_batches()[13]}

    def wrap(inner: Computation) -> Computation:
        return ByRows(inner, bad.__contains__, _nan)

    whole = train(tmp_path / "whole", wrap, steps=STEPS, **case)
    assert whole.rolled_back == 1
    for calls in ([12], [15], [17], [13, 2, 3]):
        folder = tmp_path / "-".join(map(str, calls))
        for call in calls:
            killed_at(call, folder, around=wrap, steps=STEPS, **case)
        resumed = train(folder, wrap, steps=STEPS, **case)
        assert resumed.rolled_back == 1
        assert_same_end(whole, resumed)


def test_the_best_of_steps_that_were_taken_back_is_forgotten(tmp_path: Path) -> None:
    bad, values = {_batches()[13]}, iter([3.0, 2.0, 0.5, 2.5, 1.0, 1.5])  # of steps 4, 8, 12, and again 12, 16, 20
    outcome = train(
        tmp_path,
        lambda inner: ByRows(inner, bad.__contains__, _nan),
        validate=lambda _: {"validation": next(values)},
        steps=STEPS,
        validation_every=4,
        checkpoints={"minutes": 1e-6, "keep_best": True},
        anomalies={"window": 10, "not_finite": "roll_back"},
    )
    assert outcome.rolled_back == 1
    assert outcome.best_step == 16


def test_a_run_that_learns_to_roll_back_in_its_midst_has_where_to_go(tmp_path: Path) -> None:
    with pytest.raises(InkwellError, match="step 7"):
        _bad(tmp_path, [7], _nan, not_finite="stop")
    outcome = _bad(tmp_path, [9], _nan, not_finite="roll_back")
    assert outcome.resumed_at == 6
    assert [row["rows"] for row in outcome.curve] == [4 * n for n in (*range(1, 7), *range(10, STEPS + 1))]


def test_stop_says_where_and_the_run_can_go_on_with_another_policy(tmp_path: Path) -> None:
    with pytest.raises(InkwellError, match="step 7"):
        _bad(tmp_path, [7], _nan, not_finite="stop")
    outcome = _bad(tmp_path, [7], _nan, not_finite="skip")
    assert outcome.resumed_at == 6
    assert outcome.left_out == 1
    assert "end: after step 6: InkwellError" in _log(tmp_path)


def test_too_many_bad_steps_stop_the_run(tmp_path: Path) -> None:
    with pytest.raises(InkwellError, match="3 steps were left out or rolled back before"):
        _bad(tmp_path, [2, 4, 5, 9], _nan, maximum=3)


def test_the_judge_keeps_its_memory_over_a_restart() -> None:
    parameters = Anomalies(window=20, z_score=6, spike="skip")
    losses = [3 - 0.01 * n + 0.05 * (n % 3) for n in range(40)] + [9.0, 2.6, 2.7]
    whole, first, second = Judge(parameters), Judge(parameters), Judge(parameters)
    wanted = [whole.look(loss, 1.0) for loss in losses]
    found = [first.look(loss, 1.0) for loss in losses[:35]]
    second.load_state_dict(first.state_dict())
    found += [second.look(loss, 1.0) for loss in losses[35:]]
    assert found == wanted
    assert [verdict is not None for verdict in found] == [False] * 40 + [True, False, False]
    assert second.state_dict() == whole.state_dict()


def test_nothing_is_judged_before_enough_was_seen_and_falls_are_no_spikes() -> None:
    judge = Judge(Anomalies(window=100, z_score=3, spike="stop"))
    assert all(judge.look(100.0 - 4 * n, 1.0) is None for n in range(24))
    assert judge.look(0.0, 1.0) is None


def test_robust_z_score() -> None:
    assert robust_z_score(5, [1, 2, 3, 4, 5]) == pytest.approx(2 / 1.4826)
    assert robust_z_score(2.0, [1.0] * 50) == pytest.approx(100)


@pytest.mark.parametrize("hanging", ["forward pass", "reading"])
def test_a_stall_ends_the_process_where_that_is_asked_for_and_the_run_goes_on(
    tmp_path: Path, hanging: str, capfd: pytest.CaptureFixture[str]
) -> None:
    policy: dict[str, Any] = {"anomalies": {"stall": "stop", "stall_factor": 5.0}}

    class Hanging(Tiny):
        def tokens(self, index: int) -> Any:
            if list((tmp_path / "work/checkpoints").glob("*-00000008.ckpt")):
                time.sleep(60)
            return super().tokens(index)

    def sleep(loss: torch.Tensor) -> torch.Tensor:
        time.sleep(60)
        return loss

    child = os.fork()
    if child == 0:
        try:
            if hanging == "reading":
                train(tmp_path, data=Hanging(), **policy)
            else:
                train(tmp_path, lambda inner: Interfering(inner, {9: sleep}), **policy)
        finally:
            os._exit(9)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 2
    assert "tiny: training stopped: step 9 has been going on for" in capfd.readouterr().err
    assert "end: after step 8: step 9 has been going on for" in _log(tmp_path)
    resumed = train(tmp_path, anomalies={"stall": "record"})
    assert resumed.resumed_at == 8
    assert_same_end(train(tmp_path / "whole"), resumed)


def test_a_validation_that_hangs_ends_the_process_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    whole = train(tmp_path / "whole")  # loads what the first step loads, too, which takes seconds
    monkeypatch.setattr(anomalies, "_NOTHING_KNOWN", 3.0)

    def hang(_: Any) -> dict[str, float]:
        time.sleep(60)
        return {}

    child = os.fork()
    if child == 0:
        try:
            train(tmp_path / "hung", validate=hang, anomalies={"stall": "stop"})
        finally:
            os._exit(9)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 2
    hangs = "what follows step 5 (validation, samples, checkpoints) has been going on for"
    assert f"tiny: training stopped: {hangs}" in capfd.readouterr().err
    assert f"end: after step 5: {hangs}" in _log(tmp_path / "hung")
    resumed = train(tmp_path / "hung")
    assert resumed.resumed_at == 4
    assert_same_end(whole, resumed)


def test_the_first_steps_and_what_is_between_two_of_them_are_watched_with_patience(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(anomalies, "_NOTHING_KNOWN", 1.0)
    told: list[str] = []

    def told_by(text: str) -> None:
        """Wait until that was told."""
        deadline = time.monotonic() + 60
        while not any(text in line for line in told):
            assert time.monotonic() < deadline, told
            time.sleep(0.01)

    with StallWatch(2.0, told.append, poll=0.01) as watch:
        watch.begin(1)
        told_by("step 1 has been going on for")
        watch.end()
        time.sleep(0.6)  # not yet too long, and so two times as long is not either
        watch.begin(2)
        watch.end()
        told_by("what follows step 2 (validation, samples, checkpoints) has been going on for")
        watch.begin(3)
    assert watch.stalls == 2
    assert told[-1].startswith("what follows step 2 (validation, samples, checkpoints) took")
    assert float(told[-1].partition(" took ")[2].partition(" s,")[0]) >= 1.2
    assert not [line for line in told if "follows step 1" in line]


def test_a_stall_is_told_while_it_lasts_and_when_it_ends() -> None:
    told: list[str] = []
    with StallWatch(5.0, told.append, poll=0.01) as watch:
        for step in range(1, 9):
            watch.begin(step)
            time.sleep(0.02 if step < 8 else 1.0)
            if step == 8:
                assert [text for text in told if "does not end" in text], told
            watch.end()
    assert watch.stalls == 1
    assert "step 8 took" in told[-1]


def test_scaled_losses_train_as_plain_ones_and_an_overflow_halves_the_scale(tmp_path: Path) -> None:
    """The path of fp16 on CUDA, on the processor; scales are powers of two, so that nothing is rounded differently."""

    def scaled(folder: Path, at: dict[int, Any]) -> tuple[Outcome, float]:
        training = prepared()
        training.recipe = dataclasses.replace(training.recipe, loss_scaling=True)
        training.computation = Interfering(training.computation, at)
        outcome = fit(training, label="fp16", run=held_run(folder), recorder=Recorder(), validate=quick_validation)
        newest = max(held_run(folder).checkpoints.iterdir())
        saved = torch.load(newest, weights_only=False)["inkwell"]["scaler"]
        return outcome, saved["scale"]

    def overflow(loss: torch.Tensor) -> torch.Tensor:
        loss.register_hook(lambda gradient: gradient * math.inf)
        return loss

    plain = train(tmp_path / "plain")
    outcome, scale = scaled(tmp_path / "scaled", {})
    assert [row["loss"] for row in outcome.curve] == pytest.approx([row["loss"] for row in plain.curve], rel=1e-5)
    assert scale == 2.0**16
    outcome, scale = scaled(tmp_path / "overflown", {5: overflow})
    assert scale == 2.0**15
    assert len(outcome.curve) == 11
    assert outcome.left_out == 0, "an overflow is what scaling is for"


def test_half_precision_learns_with_scaled_losses(tmp_path: Path) -> None:
    training = prepared()
    training.recipe = dataclasses.replace(training.recipe, loss_scaling=True)
    training.computation = StockComputation(training.model, dtype=torch.float16)
    outcome = fit(training, label="fp16", run=held_run(tmp_path), recorder=Recorder(), validate=quick_validation)
    assert outcome.left_out == 0
    assert 9 <= len(outcome.curve) <= 12, "the scale is found in a step or two"
    plain = train(tmp_path / "plain")
    wanted = [row["loss"] for row in plain.curve[: len(outcome.curve)]]
    assert [row["loss"] for row in outcome.curve] == pytest.approx(wanted, rel=0.1)
    assert outcome.curve[-1]["loss"] < outcome.curve[0]["loss"] - 1
