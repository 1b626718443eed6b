"""What a run keeps and ends with: averages, best weights, history; and what it does when there is no room for them."""

from __future__ import annotations

import errno
import json
import os
import resource
import signal
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from components.configuration.training import Parallel
from components.launch.processes import Place
from components.model.folders import load_model
from components.training.averaging import WeightAverage
from components.training.checkpoints import ExactResume
from components.training.distributed import World
from tests.training.runs import Interfering, held_run, killed_at, quick_validation, tiny_decoder, train


def test_the_average_follows_its_formula_and_gives_the_weights_back() -> None:
    layer = nn.Linear(2, 1, bias=False)
    average = WeightAverage(layer, decay=0.5)
    expected = layer.weight.detach().clone()
    for value in (1.0, -2.0, 4.0):
        with torch.no_grad():
            layer.weight.fill_(value)
        average.update()
        decay = min(0.5, (1 + average.updates) / (10 + average.updates))
        expected = decay * expected + (1 - decay) * value
    before = layer.weight.detach().clone()
    with average.applied():
        assert torch.allclose(layer.weight, expected)
    assert torch.equal(layer.weight, before)
    average.keep()
    assert torch.allclose(layer.weight, expected)


def test_validation_and_the_end_use_the_average(tmp_path: Path) -> None:
    seen: list[torch.Tensor] = []

    def validate(model: Any) -> dict[str, float]:
        seen.append(model.lm_head.weight.detach().clone())
        return quick_validation(model)

    averaged = train(tmp_path / "averaged", validate=validate, ema_decay=0.9)
    plain = train(tmp_path / "plain")
    assert averaged.model is not None
    assert plain.model is not None
    assert torch.equal(seen[-1], averaged.model.lm_head.weight)
    assert not torch.equal(averaged.model.lm_head.weight, plain.model.lm_head.weight)
    losses = ([row["loss"] for row in outcome.curve] for outcome in (averaged, plain))
    assert next(losses) == next(losses), "averaging changes no step"


def _values(*values: float) -> Callable[[Any], dict[str, float]]:
    left = list(values)
    return lambda _: {"validation": left.pop(0)}


def test_a_run_ends_with_its_best_weights(tmp_path: Path) -> None:
    kept = {"minutes": 1e-6, "keep_best": True, "history_every": 5}
    outcome = train(tmp_path, validate=_values(3.0, 1.0, 2.0), checkpoints=kept)
    assert outcome.best_step == 10
    assert outcome.figures()["best_step"] == 10
    assert outcome.model is not None
    of_step_10 = load_file(tmp_path / "kept/history/step-00000010/model.safetensors")
    for name, weight in outcome.model.state_dict().items():
        assert torch.equal(weight, of_step_10[name]), name


def test_the_best_weights_outlive_a_kill(tmp_path: Path) -> None:
    kept = {"minutes": 1e-6, "keep_best": True}
    killed_at(8, tmp_path, validate=_values(1.0), checkpoints=kept)
    outcome = train(tmp_path, validate=_values(3.0, 2.0), checkpoints=kept)
    assert outcome.resumed_at == 7
    assert outcome.best_step == 5


def test_the_history_holds_models_with_their_place_in_the_data(tmp_path: Path) -> None:
    outcome = train(tmp_path, checkpoints={"minutes": 1.0, "history_every": 4}, validation_every=100)
    folders = sorted((tmp_path / "kept/history").iterdir())
    assert [folder.name for folder in folders] == [f"step-{step:08}" for step in (4, 8, 12)]
    position = json.loads((folders[1] / "position.json").read_text())
    assert (position["step"], position["rows"], position["total_rows"]) == (8, 32, 48)
    assert position["data_fingerprint"] == "tiny-120"
    assert position["loss"] == outcome.curve[7]["loss"]
    assert position["validation"] == pytest.approx(quick_validation(load_model(folders[1]))["validation"])
    assert outcome.model is not None
    last = load_model(folders[2]).state_dict()
    assert all(torch.equal(weight, last[name]) for name, weight in outcome.model.state_dict().items())


