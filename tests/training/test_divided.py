"""A run whose work several processes would do faster is handed to them: real ones, one run, one record."""

from __future__ import annotations

import csv
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from torch.optim import Optimizer
from transformers import PreTrainedModel

from components.configuration import Tokenize, load
from components.corpus.documents import clean_schema, write_documents
from components.machine import cores as machine_cores
from components.machine import hardware
from components.machine.choices import Choices
from components.pretrain.__main__ import STEP
from components.step import main
from components.tokenize.encode import encode_corpus
from components.training import pinned
from components.training.optimizers import adamw
from components.training.pinned import Division, measure_processes
from components.training.trial import StepTrial
from tests.processes import ROOT, finish, start
from tests.tiny_corpus import clean_rows
from tests.tiny_models import sharp, tiny

PARAMS = """
ingest: {sources: [{name: tiny, kind: path, location: poems.json}]}
machine: {compile: "off", precision: fp32, fused: "off", micro_batch_parts: 1}
sampling: {maximum_tokens: 8}
pretrain:
  {hidden_size: 64, layers: 2, heads: 2, key_value_heads: 2, feed_forward_size: 128, block: 64, context: 128,
   micro_batch: 4, accumulation: 1, steps: 12, warmup_steps: 3, validation_every: 6, validation_documents: 10,
   sample_every: 100, checkpoints: {minutes: 60}}
"""
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes are pinned on Linux only")


