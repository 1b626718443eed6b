"""The race in miniature: real trainers for some seconds, on the same tokens."""

from __future__ import annotations

import json
import math
import os
import re
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml
from transformers import TrainingArguments

from benchmarks.parts import Parts
from benchmarks.peers.contender import Run, Shape, scored
from benchmarks.peers.inkwell import _PERCENT, Inkwell, Start
from benchmarks.peers.litgpt_peer import LitGPT
from benchmarks.peers.rows import rows
from benchmarks.peers.timing import Timed, marked, steps_within, timed
from benchmarks.peers.transformers_peer import TransformersTrainer
from benchmarks.race.lengths import in_time
from benchmarks.race.like import shape_of_others
from benchmarks.race.running import Race
from benchmarks.race.settings import BUDGETS, smallest, tuned
from components.corpus.packed import TokenShards
from components.errors import InkwellError
from tests.benchmarks.last_line import figures

ROOT = Path(__file__).parents[2]
SHAPE = Shape(512, 64, 2, 2, 2, 32, 128, tied=False)


def test_a_command_is_timed_by_the_steps_that_it_tells(tmp_path: Path) -> None:
    code = "import time\nfor i in range(1, 6):\n  time.sleep(0.2)\n  print('@', i, flush=True)\ntime.sleep(0.6)"
    found = timed([sys.executable, "-c", code], tmp_path / "run", 30, marked(r"^@ (\d+)$"))
    assert [step for step, _ in found.steps] == [1, 2, 3, 4, 5]
    assert found.trained == found.steps[-1][1]
    assert 0.15 < found.pace < 2
    assert found.seconds > found.trained + 0.5, "what follows the last step is not training"
    assert len((tmp_path / "run" / "log.txt").read_text().splitlines()) == 5
    found = timed([sys.executable, "-c", code], tmp_path / "run", 30, marked(r"^@ (\d+)$"), first_only=True)
    assert [step for step, _ in found.steps] == [1], "ended as soon as it trains"


def test_a_command_that_fails_or_hangs_is_told_and_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(InkwellError, match=r"ended with status 3.*: 坏了"):
        timed([sys.executable, "-c", "print('坏了'); raise SystemExit(3)"], tmp_path, 30, marked("(x)"))
    child = f"import os, time; open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid())); time.sleep(60)"
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    with pytest.raises(InkwellError, match="had not ended after 3 s"):
        timed([sys.executable, "-c", code], tmp_path, 3, marked("(x)"))
    process = int((tmp_path / "pid").read_text())
    for _ in range(100):
        if not Path(f"/proc/{process}").exists():
            break
        time.sleep(0.1)
    else:
        pytest.fail("the grandchild is still alive")


def test_a_schedule_is_planned_from_a_trial_of_speed() -> None:
    # ten seconds to start, two of warming up, then a second a step
    trial = Timed(30.0, [(1, 10.0), (2, 12.0), (3, 14.0), *((step, 11.0 + step) for step in range(4, 12))])
    assert (trial.first, trial.pace, trial.trained) == (10.0, 1.0, 22.0)
    assert steps_within(trial, 60) == 51
    assert steps_within(trial, 1) == 2, "a run has two steps at least"
    with pytest.raises(InkwellError, match="fewer than two steps"):
        steps_within(Timed(30.0, [(1, 10.0)]), 60)


def test_a_peer_gets_the_best_of_rates_and_batches() -> None:
    """Its bits by how far it is from a rate of 1e-2 and 8 rows."""
    asked: list[tuple[float, int]] = []

    def bits(rate: float, batch: int) -> float:
        asked.append((rate, batch))
        return math.nan if rate > 1 else abs(math.log(rate / 1e-2)) + batch / 100

    assert tuned((5e-4, 1e-3, 3e-3), (8, 16, 32), bits)[:2] == (9e-3, 4), "beyond both edges is better"
    assert asked == [(5e-4, 16), (1e-3, 16), (3e-3, 16), (9e-3, 16), (9e-3, 8), (9e-3, 32), (9e-3, 4)]
    asked.clear()
    assert tuned((1e-3, 1e-2, 1e-1), (16,), bits)[:2] == (1e-2, 16)
    assert len(asked) == 3, "the best is no edge: nothing beyond is tried"
    assert tuned((2e-2, 4e-2), (16,), bits)[0] == pytest.approx(6.67e-3), "a third where the smallest is best"
    rate, _, tried = tuned((0.1, 0.5, 3.0), (16,), bits)
    assert tried[3.0, 16] == math.inf, "one that diverges is never the best"
    assert rate == pytest.approx(0.0333)


