"""Killed with -9 at any step, as often as one likes, a run ends with the bits of one that was left alone."""

from __future__ import annotations

import errno
import os
import random
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from components.configuration.training import Parallel
from components.errors import InkwellError
from components.launch.processes import Place
from components.training.checkpoints import ExactResume, newest_whole
from components.training.distributed import World
from tests.training.runs import Interfering, Tiny, assert_same_end, held_run, killed_at, train

CASES: list[dict[str, Any]] = [
    {"optimizer": optimizer, "accumulation": accumulation, "dropout": dropout, "ema_decay": ema_decay}
    for optimizer in ("muon", "adamw")
    for accumulation in (1, 2)
    for dropout, ema_decay in ((0.0, 0.0), (0.1, 0.0), (0.0, 0.9), (0.1, 0.9))
]
CASES += [
    {"optimizer": "muon", "accumulation": 2, "dropout": 0.1, "ema_decay": 0.9, **more}
    for more in ({"fused": "on"}, {"architecture": "gpt2"}, {"architecture": "mixtral"})
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: "-".join(str(value) for value in case.values()))
def test_killed_twice_it_ends_with_the_same_bits(tmp_path: Path, case: dict[str, Any]) -> None:
    rng = random.Random(str(case))
    passes = case["accumulation"]
    # some checkpoints are older than the kill: rarely enough that steps are done again, often enough that some are kept
    often = {**case, "checkpoints": {"minutes": rng.choice([1e-6, 2e-4])}}
    whole = train(tmp_path / "whole", **often)
    killed_at(rng.randint(2, 6 * passes), tmp_path / "killed", **often)
    killed_at(rng.randint(1, 3 * passes), tmp_path / "killed", **often)
    assert_same_end(whole, train(tmp_path / "killed", **often))
    assert [row["step"] for row in whole.curve] == list(range(1, 13))


def test_a_kill_behind_the_first_epoch_changes_nothing(tmp_path: Path) -> None:
    case: dict[str, Any] = {"data": Tiny(30)}
    assert case["data"].lengths.sum() < 8 * 4 * 32, "eight steps are over an epoch"
    whole = train(tmp_path / "whole", **case)
    killed_at(10, tmp_path / "killed", **case)
    resumed = train(tmp_path / "killed", **case)
    assert resumed.resumed_at == 9
    assert_same_end(whole, resumed)


