"""A training that is killed goes on as if nothing had happened: same curve, same weights, to the last bit."""

from __future__ import annotations

import csv
import json
import shutil
import signal
import time
from pathlib import Path

import pytest

from components.step import content_hash
from tests.processes import finish, kill_between_checkpoints, start

PARAMS = """
ingest: {sources: [{name: tiny, kind: path, location: poems.json}]}
machine: {compile: "off", threads: 1}
sampling: {maximum_tokens: 20}
pretrain:
  {hidden_size: 64, layers: 2, heads: 2, key_value_heads: 2, feed_forward_size: 128, block: 64, micro_batch: 4,
   accumulation: 2, steps: 40, warmup_steps: 3, validation_every: 10, validation_documents: 10, sample_every: 20,
   dropout: 0.1, checkpoints: {minutes: 0.0005}}
"""


def test_killed_twice_it_ends_with_the_same_bits(tmp_path: Path, token_folder: Path, tokenizer_folder: Path) -> None:
    files = ["--tokens", str(token_folder), "--tokenizer", str(tokenizer_folder)]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    finish(start("pretrain", whole, PARAMS, *files))
    for _ in range(2):
        kill_between_checkpoints(start("pretrain", killed, PARAMS, *files), killed / ".inkwell/work/pretrain")
    other = ["--set", "pretrain.steps=3"]
    refused = finish(start("pretrain", killed, PARAMS, *files, *other, "--set", "pretrain.checkpoints.other=refuse"), 2)
    assert "pretrain.steps 40 -> 3" in refused
    # other parameters start afresh: this checkpoint is not theirs
    assert "a new run starts beside it" in finish(start("pretrain", killed, PARAMS, *files, *other))
    assert json.loads((killed / "metrics/pretrain.json").read_text())["resumed_at_step"] == 0
    finish(start("pretrain", killed, PARAMS, *files))
    assert json.loads((killed / "metrics/pretrain.json").read_text())["resumed_at_step"] > 0
    for name in ("data/curves/pretrain.csv", "data/samples/pretrain.jsonl"):
        assert (whole / name).read_text() == (killed / name).read_text()
    assert content_hash(whole / "models/base") == content_hash(killed / "models/base")
    rows = list(csv.DictReader((killed / "data/curves/pretrain.csv").open()))
    assert [int(row["step"]) for row in rows] == list(range(1, 41))
    assert float(rows[-1]["loss"]) < float(rows[0]["loss"]) - 0.5
    assert not list((killed / ".inkwell/work/pretrain").glob("*/*")), "checkpoints of a finished run are removed"


@pytest.mark.timeout(1500)
@pytest.mark.skipif(not any(map(shutil.which, ("g++", "c++", "clang++"))), reason="compiling needs a C++ compiler")
def test_killed_twice_a_compiled_run_on_two_threads_ends_with_the_same_bits(
    tmp_path: Path, token_folder: Path, tokenizer_folder: Path
) -> None:
    """As every run trains that is long enough to be compiled; precision and fused modules are those of the machine."""
    params = PARAMS.replace('{compile: "off", threads: 1}', '{compile: "on", threads: 2}')
    assert params != PARAMS
    files = ["--tokens", str(token_folder), "--tokenizer", str(tokenizer_folder)]
    # steps are quick once they are compiled: enough of them for two kills
    files += ["--set", "pretrain.steps=120", "--set", "pretrain.validation_every=40", "--set", "pretrain.ema_decay=0.9"]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    finish(start("pretrain", whole, params, *files))
    for _ in range(2):
        kill_between_checkpoints(start("pretrain", killed, params, *files), killed / ".inkwell/work/pretrain")
    finish(start("pretrain", killed, params, *files))
    for folder in (whole, killed):
        metrics = json.loads((folder / "metrics/pretrain.json").read_text())
        assert (metrics["compiled"], metrics["threads"]) == (1, 2)
    assert metrics["resumed_at_step"] > 0
    for name in ("data/curves/pretrain.csv", "data/samples/pretrain.jsonl"):
        assert (whole / name).read_text() == (killed / name).read_text()
    assert content_hash(whole / "models/base") == content_hash(killed / "models/base")


def test_a_step_that_dies_after_its_last_training_step_only_has_to_write(
    tmp_path: Path, token_folder: Path, tokenizer_folder: Path
) -> None:
    files = ["--tokens", str(token_folder), "--tokenizer", str(tokenizer_folder), "--set", "pretrain.steps=4"]
    # the metrics cannot be written: params.yaml is no folder
    finish(start("pretrain", tmp_path, PARAMS, *files, "--metrics", "params.yaml/metrics.json"), status=1)
    trained = content_hash(tmp_path / "models/base")
    finish(start("pretrain", tmp_path, PARAMS, *files))
    metrics = json.loads((tmp_path / "metrics/pretrain.json").read_text())
    assert metrics["resumed_at_step"] == 4
    assert metrics["tokens_per_second"] > 0
    assert content_hash(tmp_path / "models/base") == trained


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 128 + signal.SIGTERM), (signal.SIGINT, 130)])
def test_asked_to_end_it_says_how_to_go_on(
    tmp_path: Path, token_folder: Path, tokenizer_folder: Path, number: signal.Signals, status: int
) -> None:
    files = ["--tokens", str(token_folder), "--tokenizer", str(tokenizer_folder), "--set", "pretrain.steps=2000"]
    process = start("pretrain", tmp_path, PARAMS, *files)
    while process.poll() is None and not list(tmp_path.glob(".inkwell/work/pretrain/*/checkpoints/rows-*")):
        time.sleep(0.01)
    process.send_signal(number)
    output = finish(process, status=status)
    assert "the same command goes on from here" in output
    assert "Traceback" not in output
    (log,) = tmp_path.glob(".inkwell/runs/pretrain/*/run.log")
    assert "end: a signal after step" in log.read_text().splitlines()[-1]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ("pretrain.micro_batch=100000", "pretrain.micro_batch"),
        ("pretrain.heads=3", "pretrain.heads"),
        ("pretrain.block=5000", "pretrain.context"),
        ("pretrain.stepz=3", "did you mean 'steps'"),
        ("machine.device=cuda", "machine.device"),
        ("pretrain.steps=many", "pretrain.steps"),
    ],
)
def test_a_wrong_parameter_is_told_in_one_sentence(
    tmp_path: Path, token_folder: Path, tokenizer_folder: Path, change: str, named: str
) -> None:
    process = start(
        "pretrain",
        tmp_path,
        PARAMS,
        "--tokens",
        str(token_folder),
        "--tokenizer",
        str(tokenizer_folder),
        "--set",
        change,
    )
    output = finish(process, status=2)
    assert len(output.strip().splitlines()) == 1, output
    assert named in output
