"""The sweep over widths: each model with its own rates, and figures that tell whether one multiplier is best for all."""

from __future__ import annotations

from itertools import pairwise

import pytest

from benchmarks.width_transfer import Table, figures, parameters, printed
from components.configuration import Pretrain
from components.model.architectures import check
from components.pretrain.transfer import RATES, TUNED, learning_rates

WIDTHS = (128, 256, 384, 512)


def test_widths_differ_in_their_width_and_in_the_rates_of_the_rule_alone() -> None:
    runs = {width: Pretrain(**parameters(width, 4, 1.0, 150)) for width in WIDTHS}
    for width, run in runs.items():
        check(run)
        assert run.batch_tokens == TUNED.batch_tokens, "the batch at which the rates were tuned"
        assert {name: getattr(run, name) for name in RATES} == learning_rates("muon", width)
    shaped = ("hidden_size", "heads", "key_value_heads", "feed_forward_size", *RATES)
    alike = [run.model_dump(exclude=set(shaped)) for run in runs.values()]
    assert all(one == two for one, two in pairwise(alike))
    assert runs[512].learning_rate == pytest.approx(runs[128].learning_rate / 4)
    assert runs[512].matrix_learning_rate == runs[128].matrix_learning_rate


def test_a_multiplier_moves_every_rate_and_the_control_has_those_of_one_width() -> None:
    own, double, control = (
        parameters(512, 4, 1.0, 150),
        parameters(512, 4, 2.0, 150),
        parameters(512, 4, 1.0, 150, TUNED.width),
    )
    assert {name: double[name] for name in RATES} == {name: 2 * own[name] for name in RATES}
    assert {name: control[name] for name in RATES} == learning_rates("muon", TUNED.width)
    assert control["learning_rate"] == 2 * own["learning_rate"]
    for other in (double, control):
        assert {name: value for name, value in other.items() if name not in RATES} == {
            name: value for name, value in own.items() if name not in RATES
        }


def test_one_multiplier_that_is_best_for_all_costs_nothing() -> None:
    table: Table = {128: {0.5: 7.0, 1.0: 6.5, 2.0: 6.75}, 512: {0.5: 6.0, 1.0: 5.5, 2.0: 5.75}}
    assert figures(table) == {
        "bpc_128_x0.5": 7.0,
        "bpc_128_x1": 6.5,
        "bpc_128_x2": 6.75,
        "best_multiplier_128": 1.0,
        "bpc_512_x0.5": 6.0,
        "bpc_512_x1": 5.5,
        "bpc_512_x2": 5.75,
        "best_multiplier_512": 1.0,
        "one_best_multiplier": 1.0,
        "largest_loss_of_transfer": 0.0,
    }


def test_what_carrying_over_costs_is_told_where_the_best_multipliers_differ() -> None:
    """The narrowest width, wherever it stands in the table, is the one that is tuned."""
    table: Table = {512: {0.5: 5.0, 1.0: 5.5, 2.0: 6.0}, 128: {0.5: 7.0, 1.0: 6.75, 2.0: 6.5}}
    found = figures(table, "control_")
    assert found["control_one_best_multiplier"] == 0.0
    assert (found["control_best_multiplier_128"], found["control_best_multiplier_512"]) == (2.0, 0.5)
    assert found["control_largest_loss_of_transfer"] == pytest.approx(6.0 / 5.0 - 1)
    assert all(name.startswith("control_") for name in found)


def test_the_best_of_each_row_is_marked() -> None:
    lines = printed({128: {0.5: 7.0, 1.0: 6.5, 2.0: 6.75}, 512: {0.5: 5.0, 1.0: 5.5, 2.0: 6.0}}, "rates").splitlines()
    assert lines[0] == "rates"
    assert lines[1].split() == ["width", "x", "0.5", "x", "1", "x", "2"]
    assert lines[2].split() == ["128", "7.0000", "6.5000*", "6.7500"]
    assert lines[3].split() == ["512", "5.0000*", "5.5000", "6.0000"]