def test_killed_while_the_batch_grows_it_ends_with_the_same_bits(tmp_path: Path) -> None:
    case: dict[str, Any] = {"accumulation": 4, "batch_ramp": 0.5, "dropout": 0.1}
    whole = train(tmp_path / "whole", **case)
    rows = [0, *(row["rows"] for row in whole.curve)]
    passes = [(after - before) // 4 for before, after in pairwise(rows)]
    assert passes == [1] * 8 + [2] * 4 + [3] * 3 + [4] * 5 + [3], "the last ones are left over"
    killed_at(12, tmp_path / "killed", **case)  # in the second of the tenth step's two passes
    killed_at(8, tmp_path / "killed", **case)  # and in the thirteenth step, the second of three passes
    resumed = train(tmp_path / "killed", **case)
    assert resumed.resumed_at == 12
    assert_same_end(whole, resumed)


def test_a_changed_batch_goes_on_with_the_right_rows(tmp_path: Path) -> None:
    seen: list[torch.Tensor] = []

    def remembering(inner: Any) -> Any:
        class Remembering(Interfering):
            def loss_sum(self, inputs: torch.Tensor, targets: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
                seen.extend(row.clone() for row in inputs if bool(row.any()))
                return super().loss_sum(inputs, targets, numbers)

        return Remembering(inner, {})

    train(tmp_path / "whole", remembering, accumulation=2)
    whole = seen.copy()
    assert len(whole) == 12 * 8
    killed_at(9, tmp_path / "killed", accumulation=2)  # in the fifth step: 32 rows are behind
    seen.clear()
    outcome = train(tmp_path / "killed", remembering, accumulation=1, micro_batch=3)
    assert outcome.resumed_at == 4
    assert all(torch.equal(a, b) for a, b in zip(whole[32:], seen, strict=True))
    assert [row["rows"] for row in outcome.curve] == [8, 16, 24, 32, *range(35, 96, 3), 96]
    progress = {row["rows"]: row["rate_factor"] for row in outcome.curve}
    # half of the run decays: the rate follows the rows, not the steps
    assert progress[65] == pytest.approx(2 * (1 - 62 / 96))


def test_more_and_smaller_steps_keep_the_course_that_was_begun(tmp_path: Path) -> None:
    case: dict[str, Any] = {"schedule": "noam", "warmup_steps": 3, "micro_batch": 8}
    whole = train(tmp_path / "whole", **case)
    killed_at(5, tmp_path / "halved", **case)
    halved = train(tmp_path / "halved", **{**case, "micro_batch": 4, "steps": 24})
    assert [row["rows"] for row in halved.curve] == [8, 16, 24, 32, *range(36, 97, 4)]
    wanted = {row["rows"]: row["rate_factor"] for row in whole.curve}
    found = {row["rows"]: row["rate_factor"] for row in halved.curve}
    # a factor belongs to the beginning of a step, so the halves of a step lie around it
    assert all(found[rows] == pytest.approx(wanted[rows], rel=0.1) for rows in wanted)


def test_a_run_that_was_trained_to_its_end_only_has_to_be_read(tmp_path: Path) -> None:
    first = train(tmp_path / "run")
    second = train(tmp_path / "run")
    assert second.resumed_at == 12
    assert second.tokens_per_second > 0
    assert_same_end(first, second)


def test_the_newest_checkpoints_are_kept_and_a_damaged_one_is_passed_over(tmp_path: Path) -> None:
    whole = train(tmp_path / "whole", checkpoints={"minutes": 1e-6, "keep_last": 3})
    killed_at(9, tmp_path / "killed", checkpoints={"minutes": 1e-6, "keep_last": 3})
    files = sorted(held_run(tmp_path / "killed").checkpoints.iterdir())
    assert [file.name for file in files] == [f"rows-{4 * step:012}-step-{step:08}.ckpt" for step in (6, 7, 8)]
    cut = files[-1].read_bytes()
    files[-1].write_bytes(cut[: len(cut) // 2])
    flipped = bytearray(files[-2].read_bytes())
    flipped[len(flipped) // 2] ^= 1
    files[-2].write_bytes(bytes(flipped))
    resumed = train(tmp_path / "killed", checkpoints={"minutes": 1e-6, "keep_last": 3})
    assert resumed.resumed_at == 6
    assert_same_end(whole, resumed)
    log = (tmp_path / "killed" / "kept" / "run.log").read_text()
    assert log.count("is damaged") == 2
    aside = sorted(file.name for file in files[0].parent.glob("damaged-*"))
    assert aside == [f"damaged-{file.name}" for file in files[1:]], "put aside, not thrown away"


def test_few_damaged_checkpoints_are_kept(tmp_path: Path) -> None:
    for step in range(5):
        (tmp_path / f"rows-{step:012}-step-{step:08}.ckpt").write_bytes(b"cut short")
    told: list[str] = []
    assert newest_whole(tmp_path, told.append) is None
    assert len(told) == 5
    assert [file.name[-7:] for file in sorted(tmp_path.iterdir())] == ["03.ckpt", "04.ckpt"]


def test_a_checkpoint_that_cannot_be_read_is_not_taken_for_a_damaged_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "rows-000000000004-step-00000001.ckpt"
    path.touch()

    def refuse(*_: Any) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr("zipfile.ZipFile", refuse)
    with pytest.raises(InkwellError, match="cannot be read"):
        newest_whole(tmp_path, print)
    assert path.exists()


def _restored(place: Place, parallel: Parallel, state: dict[str, Any], folder: Path, rows: int = 8) -> float:
    """The first number that a process draws after going on from `state`."""
    keeper = ExactResume(held_run(folder), World(place, parallel), 1.0, 2)
    module: Any = SimpleNamespace(loader=SimpleNamespace(seed=1, rows=rows))
    torch.manual_seed(999 + place.rank)
    keeper._restore_generators(state, module)
    return float(torch.rand(()))


def test_processes_of_one_replica_go_on_with_one_state_and_new_replicas_with_their_own(tmp_path: Path) -> None:
    alone = World(Place(), Parallel())
    torch.manual_seed(5)
    state = ExactResume(held_run(tmp_path), alone, 1.0, 2).state_dict()
    drawn = float(torch.rand(()))
    split = Parallel(strategy="fsdp2", tensor=2)
    places = [Place(rank, 4, rank, 4) for rank in range(4)]
    first = [_restored(place, split, state, tmp_path) for place in places]
    assert first[0] == first[1] == drawn, "the one replica there was"
    assert first[2] == first[3] != drawn, "a new one"
    assert _restored(places[2], split, state, tmp_path, rows=16) != first[2], "from elsewhere in the run"
    two = {**state, "generators": [*state["generators"], *state["generators"]]}
    two["generators"][1] = {**two["generators"][1], "torch": torch.Generator().manual_seed(6).get_state()}
    other = float(torch.rand((), generator=torch.Generator().manual_seed(6)))
    assert _restored(Place(1, 2, 1, 2), split, two, tmp_path) == drawn, "two replicas became one of two processes"
    assert _restored(Place(1, 2, 1, 2), Parallel(), two, tmp_path) == other


def test_batch_4_times_2_equals_8_times_1(tmp_path: Path) -> None:
    one = train(tmp_path / "one", micro_batch=8)
    two = train(tmp_path / "two", micro_batch=4, accumulation=2)
    for a, b in zip(one.curve, two.curve, strict=True):
        assert a["tokens"] == b["tokens"]
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-4)
        assert a["gradient_norm"] == pytest.approx(b["gradient_norm"], rel=1e-3)
