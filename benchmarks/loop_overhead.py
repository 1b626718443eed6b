"""What the loop costs around the steps: `python -m benchmarks.loop_overhead`.

In turns: a bare loop, and `components.training.loop.fit` (Lightning, the watch for anomalies and stalls, progress, the curve,
live figures to MLflow) over the same computation, optimizers and rows. Time is counted from the end of one step to the
end of a later one, so starting and ending are on neither side. A checkpoint is then timed by itself and counted as often as its
default interval asks for. Shape and batch are those that params.yaml writes, whatever a dial in it would make of them. The last
line of output is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.sizes import SIZES
from components.errors import InkwellError

if TYPE_CHECKING:
    import torch

    from components.configuration import Configuration, Pretrain
    from components.tracking import Recorder
    from components.training.computation import Computation
    from components.training.recipe import Training

_NEVER = 10**6
_COURIER_SECONDS = 90.0


class Stamped:
    """A computation that notes when each step has ended."""

    def __init__(self, inner: Computation) -> None:
        self.inner, self.moments = inner, list[float]()

    def loss_sum(self, inputs: torch.Tensor, targets: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
        """See `components.training.computation.Computation`."""
        return self.inner.loss_sum(inputs, targets, numbers)

    def weights_changed(self) -> None:
        """The end of a step."""
        self.inner.weights_changed()
        self.moments.append(time.perf_counter())

    def pace(self, steps: int) -> float:
        """Seconds a step over the first `steps`, the very first left out."""
        moments = self.moments[:steps]
        return (moments[-1] - moments[0]) / (len(moments) - 1)


def measure(configuration: Configuration, workspace: Path, rounds: int, steps: int, **shape: Any) -> dict[str, float]:
    """Figures; the working folder is used for checkpoints and the record that MLflow gets."""
    from benchmarks.engine import opened

    parameters = configuration.pretrain.model_copy(update={**shape, "steps": steps, "initial": None})
    with opened(parameters, configuration.machine, workspace) as training:
        recorder = _recorder(configuration, workspace / "data" / "tokens")
        _bare(parameters, training, 3)  # compiles
        ratios, bare, looped, saving = [], [], [], []
        for number in range(rounds):
            before = _bare(parameters, training, steps)
            inside = _looped(parameters, training, steps, recorder, number, _NEVER)
            after = _bare(parameters, training, steps)
            saves = _looped(parameters, training, min(8, steps), recorder, rounds + number, 1e-9)
            bare.append((before + after) / 2)
            looped.append(inside)
            saving.append(max(0.0, saves - inside))
            ratios.append(inside / bare[-1] - 1)
            print(
                f"  round {number + 1}: {bare[-1]:.4f} s bare, {inside:.4f} s in the loop ({ratios[-1]:+.2%})",
                flush=True,
            )
        recorder.finish("FINISHED", {}, {})
    checkpoint = statistics.median(saving)
    share = checkpoint / (configuration.pretrain.checkpoints.minutes * 60)
    return {
        "loop_overhead": statistics.median(ratios) + share,
        "loop_overhead_min": min(ratios) + share,
        "loop_overhead_max": max(ratios) + share,
        "loop_overhead_without_checkpoints": statistics.median(ratios),
        "checkpoint_seconds": checkpoint,
        "step_seconds_bare": statistics.median(bare),
        "step_seconds_looped": statistics.median(looped),
    }


def _bare(parameters: Pretrain, training: Training, steps: int) -> float:
    from benchmarks.engine import Bare, fresh_loader

    stamped = Stamped(training.computation)
    loop = Bare.of(replace(training, computation=stamped, loader=fresh_loader(parameters, training)))
    loop.timed(steps)
    return stamped.pace(steps)


def _looped(
    parameters: Pretrain, training: Training, steps: int, recorder: Recorder, number: int, minutes: float
) -> float:
    from benchmarks.engine import fresh_loader
    from components.training.loop import fit
    from components.training.run import Run
    from components.training.run_log import RunLog

    stamped = Stamped(training.computation)
    recipe = replace(
        training.recipe,
        checkpoints=training.recipe.checkpoints.model_copy(update={"minutes": minutes}),
        validation_every=_NEVER,
        sample_every=None,
        ema_decay=0.0,  # an average of weights is the recipe's work, not the loop's
    )
    shortened = parameters.model_copy(update={"steps": steps})
    looped = replace(training, computation=stamped, recipe=recipe, loader=fresh_loader(shortened, training))
    work = Path("runs") / str(number)
    run = Run(work, work / "kept", RunLog(work / "kept" / "run.log"), resumes=False)
    fit(looped, label="overhead", run=run, recorder=recorder, validate=lambda model: {"validation_bits_per_char": 0.0})
    return stamped.pace(steps)


def _recorder(configuration: Configuration, tokens: Path) -> Recorder:
    """A record as the step has it; a database that is new is made before anything is timed."""
    from components.pretrain.__main__ import STEP
    from components.tracking import Recorder

    recorder = Recorder.start(STEP, configuration, {"tokens": tokens})
    database = Path(".inkwell") / "mlflow.db"
    deadline = time.monotonic() + _COURIER_SECONDS
    while recorder.record is not None and time.monotonic() < deadline:
        if database.exists() and time.time() - database.stat().st_mtime > 8:
            break
        time.sleep(0.5)
    return recorder


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.loop_overhead", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--workspace", type=Path, default=Path(), help="folder of the default run (default: here)")
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE", help="change a parameter")
    parser.add_argument("--rounds", type=int, default=9, help="rounds (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=25, help="steps of each side in a round (default: %(default)s)")
    parser.add_argument(
        "--size", choices=sorted(SIZES), help="a shape of benchmarks.sizes instead of the parameters' own"
    )
    arguments = parser.parse_args()
    from components.configuration import load

    workspace = arguments.workspace.absolute()
    shape = dict(SIZES[arguments.size]) if arguments.size else {}
    try:
        configuration = load(arguments.workspace / "params.yaml", arguments.set)
        with tempfile.TemporaryDirectory(dir=".") as folder:
            os.chdir(folder)
            try:
                figures = measure(configuration, workspace, arguments.rounds, arguments.steps, **shape)
            finally:
                os.chdir("..")
    except InkwellError as error:
        print(f"loop_overhead: {error}", file=sys.stderr)
        return 2
    print(json.dumps(figures))
    return 0


if __name__ == "__main__":
    sys.exit(main())
