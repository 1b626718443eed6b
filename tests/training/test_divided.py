"""A run whose work several processes would do faster is handed to them: real ones, one run, one record."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path

import pytest

from components.machine import hardware
from components.pretrain.__main__ import STEP
from components.step import main
from components.training import pinned
from components.training.pinned import Division
from tests.processes import ROOT, finish, start

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
    metrics = json.loads((tmp_path / "metrics/pretrain.json").read_text())
    assert (metrics["processes"], metrics["gain_processes"]) == (2, 1.5)
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
