"""The law: what is published holds, what repeats is worth less, and its scales are found again from runs."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from itertools import pairwise

import pytest

from components.scaling import PUBLISHED, Law, Run, fitted


def test_the_published_law_asks_for_twenty_tokens_a_parameter() -> None:
    assert 1e9 / PUBLISHED.parameters_for(1e9) == pytest.approx(19.6, abs=0.2)
    assert 1e12 / PUBLISHED.parameters_for(1e12) == pytest.approx(19.6, abs=0.2)


def test_at_the_parameters_for_its_tokens_neither_is_worth_more() -> None:
    unequal = replace(PUBLISHED, alpha=0.3, beta=0.4)
    for law in (PUBLISHED, unequal):
        parameters = law.parameters_for(1e8)
        of_parameters = law.gain_of_parameters(parameters, 1e8, 1e8)
        assert of_parameters == pytest.approx(law.gain_of_tokens(parameters, 1e8, 1e8))


HARMED = replace(PUBLISHED, excess=math.inf, harm=0.02, harm_repeated=1.3, harm_large=0.4)


@pytest.mark.parametrize("law", [PUBLISHED, HARMED])
def test_gains_are_slopes_of_the_loss(law: Law) -> None:
    for parameters, tokens in ((1e6, 1e7), (1e8, 1e9), (1e9, 3e10)):
        unique, little = 9e8, 1e-5
        up, down = (law.loss(parameters, tokens * (1 + sign * little), unique) for sign in (1, -1))
        gain = law.gain_of_tokens(parameters, tokens, unique)
        assert gain == pytest.approx((down - up) / (2 * little), rel=1e-4)
        up, down = (law.loss(parameters * (1 + sign * little), tokens, unique) for sign in (1, -1))
        gain = law.gain_of_parameters(parameters, tokens, unique)
        assert gain == pytest.approx((down - up) / (2 * little), rel=1e-4)


def test_repetition_harms_large_models_most_and_the_first_pass_nobody() -> None:
    for parameters in (1e6, 1e8):
        assert HARMED.loss(parameters, 1e7, 1e7) == replace(HARMED, harm=0).loss(parameters, 1e7, 1e7)
    small, large = (HARMED.most_tokens(parameters, 1e7, 0.0) for parameters in (1e6, 1e8))
    assert 1e7 < large < small
    for parameters, best in ((1e6, small), (1e8, large)):
        least = HARMED.loss(parameters, best, 1e7)
        assert least < HARMED.loss(parameters, 0.8 * best, 1e7)
        assert least < HARMED.loss(parameters, 1.25 * best, 1e7)


def test_repeated_tokens_are_worth_as_much_as_the_paper_says() -> None:
    unique = 1e8
    assert PUBLISHED.effective_tokens(0.5 * unique, unique) == 0.5 * unique
    # four passes are nearly as good as fresh text, sixteen are not, and past some number nothing is gained
    assert PUBLISHED.effective_tokens(4 * unique, unique) > 0.9 * 4 * unique
    assert 0.6 * 16 < PUBLISHED.effective_tokens(16 * unique, unique) / unique < 0.7 * 16
    assert PUBLISHED.effective_tokens(1e4 * unique, unique) == pytest.approx((1 + PUBLISHED.repeated) * unique)


def test_more_is_never_worse() -> None:
    for smaller, larger in pairwise([1e5 * 3**power for power in range(12)]):
        assert PUBLISHED.loss(larger, 1e8, 1e12) < PUBLISHED.loss(smaller, 1e8, 1e12)
        assert PUBLISHED.loss(larger, 1e8, 1e7) <= PUBLISHED.loss(smaller, 1e8, 1e7)
        assert PUBLISHED.loss(1e7, larger, 1e7) <= PUBLISHED.loss(1e7, smaller, 1e7)


def test_bounds_are_where_worth_has_fallen() -> None:
    tokens = PUBLISHED.most_tokens(1e8, 1e8, 0.1)
    fresh = PUBLISHED.effective_tokens(tokens + 1e3, 1e8) - PUBLISHED.effective_tokens(tokens, 1e8)
    assert fresh == pytest.approx(0.1 * 1e3, rel=1e-3)
    assert PUBLISHED.worth_of_token(1e8, tokens, 1e8) == pytest.approx(0.1)
    assert PUBLISHED.worth_of_token(1e8, 1e7, 1e8) == 1
    full = PUBLISHED.parameters_for(1e8)
    assert PUBLISHED.worth_of_parameter(full, 1e8) == 1
    assert PUBLISHED.worth_of_parameter(full * (1 + PUBLISHED.excess), 1e8) == pytest.approx(math.exp(-1))


def test_scales_are_found_again_from_noisy_runs() -> None:
    truth = replace(PUBLISHED, irreducible=2.5, capacity=90.0, data=260.0)
    noise = random.Random(1)
    runs = [
        Run(parameters, tokens, 4e6, truth.loss(parameters, tokens, 4e6) * (1 + noise.gauss(0, 0.001)))
        for parameters in (3e5, 1e6, 3e6, 1e7)
        for tokens in (5e5, 1e6, 2e6, 4e6)
    ]
    found = fitted(runs)
    assert found.irreducible == pytest.approx(2.5, abs=0.15)
    assert found.capacity == pytest.approx(90, rel=0.2)
    assert found.data == pytest.approx(260, rel=0.1)
    assert (found.alpha, found.repeated, found.excess) == (PUBLISHED.alpha, PUBLISHED.repeated, PUBLISHED.excess)
    truth = replace(truth, excess=math.inf, harm=0.05, harm_repeated=0.9, harm_large=0.6)
    runs = [
        Run(parameters, tokens, unique, truth.loss(parameters, tokens, unique) * (1 + noise.gauss(0, 0.001)))
        for parameters in (3e5, 1e6, 3e6)
        for unique in (4e4, 4e5, 4e6)
        for tokens in (4e5, 1e6, 4e6)
    ]
    found = fitted(runs)
    assert found.harm == pytest.approx(0.05, rel=0.2)
    assert found.harm_repeated == pytest.approx(0.9, abs=0.1)
    assert found.harm_large == pytest.approx(0.6, abs=0.1)
    assert found.excess == math.inf