def test_the_others_keep_the_shape_that_they_were_tuned_at_while_it_is_of_like_size(tmp_path: Path) -> None:
    kept = Parts(tmp_path, {"peers": "any"})
    deeper = replace(SHAPE, layers=3)
    assert shape_of_others(kept, SHAPE, 4_500_000, 64) == (SHAPE, 4_500_000)
    assert shape_of_others(kept, deeper, 4_900_000, 64) == (SHAPE, 4_500_000)
    assert shape_of_others(kept, replace(deeper, tied=True), 4_900_000, 64)[0].tied, "another kind of model"
    assert shape_of_others(kept, deeper, 6_000_000, 64) == (deeper, 6_000_000), "too far away"
    again = Parts(tmp_path, {"peers": "any"})
    assert shape_of_others(again, SHAPE, 5_500_000, 64) == (deeper, 6_000_000), "the nearest of those that are kept"


def test_a_run_of_inkwell_that_takes_too_long_is_repeated_with_less() -> None:
    planned: list[float] = []

    def train(seconds: float) -> dict[str, float]:
        planned.append(seconds)
        return {"trained": seconds + 20.0}

    assert in_time(100.0, train)["trained"] <= 102.0
    assert planned == [99.0, 79.0], "less by as much as it was late"
    planned.clear()
    in_time(1000.0, train)
    assert planned == [990.0], "a little more than it may is let be"


def test_the_last_step_is_over_when_the_bar_says_in_what_time() -> None:
    lines = [
        "  pretrain:   7%, 1:00 left",
        "  pretrain: 100%, 0:01 left, loss 3.1",
        "  pretrain: 100% in 2:00, loss 3.1",
    ]
    assert [_PERCENT(line) for line in lines] == [7, None, 100]


@pytest.mark.parametrize("unlucky", [0.0, 0.03])
@pytest.mark.parametrize("needed", [0.01, 0.04, 0.06, 0.1, 0.12, 0.4, 0.9])
def test_the_smallest_budget_that_reaches_the_target_with_every_seed_is_found(needed: float, unlucky: float) -> None:
    """`unlucky`: how much more of the time the worst seed needs."""
    found = smallest(lambda share: share >= needed, lambda share: share >= needed + unlucky)
    assert found == min((budget for budget in BUDGETS if budget >= needed + unlucky), default=None)