def _in_a_process_with_little_room(work: Callable[[], None]) -> None:
    """Run `work` in a process of its own that may write no file larger than 20 kB from the moment it asks for it."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            work()
            status = 0
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def _fill_the_disk(loss: torch.Tensor) -> torch.Tensor:
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
    return loss


def test_a_full_disk_is_survived(tmp_path: Path) -> None:
    kept = {"minutes": 1e-6, "keep_best": True, "history_every": 6}

    def work() -> None:
        outcome = train(
            tmp_path, lambda inner: Interfering(inner, {5: _fill_the_disk}), checkpoints=kept, validation_every=3
        )
        assert len(outcome.curve) == 12
        assert outcome.best_step == 12, "held in memory, where there was no room for it on the disk"

    _in_a_process_with_little_room(work)
    log = (tmp_path / "kept/run.log").read_text()
    assert "checkpoint not written after step 5 (File too large)" in log
    assert "the model of step 6 was not kept" in log
    assert "the best weights so far (step 6) were not written" in log
    names = [file.name for file in sorted((tmp_path / "work/checkpoints").iterdir())]
    assert names == [f"rows-{4 * step:012}-step-{step:08}.ckpt" for step in (3, 4)], "nothing half written stays"
    assert not list((tmp_path / "kept/history").iterdir())
    assert train(tmp_path, checkpoints=kept, validation_every=3).resumed_at == 4


def test_asked_to_end_on_a_full_disk_it_names_the_checkpoint_that_there_is(tmp_path: Path) -> None:
    def end(loss: torch.Tensor) -> torch.Tensor:
        os.kill(os.getpid(), signal.SIGTERM)
        return loss

    def work() -> None:
        with pytest.raises(SystemExit):
            train(tmp_path, lambda inner: Interfering(inner, {5: _fill_the_disk, 7: end}))

    _in_a_process_with_little_room(work)
    log = (tmp_path / "kept/run.log").read_text()
    assert "after step 7; the same command goes on from rows-000000000016-step-00000004.ckpt" in log


def test_a_follower_learns_that_the_leader_has_no_file_to_write(tmp_path: Path) -> None:
    class Follower(World):
        """What the leader has answered: the checkpoint is not there, and the disk refuses a new file."""

        answers = iter([False, "No space left on device"])

        def decide(self, choose: Callable[[], Any]) -> Any:
            return next(self.answers)

    told: list[str] = []
    loader = SimpleNamespace(rows=8)
    module: Any = SimpleNamespace(loader=loader, step_count=2, tell=told.append)
    trainer: Any = None  # takes part in nothing
    keeper = ExactResume(held_run(tmp_path), Follower(Place(rank=1, size=2), Parallel()), 1.0, 2)
    assert not keeper.save(trainer, module)
    assert "after step 2 (No space left on device)" in told[0]


def test_a_disk_that_refuses_new_files_is_survived(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> Any:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("components.training.checkpoints.atomic_file", refuse)
    assert len(train(tmp_path).curve) == 12
    assert "checkpoint not written after step 3 (No space left on device)" in (tmp_path / "kept/run.log").read_text()


@pytest.mark.parametrize(
    "change", [{"activation_checkpointing": True}, {"activation_checkpointing": True, "dropout": 0.2}]
)
def test_activation_checkpointing_changes_no_number(tmp_path: Path, change: dict[str, Any]) -> None:
    plain = train(tmp_path / "plain", dropout=change.get("dropout", 0.0))
    checkpointed = train(tmp_path / "checkpointed", **change)
    found, wanted = ([row["loss"] for row in outcome.curve] for outcome in (checkpointed, plain))
    assert found == pytest.approx(wanted, rel=1e-5)


def test_activation_checkpointing_keeps_less(tmp_path: Path) -> None:
    """Tensors that the backward pass holds, counted by what autograd saves."""

    def saved(checkpointing: bool) -> int:
        model = tiny_decoder().train()
        if checkpointing:
            model.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})
        total = 0

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            nonlocal total
            total += tensor.numel()
            return tensor

        ids = torch.arange(3, 35)[None]
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            model(input_ids=ids, labels=ids, use_cache=False).loss.backward()
        return total

    assert saved(True) < 0.5 * saved(False)
