"""Two processes that roll back, keep the best weights and a history of models: they do what one does."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from tests.processes import ROOT


def trained(folder: Path, processes: int, parallel: dict[str, Any], policy: str = "roll_back") -> dict[str, Any]:
    """The outcome of the run that `together` describes."""
    folder.mkdir()
    arguments = [str(folder), str(processes), json.dumps(parallel), policy]
    command = [sys.executable, "-m", "tests.training.together", *arguments]
    done = subprocess.run(command, cwd=ROOT, text=True, capture_output=True, timeout=300)
    assert done.returncode == 0, done.stderr
    outcome: dict[str, Any] = json.loads((folder / "outcome.json").read_text())
    return outcome


def assert_same_weights(one: Path, other: Path) -> None:
    """Within rounding."""
    weights, others = (load_file(folder / "model.safetensors") for folder in (one, other))
    assert weights.keys() == others.keys()
    for name, weight in weights.items():
        assert np.linalg.norm(weight - others[name]) < 5e-3 * np.linalg.norm(weight), name


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """One process: its folder and outcome."""
    folder = tmp_path_factory.mktemp("together") / "alone"
    return folder, trained(folder, 1, {})


@pytest.mark.parametrize(
    "parallel",
    [{}, {"shard_optimizer": True}, {"strategy": "fsdp2"}, {"strategy": "fsdp2", "tensor": 2}, {"pipeline": 2}],
    ids=["ddp", "ddp, optimizer shared out", "fsdp2", "tensor", "pipeline"],
)
def test_two_processes_roll_back_and_keep_what_one_does(
    tmp_path: Path, alone: tuple[Path, dict[str, Any]], parallel: dict[str, Any]
) -> None:
    folder, one = tmp_path / "two", alone[1]
    two = trained(folder, 2, parallel)
    for outcome in (one, two):
        assert outcome["rolled_back"] == 1
        assert outcome["best_step"] == 12, "neither the last nor the one that was taken back"
        assert [row["rows"] for row in outcome["curve"]] == [4 * n for n in (*range(1, 11), *range(15, 21))]
        validated = [(row["step"], row["validation"]) for row in outcome["curve"] if "validation" in row]
        assert validated == [(4, 3.0), (5, 2.8), (8, 2.0), (10, 2.5), (12, 1.0), (15, 1.5), (16, 1.7)]
    losses = [[row["loss"] for row in outcome["curve"]] for outcome in (one, two)]
    np.testing.assert_allclose(*losses, rtol=1e-3)
    assert (folder / "kept/run.log").read_text().count("rolled back from step 13 to step 10") == 1, "the leader's log"
    assert_same_weights(alone[0] / "end", folder / "end")
    histories = [sorted((place / "kept/history").iterdir()) for place in (alone[0], folder)]
    assert [[kept.name for kept in history] for history in histories] == [
        [f"step-{step:08}" for step in (5, 10, 15)]
    ] * 2
    for kept, other in zip(*histories, strict=True):
        assert_same_weights(kept, other)
        positions = [json.loads((place / "position.json").read_text()) for place in (kept, other)]
        for name in ("step", "rows", "total_rows", "epoch", "seed", "data_fingerprint", "averaged", "validation"):
            assert positions[0][name] == positions[1][name], name


def test_two_processes_leave_out_the_step_that_one_leaves_out(tmp_path: Path) -> None:
    """The loss is no number in one of them only."""
    one, two = (trained(tmp_path / str(count), count, {}, "skip") for count in (1, 2))
    for outcome in (one, two):
        assert (outcome["left_out"], outcome["rolled_back"]) == (1, 0)
        assert [row["rows"] for row in outcome["curve"]] == [4 * n for n in range(1, 21) if n != 14]
    np.testing.assert_allclose(*[[row["loss"] for row in outcome["curve"]] for outcome in (one, two)], rtol=1e-3)
    # the run ends with its best weights, those of step 12; the bad step would have been the 14th
    assert_same_weights(*(tmp_path / name / "kept/history/step-00000015" for name in "12"))
