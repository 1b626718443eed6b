"""A run that goes wrong once, by as many processes as are asked for: `python -m tests.training.together FOLDER N PARALLEL POLICY`.

FOLDER gets what it leaves: `outcome.json`, the model in `end`, and `kept` and `work` as any run has them. PARALLEL is
`machine.parallel` in JSON, POLICY what is done about what goes wrong.
"""

from __future__ import annotations

import json
import math
import os
import sys
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from components.configuration.training import Machine, Parallel
from components.launch.processes import here, join_world, start_all
from components.tracking import Recorder
from components.training.distributed import open_world
from components.training.loop import fit
from components.training.run_log import RunLog
from tests.training.runs import content, held_run, prepared

# Rates at which rounding does not blow up (`test_distributed`); four rows a step.
PARAMETERS: dict[str, Any] = {
    "steps": 20,
    "micro_batch": 2,
    "accumulation": 2,
    "matrix_learning_rate": 0.002,
    "learning_rate": 0.001,
    "embedding_learning_rate": 0.002,
    "ema_decay": 0.9,
    "validation_every": 4,
    "anomalies": {"window": 10},
    "checkpoints": {"minutes": 60, "keep_best": True, "history_every": 5},
}
BAD = 14  # the batch that goes wrong, from 1
# of steps 4, 5, 8, 10 and 12, where it rolls back that is taken back to 10, and of 12, 15 and 16
VALIDATIONS = (3.0, 2.8, 2.0, 2.5, 0.5, 1.0, 1.5, 1.7)


def bad_row() -> int:
    """A row of the bad batch, by its content; one that no other batch has, as it has pieces of long sequences."""
    rows = [content(row) for inputs, *_ in prepared(**PARAMETERS).loader for row in inputs.flatten(0, 1)]
    return next(row for row in rows[4 * (BAD - 1) : 4 * BAD] if rows.count(row) == 1)


def spoil(model: PreTrainedModel, wanted: int) -> None:
    """What the model, or its first stage, makes of that row is no number, in whichever process it is."""

    def hook(_: nn.Module, __: Any, named: dict[str, torch.Tensor], made: Any) -> None:
        if "input_ids" in named and wanted in map(content, named["input_ids"]):
            made.logits = made.logits * math.nan

    model.register_forward_hook(hook, with_kwargs=True)


def main(folder: Path, processes: int, parallel: Parallel, policy: str) -> int:
    """Train in this process if it is one of the run's, else start those."""
    if processes > 1 and "RANK" not in os.environ:
        return start_all([sys.executable, "-m", "tests.training.together", *sys.argv[1:]], processes)
    place = here()
    join_world(place, Machine())
    left = list(VALIDATIONS)
    with open_world(place, parallel, "cpu") as world:
        wanted = bad_row()
        training = prepared(world=world, **{**PARAMETERS, "anomalies": {"window": 10, "not_finite": policy}})
        spoil(training.model, wanted)
        run = held_run(folder)
        if not world.leader:
            run.log = RunLog()
        outcome = fit(
            training,
            label="tiny",
            run=run,
            recorder=Recorder(),
            validate=lambda _: {"validation": left.pop(0)},
            save_model=lambda model, target: model.save_pretrained(target),
        )
    if outcome.model is not None:
        outcome.model.save_pretrained(folder / "end")
        found = {name: getattr(outcome, name) for name in ("curve", "left_out", "rolled_back", "best_step")}
        (folder / "outcome.json").write_text(json.dumps(found), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), int(sys.argv[2]), Parallel.model_validate_json(sys.argv[3]), sys.argv[4]))
