"""The shapes of the schedules, over the share of a run that is behind."""

from __future__ import annotations

from typing import Literal

import pytest

from components.training.schedules import COSINE_FLOOR, Schedule

STEPS = 100


def _factors(schedule: Schedule, steps: int = STEPS) -> list[float]:
    return [schedule.factor(step / steps, 1 / steps) for step in range(steps + 1)]


def test_warmup_stable_decay_rises_stays_and_falls_to_zero() -> None:
    factors = _factors(Schedule("warmup_stable_decay", warmup=0.09, decay=0.4))
    assert factors[0] == pytest.approx(0.1)
    assert factors[9:60] == [1.0] * 51
    assert factors[80] == pytest.approx(0.5)
    assert factors[100] == 0.0


def test_no_warmup_and_no_decay_is_constant() -> None:
    assert set(_factors(Schedule("warmup_stable_decay", 0.0, 0.0))) == {1.0}


def test_cosine_falls_to_a_tenth_and_is_half_way_in_the_middle() -> None:
    factors = _factors(Schedule("cosine", warmup=0.2))
    assert factors[20] == pytest.approx(1.0)
    assert factors[60] == pytest.approx((1 + COSINE_FLOOR) / 2)
    assert factors[100] == pytest.approx(COSINE_FLOOR)


def test_linear_falls_straight_to_zero() -> None:
    factors = _factors(Schedule("linear", warmup=0.2))
    assert factors[60] == pytest.approx(0.5)
    assert factors[80] == pytest.approx(0.25)
    assert factors[100] == 0.0


def test_noam_falls_with_the_root_of_the_progress() -> None:
    factors = _factors(Schedule("noam", warmup=0.09))
    assert factors[9] == pytest.approx(1.0)
    assert factors[39] == pytest.approx(0.5)  # four times as far as the end of the rise
    assert _factors(Schedule("noam", warmup=0.0))[0] == 1.0


@pytest.mark.parametrize("course", ["warmup_stable_decay", "cosine", "linear", "noam"])
@pytest.mark.parametrize("warmup", [0.0, 0.1, 1.0])
def test_every_course_rises_once_then_never_again(
    course: Literal["warmup_stable_decay", "cosine", "linear", "noam"], warmup: float
) -> None:
    factors = _factors(Schedule(course, warmup, 0.5))
    assert all(0.0 <= factor <= 1.0 for factor in factors)
    top = factors.index(max(factors))
    assert factors[: top + 1] == sorted(factors[: top + 1])
    assert factors[top:] == sorted(factors[top:], reverse=True)


def test_a_batch_of_another_size_stays_on_the_course() -> None:
    schedule = Schedule("linear", warmup=0.1)
    fine, coarse = _factors(schedule, 1000), _factors(schedule, 100)
    assert fine[500] == pytest.approx(coarse[50])
    assert fine[900] == pytest.approx(coarse[90])
