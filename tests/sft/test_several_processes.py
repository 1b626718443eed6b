"""Two processes fine-tune one model, all of its weights or adapters: the same outcome as one."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from tests.processes import finish, start

PARAMS = """
ingest: {sources: [{name: tiny, kind: path, location: poems.json}]}
machine: {compile: "off", threads: 1, precision: fp32}
sft: {steps: 10, block: 128, micro_batch: 4, warmup_steps: 3, validation_every: 5, validation_conversations: 10,
      matrix_learning_rate: 0.002, lora_rank: 4}
"""


def arguments(conversations: Path, base: Path, *values: str) -> list[str]:
    """Of the step, with `--set` for each value."""
    files = ["--conversations", str(conversations), "--base", str(base)]
    return [*files, *(word for value in values for word in ("--set", value))]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory, conversations: Path, tiny_model: Path) -> dict[str, Path]:
    """One process, by method."""
    found = {}
    for method in ("full", "lora"):
        found[method] = tmp_path_factory.mktemp("alone") / method
        finish(start("sft", found[method], PARAMS, *arguments(conversations, tiny_model, f"sft.method={method}")))
    return found


def curve(folder: Path, column: str) -> list[float]:
    """A column of the learning curve."""
    return [float(row[column]) for row in csv.DictReader((folder / "data/curves/sft.csv").open())]


@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
@pytest.mark.parametrize("method", ["full", "lora"])
def test_one_process_equals_two(
    tmp_path: Path, conversations: Path, tiny_model: Path, alone: dict[str, Path], method: str, strategy: str
) -> None:
    two = ["machine.parallel.processes=2", f"machine.parallel.strategy={strategy}", f"sft.method={method}"]
    output = finish(start("sft", tmp_path, PARAMS, *arguments(conversations, tiny_model, *two)))
    assert output.count("  plan:") == 1, "only the leader speaks"
    one = alone[method]
    assert curve(one, "tokens") == curve(tmp_path, "tokens")
    np.testing.assert_allclose(curve(one, "loss"), curve(tmp_path, "loss"), rtol=1e-4)
    np.testing.assert_allclose(curve(one, "gradient_norm"), curve(tmp_path, "gradient_norm"), rtol=1e-3)
    losses = [json.loads((f / "metrics/sft.json").read_text())["validation_answer_loss"] for f in (one, tmp_path)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    base = load_file(tiny_model / "model.safetensors")
    weights, others = (load_file(folder / "models/sft/model.safetensors") for folder in (one, tmp_path))
    assert base.keys() == weights.keys() == others.keys()
    learnt = {name: weights[name] - weight for name, weight in base.items()}
    changed = {name for name, change in learnt.items() if change.any()}
    assert changed == ({name for name in base if "proj" in name} if method == "lora" else set(base))
    for name, change in learnt.items():
        difference = np.linalg.norm(others[name] - weights[name])
        assert difference <= 0.1 * np.linalg.norm(change), name


@pytest.mark.parametrize(
    ("parallel", "named"),
    [
        (["strategy=fsdp2", "tensor=2"], "machine.parallel.tensor = 2"),
        (["pipeline=2"], "machine.parallel.pipeline = 2"),
    ],
)
def test_adapters_on_what_is_cut_are_refused_in_words(
    tmp_path: Path, conversations: Path, tiny_model: Path, parallel: list[str], named: str
) -> None:
    values = ["sft.method=lora", "machine.parallel.processes=2", *(f"machine.parallel.{value}" for value in parallel)]
    output = finish(start("sft", tmp_path, PARAMS, *arguments(conversations, tiny_model, *values)), status=2)
    assert len(output.strip().splitlines()) == 1, output
    assert f"sft.method = 'lora' does not go with {named}" in output
