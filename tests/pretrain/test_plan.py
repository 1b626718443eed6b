"""The plan: what it counts agrees with what is counted by hand, measured or done."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, cast

import pytest
import torch
import yaml

from benchmarks.scaling_law import LAW
from components.configuration import Pretrain, load
from components.corpus.packed import TokenShards
from components.errors import InkwellError
from components.machine.choices import Choices
from components.model.architectures import Count, count, count_of
from components.model.folders import load_model
from components.pretrain.cost import operations_a_token, optimizer_operations, peak_gib, state_gib
from components.pretrain.data import CorpusSequences
from components.pretrain.dial import CorpusFacts
from components.pretrain.pace import UTILISATION, Pace
from components.pretrain.plan import Outcome, check, planned
from components.pretrain.planning import PLAN, law, resolve, shaped_like, too_many_passes
from components.pretrain.probe import step_timer
from components.scaling import PUBLISHED, Run, fitted
from tests.processes import ROOT, finish, start

LAPTOP = Pretrain(block=256, micro_batch=8, steps=2400)  # 8 layers 256 wide
TANG = CorpusFacts(3_907_980, 51_326)


def test_the_law_that_is_shipped_is_the_fit_of_its_runs() -> None:
    runs = [Run(**run) for run in yaml.safe_load(LAW.read_text(encoding="utf-8"))["runs"]]
    assert len(runs) >= 6
    found, shipped = fitted(runs, PUBLISHED), law()
    assert found.parameters_for(1e6) == pytest.approx(shipped.parameters_for(1e6), rel=1e-3)
    assert found.overfitting(1e6, 1e7, 1e6) == pytest.approx(shipped.overfitting(1e6, 1e7, 1e6), rel=1e-3)
    for run in runs:
        assert law().loss(run.parameters, run.tokens, run.unique) == pytest.approx(run.loss, rel=0.03)


def test_operations_are_those_of_the_matrices_and_of_attention() -> None:
    matrices = 8 * (4 * 256 * 256 + 3 * 256 * 768) + 4096 * 256  # blocks and head; embeddings are only looked up
    assert operations_a_token(LAPTOP, count(LAPTOP, 4096)) == 6 * matrices + 12 * 8 * 256 * 256
    tied = LAPTOP.model_copy(update={"tie_embeddings": True})
    assert operations_a_token(tied, count(tied, 4096)) == operations_a_token(LAPTOP, count(LAPTOP, 4096))
    mamba = Pretrain(architecture="mamba2", heads=8)
    assert operations_a_token(mamba, count(mamba, 4096)) == 6 * count(mamba, 4096).multiplied
    near = Pretrain(architecture="mistral", sliding_window=64)
    assert operations_a_token(near, count(near, 4096)) == 6 * matrices + 12 * 8 * 256 * 64


def test_experts_cost_as_many_as_a_token_meets_and_memory_as_many_as_there_are() -> None:
    four, eight = (Pretrain(architecture="mixtral", experts=experts) for experts in (4, 8))
    routed = 6 * 8 * 256 * 4  # the router of four experts more
    assert operations_a_token(eight, count(eight, 4096)) == operations_a_token(four, count(four, 4096)) + routed
    assert (
        peak_gib(eight, count(eight, 4096), 4096, bf16=True) > peak_gib(four, count(four, 4096), 4096, bf16=True) + 0.1
    )


def test_the_optimizers_share_shrinks_with_the_batch_and_is_less_for_adamw() -> None:
    size = count(LAPTOP, 4096)
    adamw = LAPTOP.model_copy(update={"optimizer": "adamw"})
    assert 0 < optimizer_operations(adamw, size, 4096) < optimizer_operations(LAPTOP, size, 4096)
    pace = Pace(((256, 1e11),))
    a_token = [pace.seconds_of_step(LAPTOP, size, 4096, batch) / batch for batch in (1024, 4096, 65_536)]
    assert a_token[0] > a_token[1] > a_token[2]


def test_a_pace_goes_through_what_was_measured() -> None:
    pace = Pace(())
    for width, seconds in ((256, 0.4), (512, 0.9)):
        shape = Pretrain(hidden_size=width, heads=width // 64, key_value_heads=width // 64, feed_forward_size=3 * width)
        pace = pace.with_step(shape, count(shape, 4096), 4096, 2048, seconds)
        assert pace.seconds_of_step(shape, count(shape, 4096), 4096, 2048) == pytest.approx(seconds)
    assert pace.rate(256) < pace.rate(384) < pace.rate(512)
    # beyond what was measured the curve keeps its form
    curve = dict(UTILISATION)
    assert pace.rate(2048) / pace.rate(512) == pytest.approx(curve[2048] / curve[512])
    assert pace.rate(64) / pace.rate(256) == pytest.approx(curve[64] / curve[256])
    again = pace.with_step(LAPTOP, count(LAPTOP, 4096), 4096, 2048, 0.2)
    assert len(again.measured) == 2
    assert again.rate(256) == pytest.approx(2 * pace.rate(256))


def test_processes_share_the_rows_but_not_the_optimizer() -> None:
    size = count(LAPTOP, 4096)
    one, four = (Pace(((256, 1e11),), processes=n).seconds_of_step(LAPTOP, size, 4096, 8192) for n in (1, 4))
    assert one / 4 < four < one / 2


def test_a_plan_says_what_a_run_is() -> None:
    size = count(LAPTOP, 4096)
    pace = Pace(()).with_step(LAPTOP, size, 4096, 2048, 0.4)
    plan = planned(LAPTOP, size, TANG, 4096, law(), pace=pace)
    assert plan.tokens == 2400 * 2048
    assert plan.epochs == pytest.approx(4_915_200 / 3_907_980)
    assert TANG.tokens < plan.fresh_tokens < plan.tokens
    assert plan.seconds == pytest.approx(960)
    text = "\n".join(plan.lines())
    for part in (
        "qwen3, 8 layers 256 and 768 wide",
        "8.92 M parameters",
        "2,400 steps of 2,048",
        "1.26 passes",
        "16.0 minutes",
    ):
        assert part in text
    # the card of a model says nothing about the machine
    assert "minutes" not in str(plan)
    assert "8.9 M parameters, 4.92 M tokens in 1.26 epochs" in str(plan)


def test_a_plan_that_needs_less_than_it_may_says_why() -> None:
    parameters = LAPTOP.model_copy(update={"dial": LAPTOP.dial.model_copy(update={"minutes": 60.0})})
    pace = Pace(()).with_step(LAPTOP, count(LAPTOP, 4096), 4096, 2048, 0.4)
    plan = planned(parameters, count(LAPTOP, 4096), TANG, 4096, law(), pace=pace)
    assert "of 60 minutes the plan uses 16.0" in plan.lines()[-1]


def test_plan_and_outcome_are_held_against_each_other() -> None:
    size = count(LAPTOP, 4096)
    plan = planned(LAPTOP, size, TANG, 4096, law(), pace=Pace(()).with_step(LAPTOP, size, 4096, 2048, 0.4))
    line, metrics = plan.compare(Outcome(tokens=plan.tokens, seconds=1056, peak_gib=plan.peak_gib / 2))
    assert "17.6 minutes of training against 16.0 minutes (+10%)" in line
    assert "(-50%)" in line
    assert metrics["planned_minutes"] == pytest.approx(16)
    assert metrics["training_minutes"] == pytest.approx(17.6)
    assert all(isinstance(value, float) and math.isfinite(value) for value in metrics.values())
    timeless = planned(LAPTOP, size, TANG, 4096, law())
    line, metrics = timeless.compare(Outcome(timeless.tokens, 1056, 1.0))
    assert "planned_minutes" not in metrics
    assert "against" in line


@pytest.mark.parametrize("width", [128, 320])
def test_planned_memory_is_near_what_a_run_takes(
    tmp_path: Path, token_folder: Path, tokenizer_folder: Path, width: int
) -> None:
    shape: dict[str, Any] = {
        "hidden_size": width, "layers": 6, "heads": width // 64, "key_value_heads": width // 64,
        "feed_forward_size": 3 * width, "block": 128, "micro_batch": 16 if width == 320 else 4,
    }  # fmt: skip
    params = json.dumps(
        {
            "ingest": {"sources": [{"name": "tiny", "kind": "path", "location": "poems.json"}]},
            "machine": {"compile": "off", "threads": 1, "calibrate": False},
            "sampling": {"maximum_tokens": 5},
            "pretrain": {**shape, "steps": 4, "validation_every": 4, "validation_documents": 4, "sample_every": 9},
        }
    )
    finish(start("pretrain", tmp_path, params, "--tokens", str(token_folder), "--tokenizer", str(tokenizer_folder)))
    metrics = json.loads((tmp_path / "metrics" / "pretrain.json").read_text())
    parameters, vocabulary = Pretrain(**shape), TokenShards(token_folder, "train").vocabulary
    guessed = peak_gib(parameters, count(parameters, vocabulary), vocabulary, bf16=bool(metrics["bf16"]))
    assert metrics["peak_gib"] / 1.5 < guessed < metrics["peak_gib"] * 1.5


class Machine:
    """A machine whose steps take as long as its own curve says, which is not the one that is assumed."""

    def __init__(self, vocabulary: int) -> None:
        self.vocabulary = vocabulary
        self.true = Pace(((64, 5e10), (128, 6e10), (256, 4e10), (1024, 9e10)))
        self.asked: list[Pretrain] = []
        self.learnt: Pace | None = None

    def known(self, parameters: Pretrain) -> Pace | None:
        return self.learnt

    def learn(self, parameters: Pretrain, pace: Pace) -> None:
        self.learnt = pace

    def __call__(self, parameters: Pretrain) -> float:
        self.asked.append(parameters)
        return self.seconds(parameters)

    def seconds(self, parameters: Pretrain) -> float:
        batch = parameters.block * parameters.micro_batch * parameters.accumulation
        return self.true.seconds_of_step(parameters, count(parameters, self.vocabulary), self.vocabulary, batch)


@pytest.fixture
def train(token_folder: Path) -> TokenShards:
    return TokenShards(token_folder, "train")


def test_minutes_become_a_plan_once(train: TokenShards, tmp_path: Path) -> None:
    machine = Machine(train.vocabulary)
    written = Pretrain(dial={"minutes": 0.2}, block=32, context=64)
    resolved, plan = resolve(written, train, tmp_path, vocabulary=train.vocabulary, probe=machine)
    assert 1 <= len(machine.asked) <= 3
    assert resolved != written
    assert resolved.dial == written.dial
    assert plan.seconds is not None
    # the shape that was chosen has been timed: the estimate is the machine's, not the table's
    assert plan.seconds == pytest.approx(machine.seconds(resolved) * resolved.steps, rel=0.02)
    assert plan.seconds <= 60 * 0.2
    machine.true = Pace(((64, 1e15),))  # the machine is another one when the run is resumed
    asked = len(machine.asked)
    assert resolve(written, train, tmp_path, vocabulary=train.vocabulary, probe=machine) == (resolved, plan)
    assert len(machine.asked) == asked
    assert (tmp_path / PLAN).exists()


class Tang:
    """Of a packed corpus, what a plan asks for."""

    tokens = TANG.tokens

    def __len__(self) -> int:
        return TANG.documents


def test_a_machine_that_is_known_is_timed_once(tmp_path: Path) -> None:
    machine, train = Machine(vocabulary=4096), cast(TokenShards, Tang())
    written = Pretrain(dial={"minutes": 4})
    first = resolve(written, train, tmp_path / "a", vocabulary=4096, probe=machine)
    machine.asked.clear()
    assert resolve(written, train, tmp_path / "b", vocabulary=4096, probe=machine) == first
    assert len(machine.asked) == 1
    # half as fast today, at all widths: a smaller plan, and one shape is timed to see it
    machine.true = Pace(tuple((width, rate / 2) for width, rate in machine.true.measured))
    _, slower = resolve(written, train, tmp_path / "c", vocabulary=4096, probe=machine)
    assert slower.operations < 0.7 * first[1].operations
    assert len(machine.asked) == 2


def test_whether_it_pays_to_be_wider_is_measured(tmp_path: Path) -> None:
    machine = Machine(vocabulary=4096)
    resolve(Pretrain(dial={"minutes": 30}), cast(TokenShards, Tang()), tmp_path, vocabulary=4096, probe=machine)
    assert len({shape.hidden_size for shape in machine.asked}) > 1
    assert len(machine.asked) <= 3


def test_a_shape_that_one_process_cannot_hold_is_timed_with_fewer_layers(tmp_path: Path) -> None:
    machine, train = Machine(vocabulary=4096), cast(TokenShards, Tang())

    def peak(shape: Pretrain) -> float:
        return peak_gib(shape, count(shape, 4096), 4096, bf16=True)

    written = Pretrain(dial={"parameters": 30_000_000})
    whole, plan = resolve(written, train, tmp_path / "a", vocabulary=4096, probe=machine)
    assert machine.asked.pop() == whole
    room = peak(whole) - 0.1
    again, divided = resolve(written, train, tmp_path / "b", vocabulary=4096, probe=machine, timed_gib=room)
    assert again == whole
    (asked,) = machine.asked
    assert asked.layers < whole.layers
    assert asked.model_copy(update={"layers": whole.layers}) == whole
    assert peak(asked) <= room
    assert plan.seconds is not None
    assert divided.seconds == pytest.approx(plan.seconds), "a pace is that of a width"
    machine, small = Machine(vocabulary=4096), Machine(vocabulary=4096)
    minutes = Pretrain(dial={"minutes": 30})
    planned, _ = resolve(minutes, train, tmp_path / "c", vocabulary=4096, probe=machine)
    room = max(map(peak, machine.asked)) - 0.02
    again, _ = resolve(minutes, train, tmp_path / "d", vocabulary=4096, probe=small, timed_gib=room)
    assert again == planned
    assert max(map(peak, small.asked)) <= room
    with pytest.raises(InkwellError, match=r"pretrain\.dial\.minutes needs steps to be timed, .* the 0\.5 GiB of one"):
        resolve(minutes, train, tmp_path / "e", vocabulary=4096, probe=small, timed_gib=0.5)


def test_the_default_steps_are_of_use_on_the_default_corpus_and_too_many_for_a_tenth_of_it() -> None:
    written = load(ROOT / "params.yaml").pretrain
    size = count(written, 4096)
    assert too_many_passes(written, size, cast(TokenShards, Tang())) is None

    class Tenth(Tang):
        tokens = TANG.tokens // 10

    told = too_many_passes(written, size, cast(TokenShards, Tenth()))
    assert told is not None
    assert "20.4 passes over this corpus" in told
    assert "set pretrain.steps=172, " in told


def test_a_plan_is_made_again_for_processes_that_are_faster(tmp_path: Path) -> None:
    """They get the minutes that the dial gives, and read the plan; who started them may ask again."""
    machine, train = Machine(vocabulary=4096), cast(TokenShards, Tang())
    written = Pretrain(dial={"minutes": 4})
    resolved, plan = resolve(written, train, tmp_path, vocabulary=4096, probe=machine)
    divided = resolve(written, train, tmp_path, vocabulary=4096, probe=None, gain=1.6)
    assert divided[0] != resolved
    assert divided[1].parameters >= plan.parameters
    assert plan.seconds is not None
    assert divided[1].seconds is not None
    assert 0.85 * 240 < plan.seconds <= 240
    assert 0.85 * 240 < divided[1].seconds <= 240
    for processes in (1, 2):
        assert resolve(written, train, tmp_path, vocabulary=4096, probe=None, processes=processes) == divided
    assert resolve(written, train, tmp_path, vocabulary=4096, probe=None, gain=1.6) == divided


def test_steps_that_are_written_take_less_time_in_processes_that_are_faster(tmp_path: Path) -> None:
    machine, train = Machine(vocabulary=4096), cast(TokenShards, Tang())
    written = Pretrain(steps=300)
    _, plan = resolve(written, train, tmp_path, vocabulary=4096, probe=machine)
    resolved, divided = resolve(written, train, tmp_path, vocabulary=4096, probe=None, gain=1.6)
    assert resolved == written
    assert plan.seconds is not None
    assert divided.seconds == pytest.approx(plan.seconds / 1.6)
    assert divided.steps == plan.steps


def test_a_plan_holds_for_the_processes_that_it_was_made_for(tmp_path: Path) -> None:
    """Those of a later start may have other cores: what one of them does a second is not known of the others."""
    machine, train = Machine(vocabulary=4096), cast(TokenShards, Tang())
    planned = resolve(Pretrain(), train, tmp_path, vocabulary=4096, probe=machine, processes=2)
    assert resolve(Pretrain(), train, tmp_path, vocabulary=4096, probe=machine, processes=1) == planned


def test_what_the_dial_leaves_may_change_when_a_run_is_resumed(train: TokenShards, tmp_path: Path) -> None:
    machine = Machine(train.vocabulary)
    written = Pretrain(dial={"minutes": 0.2}, block=32, context=64)
    resolved, _ = resolve(written, train, tmp_path, vocabulary=train.vocabulary, probe=machine)
    changed = written.model_copy(update={"gradient_clip": 0.5, "hidden_size": 1024})
    again, _ = resolve(changed, train, tmp_path, vocabulary=train.vocabulary, probe=machine)
    assert again == resolved.model_copy(update={"gradient_clip": 0.5})


def test_without_a_dial_nothing_changes_but_there_is_a_plan(train: TokenShards, tmp_path: Path) -> None:
    written = Pretrain(hidden_size=64, heads=1, key_value_heads=1, layers=2, block=32, steps=7)
    machine = Machine(train.vocabulary)
    resolved, plan = resolve(written, train, tmp_path / "a", vocabulary=train.vocabulary, probe=machine)
    assert resolved == written
    assert machine.asked == [written]
    assert plan.seconds == pytest.approx(7 * machine.seconds(written))
    resolved, plan = resolve(written, train, tmp_path / "b", vocabulary=train.vocabulary, probe=None)
    assert resolved == written
    assert plan.seconds is None


def test_parameters_alone_need_no_machine_and_minutes_do(train: TokenShards, tmp_path: Path) -> None:
    sized = Pretrain(dial={"parameters": 1_000_000}, block=32, context=64)
    resolved, plan = resolve(sized, train, tmp_path / "a", vocabulary=train.vocabulary, probe=None)
    assert plan.parameters == pytest.approx(1_000_000, rel=0.3)
    assert plan.steps == resolved.steps
    with pytest.raises(InkwellError, match=r"pretrain\.dial\.minutes"):
        resolve(Pretrain(dial={"minutes": 1}), train, tmp_path / "b", vocabulary=train.vocabulary, probe=None)


def test_a_real_step_is_timed_and_leaves_no_trace(
    train: TokenShards, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parameters = Pretrain(
        hidden_size=64, heads=1, key_value_heads=1, layers=2, feed_forward_size=128, block=32, context=64, micro_batch=2,
        accumulation=2, residual_dropout=0.1,
    )  # fmt: skip
    choices = Choices(device="cpu", threads=1, precision="fp32", micro_batch_parts=2)
    monkeypatch.setenv("INKWELL_CACHE", str(tmp_path))
    before = torch.get_rng_state()
    probe = step_timer(CorpusSequences(train), train.vocabulary, choices, seconds=0.05)
    assert 0 < probe(parameters) < 60
    assert torch.equal(before, torch.get_rng_state())
    assert probe.known(parameters) is None
    probe.learn(parameters, Pace(((64, 1e9), (256, 2e9))))
    wider = parameters.model_copy(update={"hidden_size": 256, "heads": 4, "key_value_heads": 4, "micro_batch": 4})
    assert probe.known(wider) == Pace(((64, 1e9), (256, 2e9))), "shape and batch are what the curve is over"
    probe.learn(wider, Pace(((128, 1.5e9), (256, 3e9))))
    assert probe.known(parameters) == Pace(((64, 1e9), (128, 1.5e9), (256, 3e9))), "what was known is not forgotten"
    other = step_timer(CorpusSequences(train), train.vocabulary, Choices(device="cpu", threads=2, precision="fp32"))
    assert other.known(parameters) is None
    for changed in (
        {"architecture": "llama"},
        {"optimizer": "adamw"},
        {"block": 64},
        {"activation_checkpointing": True},
    ):
        assert probe.known(parameters.model_copy(update=changed)) is None, changed
    monkeypatch.setattr("transformers.__version__", "another")
    assert probe.known(parameters) is None


def test_weights_that_are_continued_are_timed_and_planned_as_they_are(
    train: TokenShards, tiny_model: Path, tmp_path: Path
) -> None:
    model = load_model(tiny_model)
    written = Pretrain(initial="somewhere", dial={"minutes": 0.5}, block=32, context=64, learning_rate=1e-4)
    shaped = shaped_like(written, model)
    assert (shaped.architecture, shaped.hidden_size, shaped.layers, shaped.heads) == ("qwen3", 256, 2, 4)
    size = count_of(model)
    weights = {name: weight.clone() for name, weight in model.state_dict().items()}
    choices = Choices(device="cpu", threads=1, precision="fp32")
    probe = step_timer(CorpusSequences(train), train.vocabulary, choices, seconds=0.05, initial=model)
    assert probe(shaped.model_copy(update={"micro_batch": 1})) > 0
    assert all(torch.equal(weight, weights[name]) for name, weight in model.state_dict().items())
    machine = Machine(train.vocabulary)
    resolved, plan = resolve(shaped, train, tmp_path, vocabulary=train.vocabulary, probe=machine, initial=size)
    assert plan.parameters == size.total
    assert (resolved.hidden_size, resolved.layers, resolved.learning_rate) == (256, 2, 1e-4)
    check(resolved, train)


def test_what_cannot_be_is_refused_before_it_starts(train: TokenShards) -> None:
    with pytest.raises(InkwellError, match=r"pretrain\.block = 512 is longer than pretrain\.context = 256"):
        check(Pretrain(block=512, context=256), train)
    with pytest.raises(InkwellError, match="fewer than the"):
        check(Pretrain(micro_batch=10_000), train)
    with pytest.raises(InkwellError, match=r"pretrain\.heads"):
        check(Pretrain(heads=3), train)


def test_what_a_training_holds_is_part_of_its_peak() -> None:
    size = count(LAPTOP, 4096)
    state = state_gib(LAPTOP, size, 4096, bf16=False)
    # weights and gradients, one moment of Muon's matrices, two of the embeddings' and the head's
    assert state * 2**30 == 12 * size.total + 4 * 2 * 4096 * 256
    assert state < peak_gib(LAPTOP, size, 4096, bf16=False)
    smaller = LAPTOP.model_copy(update={"micro_batch": 1})
    assert state_gib(smaller, size, 4096, bf16=False) == state


def test_active_parameters_are_told_where_not_all_are() -> None:
    plan = planned(LAPTOP, Count(100_000_000, 40_000_000, 39_000_000), TANG, 4096, law())
    assert "100 M parameters, 40 M active" in plan.lines()[0]