@pytest.fixture
def arguments(tmp_path: Path, token_folder: Path, tokenizer_folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Of a step in a fresh folder, on a machine where two processes are said to be half as fast again."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("INKWELL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(hardware, "_PROCESSES_FROM", 0.0)
    monkeypatch.setattr(hardware, "_SHORTEST", 0.0)
    monkeypatch.setattr(hardware, "_STARVED", 0.0)  # other tests run beside this one
    monkeypatch.setattr(hardware, "available_cores", lambda: 2)
    monkeypatch.setattr(pinned, "measure_processes", lambda *_: Division(2, 1.5, 1.0, 0.001))
    (tmp_path / "params.yaml").write_text(PARAMS, encoding="utf-8")
    return ["--tokens", str(token_folder), "--tokenizer", str(tokenizer_folder)]


def test_it_is_trained_by_as_many_processes_as_are_fastest(
    arguments: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(STEP, arguments) == 0
    told = capfd.readouterr()
    assert "processes 2 (2: 1.50 x 1)" in told.out
    assert told.out.count("  model:") == 1, "one voice"
    assert "decided anew" not in told.out
    assert told.out.count("% of what matrix products reach here") == 1
    metrics = json.loads((tmp_path / "metrics/pretrain.json").read_text())
    assert (metrics["processes"], metrics["gain_processes"]) == (2, 1.5)
    share = metrics["operations_per_second"] / metrics["gemm_operations_per_second"]
    assert metrics["model_flops_utilisation"] == pytest.approx(share, abs=1e-3)
    divided = [float(row["loss"]) for row in csv.DictReader((tmp_path / "data/curves/pretrain.csv").open())]
    finish(start("pretrain", tmp_path / "alone", PARAMS, *arguments, "--set", "machine.parallel.processes=1"))
    alone = [float(row["loss"]) for row in csv.DictReader((tmp_path / "alone/data/curves/pretrain.csv").open())]
    assert divided == pytest.approx(alone, rel=1e-3)


def test_what_a_person_has_set_is_kept(arguments: list[str], tmp_path: Path) -> None:
    assert main(STEP, [*arguments, "--set", "machine.parallel.processes=1"]) == 0
    assert json.loads((tmp_path / "metrics/pretrain.json").read_text())["processes"] == 1


def test_it_is_one_run_to_those_who_review_it(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow import MlflowClient

    monkeypatch.delenv("INKWELL_TRACKING", raising=False)
    assert main(STEP, [*arguments, "--set", "pretrain.steps=4"]) == 0
    client = MlflowClient(f"sqlite:///{tmp_path / '.inkwell/mlflow.db'}")
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    runs = [run for run in client.search_runs(experiments) if run.data.tags.get("mlflow.runName") == "pretrain"]
    assert [run.info.status for run in runs] == ["FINISHED"]
    assert runs[0].data.metrics["processes"] == 2


def test_the_minutes_of_the_dial_are_those_of_the_processes(
    arguments: list[str], tmp_path: Path, tokenizer_folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """They are faster than the one that the dial was turned for: without more steps they would be done too early."""
    rows = clean_rows(20_000, validation_every=500)  # more than is read in a tenth of a minute
    write_documents(tmp_path / "documents.parquet", rows, clean_schema())
    encode_corpus(tmp_path / "documents.parquet", tokenizer_folder, tmp_path / "tokens", Tokenize(workers=1))
    files = ["--tokens", str(tmp_path / "tokens"), "--tokenizer", str(tokenizer_folder)]
    assert main(STEP, [*files, "--set", "pretrain.dial.minutes=0.1"]) == 0
    told = capfd.readouterr().out
    assert "processes 2 (2: 1.50 x 1)" in told
    assert "has no more to teach" not in told
    metrics = json.loads((tmp_path / "metrics/pretrain.json").read_text())
    assert metrics["processes"] == 2
    assert 0.08 < metrics["planned_minutes"] <= 0.1
    assert metrics["tokens"] == metrics["planned_tokens"]


def test_a_run_that_is_started_again_keeps_the_plan_of_its_processes(arguments: list[str], tmp_path: Path) -> None:
    nowhere = ["--metrics", "params.yaml/metrics.json"]  # the work is done, and cannot be told
    settings = ("pretrain.dial.parameters=180000", "pretrain.dial.keep=[steps]", "pretrain.steps=24")
    sized = [part for setting in settings for part in ("--set", setting)]
    assert main(STEP, [*arguments, *nowhere, *sized]) == 1
    (plan,) = tmp_path.glob(".inkwell/work/pretrain/*/plan.json")
    before = plan.read_text(encoding="utf-8")
    assert json.loads(before)["gain"] == 1.5
    assert main(STEP, [*arguments, *nowhere, *sized]) == 1
    assert plan.read_text(encoding="utf-8") == before
    assert main(STEP, [*arguments, *sized]) == 0
    metrics = json.loads((tmp_path / "metrics/pretrain.json").read_text())
    assert (metrics["resumed_at_step"], metrics["processes"]) == (24, 2)


def test_the_engine_of_the_benchmarks_is_one_process(arguments: list[str], tmp_path: Path) -> None:
    """It is measured here, and nobody could start others in its place."""
    from benchmarks.engine import opened

    _, tokens, _, tokenizer = arguments
    for name, folder in {"data/tokens": tokens, "models/tokenizer": tokenizer}.items():
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).symlink_to(folder)
    configuration = load(tmp_path / "params.yaml")
    with opened(configuration.pretrain, configuration.machine, tmp_path) as training:
        assert training.world.place.size == 1


def _adamw(model: PreTrainedModel) -> list[Optimizer]:
    return adamw(model, learning_rate=0.001, weight_decay=0.0)


@pytest.mark.parametrize(
    ("cores", "quota", "room", "tried", "best"),
    [
        (2, None, None, [(2, 1)], 2),
        (12, None, None, [(2, 6), (4, 3)], 2),  # six would not share the sixteen rows
        (16, None, None, [(2, 8), (8, 2)], 8),
        (16, None, 3, [(2, 8)], 2),
        (11, None, None, [(2, 5)], 2),  # one core is left over
        (16, None, 1, [], None),
        (1, None, None, [], None),
        # a container's share of processor time
        (16, 2, None, [(2, 1)], 2),
        (16, 12, None, [(2, 6), (4, 3)], 2),
        (16, 1, None, [], None),
    ],
)
def test_the_fewest_and_the_most_processes_that_share_evenly_are_tried(
    monkeypatch: pytest.MonkeyPatch,
    cores: int,
    quota: int | None,
    room: int | None,
    tried: list[tuple[int, int]],
    best: int | None,
) -> None:
    rates = {2: 500.0, 4: 200.0, 8: 150.0}  # tokens a second of each of so many
    asked: list[tuple[int, int]] = []

    def run(share: StepTrial, choices: Choices, groups: list[list[int]]) -> list[dict[str, Any]]:
        asked.append((len(groups), choices.threads))
        assert [len(group) for group in groups] == [cores // len(groups)] * len(groups), "bound as in a run"
        assert share.tokens_a_step == 16 * 32 / len(groups)
        found = {"rate": rates[len(groups)], "products": 1.0, "all_reduce_seconds": 0.01}
        return [{**found, "products": 0.5}, *[found] * (len(groups) - 1)]  # the first has slow cores

    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(cores)))
    monkeypatch.setattr(machine_cores, "_container_cores", lambda _: quota)
    monkeypatch.setattr(pinned, "_run", run)
    trial = StepTrial(sharp(tiny("qwen3")), _adamw, micro_batch=16, accumulation=1, block=32)
    division = measure_processes(trial, Choices("cpu", threads=cores), 500.0, room)
    assert asked == tried
    if best is None:
        assert division is None
        return
    assert division is not None
    assert (division.processes, division.slowest_core) == (best, 0.5)
    assert division.gain == pytest.approx(512 / (512 / (best * rates[best]) + 0.01) / 500)
