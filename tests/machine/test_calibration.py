"""The search of a calibration, on rates that are known, and what is remembered of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from components.machine.cache import learn, learnt_compile_gain, machine_identity, recall, remember
from components.machine.calibration import Calibration, Comparison, calibrate
from components.machine.choices import Choices

START = Choices("cpu", threads=4, precision="bf16")


class Known:
    """A trial whose rates are given: tokens a second by choices, in turn where there are several."""

    identity, operations, memory = "known", 1.0, 0
    parts: Sequence[int] = (1, 2)
    attention: Sequence[str] = ("sdpa", "eager")
    fused = compiles = True

    def __init__(self, rate: Callable[[Choices], float], seconds: float = 0.0) -> None:
        self.given, self.seconds = rate, seconds
        self.tried: list[Choices] = []
        self.whole: list[bool] = []
        self.now = 0.0

    def rate(self, choices: Choices, seconds: float, whole: bool = False) -> float:
        self.tried.append(choices)
        self.whole.append(whole)
        self.now += self.seconds
        return self.given(choices)

    def release(self) -> None:
        pass


def by_table(rates: Mapping[tuple[str, int], Sequence[float]]) -> Callable[[Choices], float]:
    """Rates by (precision, threads), one after the other; the last one stays."""
    left = {key: list(values) for key, values in rates.items()}

    def rate(choices: Choices) -> float:
        values = left[choices.precision, choices.threads]
        return values.pop(0) if len(values) > 1 else values[0]

    return rate


def test_the_fastest_choices_are_found_one_by_one() -> None:
    trial = Known(lambda choices: (300 if choices.precision == "fp32" else 200) + 50 * (choices.threads == 2))
    found = calibrate(START, {"precision": ("fp32",), "threads": (2, 1)}, trial)
    assert (found.choices.precision, found.choices.threads, found.rate) == ("fp32", 2, 350)
    assert found.complete
    assert [(row.choice, row.value, row.against, row.kept) for row in found.table] == [
        ("precision", "fp32", "bf16", True),
        ("threads", 2, 4, True),
        ("threads", 1, 2, False),  # compared with the best so far, not with the start
    ]
    assert found.gains() == {"precision": 1.5, "threads": pytest.approx(350 / 300)}
    assert found.words() == ["precision fp32 (1.50 x bf16)", "threads 2 (1.17 x 1)"]


@pytest.mark.parametrize(
    ("rates", "kept"),
    [
        ([102.0], False),  # faster, but within what a machine varies by
        ([104.0], True),
        ([130.0, 130.0, 99.0], False),  # it lost a round
        ([104.0, 101.0, 102.0], False),  # it won all, too narrowly in the median
        ([101.0, 104.0, 106.0], True),
    ],
)
def test_a_default_is_left_for_a_clear_gain_only(rates: list[float], kept: bool) -> None:
    trial = Known(by_table({("bf16", 4): [100.0], ("bf16", 2): rates}))
    found = calibrate(START, {"threads": (2,)}, trial)
    assert found.table[0].rounds == 3
    assert (found.choices.threads == 2) is kept


def test_sides_take_turns_in_going_first() -> None:
    trial = Known(by_table({("bf16", 4): [100.0], ("bf16", 2): [110.0]}))
    calibrate(START, {"threads": (2,)}, trial)
    assert [choices.threads for choices in trial.tried] == [4, 4, 2, 2, 4, 4, 2]


def test_what_falls_far_behind_is_dropped_and_those_behind_it_are_not_tried() -> None:
    trial = Known(by_table({("bf16", 4): [100.0], ("fp32", 4): [10.0], ("bf16", 2): [95.0]}))
    found = calibrate(START, {"precision": ("fp32",), "threads": (2, 1)}, trial)
    assert [(row.value, row.rounds) for row in found.table] == [("fp32", 1), (2, 2)]
    assert found.choices == START
    assert found.gains() == {"precision": 10.0, "threads": pytest.approx(100 / 95)}


def test_what_cannot_run_is_not_taken() -> None:
    def rate(choices: Choices) -> float:
        if choices.attention == "flash":
            raise RuntimeError("no kernel")
        return 100.0

    found = calibrate(START, {"attention": ("flash",)}, Known(rate))
    assert found.choices.attention == "sdpa"
    assert found.table == (Comparison("attention", "flash", "sdpa", 0.0, 0.0, 1, False),)
    assert found.gains() == {}


def test_time_is_bounded() -> None:
    trial = Known(lambda choices: 100.0 if choices.threads == 4 else 50.0, seconds=1.0)
    found = calibrate(
        START, {"threads": (3, 2), "precision": ("fp32",), "fused": ("off",)}, trial, 6.0, clock=lambda: trial.now
    )
    assert not found.complete
    assert trial.now <= 8.0
    assert [(row.value, row.rounds) for row in found.table] == [(3, 1), ("fp32", 2)]


def test_some_choices_are_measured_and_left() -> None:
    trial = Known(lambda choices: 200.0 if choices.fused == "off" else 100.0)
    found = calibrate(START, {"fused": ("off",)}, trial, only_measured=("fused",))
    assert found.choices.fused == "auto"
    assert found.gains() == {"fused": 0.5}
    assert found.words() == ["fused on (0.50 x off)"]


def test_parts_are_tried_with_micro_batches_of_the_run() -> None:
    trial = Known(lambda choices: 100.0)
    calibrate(START, {"threads": (2,), "micro_batch_parts": (2,)}, trial)
    by_parts = {choices.micro_batch_parts: whole for choices, whole in zip(trial.tried, trial.whole, strict=True)}
    assert by_parts[2] is True
    assert trial.whole[:7] == [False] * 7


def test_gains_of_two_steps_forward() -> None:
    def row(value: int, against: int, ratio: float) -> Comparison:
        return Comparison("threads", value, against, 1.0, ratio, 3, True)

    found = Calibration(replace(START, threads=1), 1.0, (row(2, 4, 1.5), row(1, 2, 1.2)), 1.0, True)
    assert found.gains() == {"threads": 1.2}  # over two threads, the best other value
    assert found.words() == ["threads 1 (1.20 x 2)"]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("INKWELL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_what_was_measured_is_remembered_for_its_identity_alone(cache: Path) -> None:
    remember("choices", {"cores": 2, "shape": [1, 2]}, {"threads": 2})
    assert recall("choices", {"shape": (1, 2), "cores": 2}) == {"threads": 2}
    assert recall("choices", {"cores": 4, "shape": [1, 2]}) is None
    assert recall("machine", {"cores": 2, "shape": [1, 2]}) is None


@pytest.mark.parametrize("damage", ["", "{", "[1]", '{"identity": {"cores": 3}, "found": {}}', '{"found": 1}'])
def test_a_damaged_file_counts_as_none_and_is_replaced(cache: Path, damage: str) -> None:
    remember("choices", {"cores": 2}, {"threads": 2})
    (file,) = (cache / "calibration").iterdir()
    file.write_text(damage, encoding="utf-8")
    assert recall("choices", {"cores": 2}) is None
    remember("choices", {"cores": 2}, {"threads": 1})
    assert recall("choices", {"cores": 2}) == {"threads": 1}


def test_a_cache_that_cannot_be_written_stops_nothing(cache: Path) -> None:
    cache.parent.mkdir(parents=True, exist_ok=True)
    cache.write_text("a file where the folder should be", encoding="utf-8")
    remember("choices", {"cores": 2}, {"threads": 2})
    assert recall("choices", {"cores": 2}) is None


def test_a_machine_is_told_by_what_measurements_depend_on() -> None:
    import torch

    identity = machine_identity()
    assert identity == json.loads(json.dumps(identity))
    assert identity["torch"] == torch.__version__
    assert identity["cores"] >= 1
    assert identity["processor"]


def test_the_gain_of_compiling_is_learnt_from_runs(cache: Path) -> None:
    identity = {"model": "m"}
    assert learnt_compile_gain(identity) is None
    assert learn(identity, compiled=False, rate=100.0) is None
    assert learn(identity, compiled=True, rate=150.0) == 1.5
    assert learn({"model": "n"}, compiled=True, rate=180.0, calibrated=90.0) == 2.0
    assert learn({"model": "n"}, compiled=False, rate=120.0) == 1.5  # a whole eager run tells more than a calibration
    assert learnt_compile_gain(identity) == 1.5