def test_other_trainers_read_every_token_of_the_corpus_in_rows(token_folder: Path) -> None:
    shards = TokenShards(token_folder, "train")
    found = rows(token_folder, "train", 33, seed=1)
    assert found.shape == (shards.tokens // 33, 33)
    stream = found.ravel().tolist()
    whole = [shards.document(index).tolist() for index in range(len(shards))]
    starts = [at for at, token in enumerate(stream) if token == whole[0][0]]
    documents = [stream[begin:end] for begin, end in pairwise(starts)]
    assert documents
    assert all(document in whole for document in documents), "documents stay whole, whatever their order"
    assert documents != whole[: len(documents)]
    assert (rows(token_folder, "train", 33, seed=1) == found).all()
    assert not (rows(token_folder, "train", 33, seed=2) == found).all()


def test_the_others_are_told_their_batch_and_seed(tmp_path: Path) -> None:
    run = Run(tmp_path, tmp_path / "tokens", SHAPE, rate=3e-3, steps=40, batch=16, block=64, seed=3)
    LitGPT(tmp_path / "none").command(run, "compiled")
    settings = yaml.safe_load((tmp_path / "settings.yaml").read_text(encoding="utf-8"))
    assert (settings["seed"], settings["data"]["init_args"]["seed"]) == (3, 3)
    assert settings["train"]["global_batch_size"] == settings["train"]["micro_batch_size"] == 16
    assert settings["train"]["max_tokens"] == 40 * 16 * 64
    TransformersTrainer().command(run, "eager")
    written = json.loads((tmp_path / "settings.json").read_text(encoding="utf-8"))
    assert (written["batch"], written["seed"], written["compile"]) == (16, 3, False)


def test_the_trainers_warm_up_is_a_share_of_its_steps(tmp_path: Path) -> None:
    from benchmarks.peers.trainer import Settings

    share = Settings("", "", {}, 1e-3, 10).warmup
    arguments = TrainingArguments(str(tmp_path), use_cpu=True, report_to="none", warmup_steps=share)
    assert [arguments.get_warmup_steps(steps) for steps in (200, 1000)] == [10, 50]


class EagerTrainer(TransformersTrainer):
    """Without the half minute of compiling."""

    modes: Sequence[str] = ("eager",)
    rates: Sequence[float] = (1e-9, 3e-3)
    batches: Sequence[int] = (4,)


@pytest.mark.timeout(1500)
def test_the_race_from_the_first_trial_to_the_target(
    workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In seconds starting takes longer than the race may: nobody is sent back for that, and one budget is enough."""
    monkeypatch.setattr("benchmarks.race.settings.BUDGETS", (0.5,))
    monkeypatch.setattr("benchmarks.race.settings._FIRST", 0)
    monkeypatch.setattr("benchmarks.race.lengths.OVERRUN", 1e9)
    race = Race(
        workspace,
        Parts(tmp_path / "parts", {"minutes": 0.1}),
        Inkwell(workspace, tmp_path / "caches", "steps"),
        [EagerTrainer()],
        seconds=12.0,
        block=64,
        caches=("warm",),
        seeds=(1,),
        repeats=2,
    )
    found, curves = race.run()
    assert found["rate_transformers"] in (3e-3, 9e-3), (
        "a rate of 1e-9 learns nothing, and one beyond the edge was tried"
    )
    assert found["batch_transformers"] == 4
    tried = {path.stem for path in (tmp_path / "parts").glob("peers=*/transformers-trial-*.json")}
    assert tried == {f"transformers-trial-{name}-4" for name in ("1e-09", "0.003", "0.009")}
    assert found["bpc_inkwell_min"] <= found["bpc_inkwell"] <= found["bpc_inkwell_max"]
    assert found["bpc_transformers_min"] <= found["bpc_transformers"] <= found["bpc_transformers_max"]
    assert found["parameters_inkwell"] == found["parameters_others"] > 0
    assert 0 < found["bpc_transformers"] < math.log2(512) * 1.5
    assert found["bpc_inkwell"] > 0
    shorter = "Inkwell planned for less time, warm cache"
    assert set(curves) == {"Inkwell, warm cache", "transformers, warm cache", shorter}
    assert all(moment > 0 and 0 < bits < 20 for moment, bits in curves[shorter])
    moments = [moment for moment, _ in curves["transformers, warm cache"]]
    assert moments == sorted(moments)
    assert moments[-1] == found["seconds_transformers"]
    assert [moment for moment, _ in curves["Inkwell, warm cache"]][-1] == pytest.approx(found["seconds_inkwell"])
    assert found["target_bpc"] == found["bpc_transformers"]
    if found["time_to_target_ratio"] is None:
        assert "target_reached_bpc_max" not in found
    else:
        assert found["target_bpc"] >= found["target_reached_bpc_max"]
    began = time.monotonic()
    assert replace(race, parts=Parts(tmp_path / "parts", {"minutes": 0.1})).run()[0] == found
    assert time.monotonic() - began < 5, "finished parts are read, not measured"


def test_the_time_to_a_target_is_told_where_it_was_reached_and_none_where_it_was_not(
    workspace: Path, tmp_path: Path
) -> None:
    """Runs that are finished lie there: of 5.9 bits a character for a tenth of the time, 5.5 for a fifth or more."""
    parts = Parts(tmp_path / "parts", {"minutes": 10})
    for share in BUDGETS[BUDGETS.index(0.1) :]:
        for seed in (1, 2, 3):
            bits = (5.9 if share < 0.2 else 5.5) + seed / 100
            ended = {"bits": bits, "trained": 600.0 * share + seed}
            parts.done(f"target-warm-{share}-{seed}", lambda ended=ended: ended)
    race = Race(workspace, parts, Inkwell(workspace, tmp_path), [TransformersTrainer()], 600.0, 64, ("warm",))
    reached = race._targets("warm", {"bpc_transformers": 5.6, "seconds_transformers": 600.0})
    assert reached["time_to_target_ratio"] == pytest.approx(122 / 600)
    assert (reached["target_bpc"], reached["target_reached_bpc_max"]) == (5.6, pytest.approx(5.53))
    missed = race._targets("warm", {"bpc_transformers": 5.0, "seconds_transformers": 600.0})
    assert missed == {"time_to_target_ratio": None, "target_bpc": 5.0}
    assert race._targets("warm", {"bpc_transformers": 5.515, "seconds_transformers": 600.0}) == {
        "time_to_target_ratio": None,
        "target_bpc": 5.515,
    }, "two of three seeds do not reach it"


@pytest.mark.timeout(1500)
def test_the_last_line_of_a_race_always_has_the_time_to_target(
    workspace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("benchmarks.race.lengths.OVERRUN", 1e9)  # starting takes longer than the race may
    brief = ("--plan", "steps", "--minutes", "0.1", "--cache", "warm")
    found = figures(capsys, workspace, "--only", "race", "--peers", "", *brief)
    assert found["bpc_inkwell"] > 0
    assert found["time_to_target_ratio"] is None, "there was nobody to reach"


def test_inkwell_is_told_its_time_by_the_dial_or_by_steps(
    workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[Any] = []
    monkeypatch.setattr(Inkwell, "_run", lambda self, folder, length, cold, limit, seed: told.append(length))
    start = Start(overhead=15.0, pace=0.5)
    Inkwell(workspace, tmp_path, "dial").train(tmp_path, 75.0, start, cold=False, limit=1)
    Inkwell(workspace, tmp_path, "steps").train(tmp_path, 75.0, start, cold=False, limit=1)
    Inkwell(workspace, tmp_path, "dial").train(tmp_path, 10.0, start, cold=False, limit=1)
    # a minute is left; less 5 % for validations it is 114 steps; the file warms up for 2 of 12
    by_steps = [
        "pretrain.dial.minutes=null",
        "pretrain.dial.parameters=null",
        "pretrain.steps=114",
        "pretrain.warmup_steps=19",
    ]
    assert told[:2] == [["pretrain.dial.minutes=1.0000"], by_steps], "a dial in the file is switched off"
    assert told[2] == ["pretrain.dial.minutes=0.0167"], "never less than a tenth of what it was planned for"


def test_all_sides_are_scored_alike(workspace: Path, tmp_path: Path) -> None:
    ours = Inkwell(workspace, tmp_path / "caches", "steps")
    done = ours.train(tmp_path / "run", 1.0, Start(0.0, 0.1), cold=True, limit=300)
    assert done.steps == 9, "a second, less what validations take, at a tenth a step"
    model = tmp_path / "run" / "models" / "base"
    request = {
        "tokens": str(workspace / "data" / "tokens"),
        "documents": None,
        "block": 64,
        "models": [{"folder": str(model)}],
    }
    assert scored(tmp_path, request)[0] == pytest.approx(done.bits, rel=1e-6)
    assert done.predicted <= done.metrics["tokens"]


@pytest.mark.timeout(1500)
def test_litgpt_trains_on_the_same_tokens_and_its_weights_are_scored_alike(workspace: Path, tmp_path: Path) -> None:
    kept = os.environ.get("INKWELL_LITGPT") or ROOT / ".inkwell" / "benchmarks" / "pretrain" / "litgpt-environment"
    peer = LitGPT(Path(kept) if Path(kept).exists() else tmp_path / "litgpt")
    try:
        peer.install(tmp_path)
    except InkwellError as error:
        pytest.skip(str(error))
    run = Run(tmp_path / "run", workspace / "data" / "tokens", SHAPE, rate=3e-3, steps=24, batch=4, block=64, saves=2)
    command = peer.command(run, "compiled")
    found = timed(command, run.folder, 500, peer.step, {"TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache")})
    assert [step for step, _ in found.steps] == list(range(1, 25))
    kept_weights = peer.weights(run)
    assert [step for step, _ in kept_weights] == [12, 24]
    request = {
        "tokens": str(run.tokens),
        "documents": None,
        "block": 64,
        "models": [entry for _, entry in kept_weights],
    }
    halfway, end = scored(tmp_path, request)
    assert end < halfway
    # its own loss at the end, of training rows, is near what we score for held-out text of the same kind
    losses = re.findall(r"loss train: ([\d.]+)", (run.folder / "log.txt").read_text())
    shards = TokenShards(run.tokens, "validation")
    nats = end * (shards.characters + len(shards)) / (shards.tokens - len(shards)) * math.log(2)
    assert nats == pytest.approx(float(losses[-1]), rel=0.25)


@pytest.mark.timeout(1500)
def test_the_dial_is_given_what_starting_leaves_of_the_time(workspace: Path, tmp_path: Path) -> None:
    ours = Inkwell(workspace, tmp_path / "caches", settings=("pretrain.dial.keep=[micro_batch, accumulation]",))
    # far more than the few documents of the corpus are worth: the plan ends where they are learnt
    start = ours.start(tmp_path / "run", 120.0, cold=True, limit=900)
    assert start.overhead >= 0
    assert json.loads((tmp_path / "run" / "metrics" / "pretrain.json").read_text())["val_bits_per_char"] > 0
    assert (tmp_path / "caches" / "inkwell-cold" / "machine").is_dir(), (
        "what was found out about the machine went there"
    )
    ours.fill(tmp_path / "fill", ours.length(126.0, Start(6.0, 0.0)), limit=900)
    assert any((tmp_path / "caches" / "inkwell-warm").iterdir())
