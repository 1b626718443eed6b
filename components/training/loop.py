"""Training a decoder with Lightning: the one loop behind `pretrain` and `sft`."""

from __future__ import annotations

import csv
import logging
import signal
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning.pytorch import Trainer

from components.atomic import atomic_file
from components.machine.precision import leave_float8
from components.model.forward import leave_flash
from components.progress import Bar
from components.training.anomalies import StallWatch, end_process
from components.training.checkpoints import BestWeights, ExactResume, StreamedFiles, newest_whole
from components.training.module import DecoderTraining, Row
from components.training.watch import History, Sample, SaveModel, Validate, Watch

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from components.tracking import Recorder
    from components.training.recipe import Training
    from components.training.run import Run


@dataclass
class Outcome:
    """What a run left behind: the curve, samples by step, speed and time over all processes that worked on it.

    `tokens_per_second` counts predicted tokens over the seconds of training steps: compiling, validation, samples and
    checkpoints are left out. `earlier_seconds` passed in processes before this one, up to their last checkpoints.
    `left_out`, `rolled_back`, `recorded`: steps not taken, returns to a checkpoint, and anomalies that were only noted.
    `best_step`: where the weights come from that the run ends with, when they are not the last. `model`: the trained one,
    whole, on the processor, in evaluation mode, without flash attention or float8 layers; None in all processes but the
    leader.
    """

    curve: list[Row]
    samples: list[dict[str, Any]]
    tokens_per_second: float
    resumed_at: int
    earlier_seconds: float
    left_out: int = 0
    rolled_back: int = 0
    recorded: int = 0
    best_step: int | None = None
    model: PreTrainedModel | None = None

    def __str__(self) -> str:
        ends = f", ends with the weights of step {self.best_step}" if self.best_step else ""
        return (
            f"trained {len(self.curve)} steps, {self.left_out} left out, {self.rolled_back} roll-backs, "
            f"{self.recorded} anomalies only recorded{ends}"
        )

    def figures(self) -> dict[str, float]:
        """What a step's metrics tell of it, beside speed."""
        found: dict[str, float] = {
            "steps": len(self.curve),
            "steps_left_out": self.left_out,
            "roll_backs": self.rolled_back,
            "anomalies_recorded": self.recorded,
            "resumed_at_step": self.resumed_at,
        }
        if self.curve:
            found["final_loss"] = self.curve[-1]["loss"]
        if self.best_step is not None:
            found["best_step"] = self.best_step
        return found


def fit(
    training: Training,
    *,
    label: str,
    run: Run,
    recorder: Recorder,
    validate: Validate,
    sample: Sample | None = None,
    save_model: SaveModel | None = None,
) -> Outcome:
    """Train `training.model` over all of its loader, going on from the newest checkpoint of `run`.

    `validate` gives the figures that the curve gets every so many steps, the first of them the one that makes weights the
    best; `sample` texts that show what the model has learnt. Neither may touch the global random generators. `save_model`
    writes a model folder, for the history. The model ends with its averaged or best weights, as the recipe says. Raises
    InkwellError when the run is stopped by an anomaly.
    """
    # Lightning tells of devices and of reaching the end; progress is the bar's business
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")
    recipe, kept, world = training.recipe, training.recipe.checkpoints, training.world
    shown = Bar(label, training.loader.total_rows)
    module = DecoderTraining(training, run, shown)

    def end(reason: str) -> None:
        run.log.close(f"after step {module.step_count}: {reason}")
        end_process(label, reason)

    # the others wait for whoever hangs, the leader among them; when it ends, its launcher ends them
    stops = recipe.anomalies.stall == "stop" and world.leader
    stalls = StallWatch(recipe.anomalies.stall_factor, module.tell, stop=end if stops else None)
    best = BestWeights(run.work / "best.pt") if kept.keep_best else None
    history = History(run, kept.history_every, save_model) if kept.history_every and save_model else None
    rolls_back = "roll_back" in (recipe.anomalies.spike, recipe.anomalies.not_finite)
    module.keeper = ExactResume(
        run,
        world,
        kept.minutes,
        kept.keep_last,
        anchor_every=recipe.anomalies.window if rolls_back else None,
        device=recipe.device,
        best=best,
    )
    trainer = Trainer(
        **world.trainer_options(recipe.device),
        max_epochs=1,  # Lightning's epoch is the whole run; the loader knows the corpus' epochs
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[Watch(shown, recorder, stalls, validate, sample, best, history), module.keeper],
        plugins=[StreamedFiles()],
        default_root_dir=run.work,
        use_distributed_sampler=False,
    )
    try:
        _train(trainer, module, stalls, shown, run)
        if module.average:
            module.average.keep()
        model = world.whole(training.model)
        best_step = None
        if model is not None:
            model.to("cpu").eval()
            leave_flash(model)
            leave_float8(model)
            best_step = best.take(model) if best else None
        outcome = _outcome(module, model, best_step)
        run.log.close(f"{outcome}; {stalls.stalls} stalls in this process")
        return outcome
    finally:
        if run.log.path is not None and run.log.path.exists():
            recorder.artifact(run.log.path)


def _train(trainer: Trainer, module: DecoderTraining, stalls: StallWatch, shown: Bar, run: Run) -> None:
    """Go on from the newest whole checkpoint to the end; how it ends otherwise is told in the run log."""
    checkpoint = module.world.decide(lambda: newest_whole(run.checkpoints, module.tell))
    if checkpoint is not None:
        module.tell(f"going on from {checkpoint.name}")
    elif run.resumes:
        module.tell("no checkpoint is whole: beginning anew")
    try:
        with stalls:
            trainer.fit(module, module.loader, ckpt_path=checkpoint, weights_only=True)
    except SystemExit as error:  # Lightning's way of passing on Ctrl-C and SIGTERM
        run.log.close(f"a signal after step {module.step_count}")
        if isinstance(error.__context__, KeyboardInterrupt):
            raise KeyboardInterrupt from None
        raise SystemExit(128 + signal.SIGTERM) from None
    except BaseException as error:
        run.log.close(f"after step {module.step_count}: {type(error).__name__} {error}".rstrip())
        raise
    finally:
        shown.close()


def _outcome(module: DecoderTraining, model: PreTrainedModel | None, best_step: int | None) -> Outcome:
    judge = module.judge
    return Outcome(
        module.curve,
        module.samples,
        module.clock.rate,
        module.resumed_at,
        module.earlier_seconds,
        left_out=judge.left_out,
        rolled_back=judge.rolled_back,
        recorded=judge.recorded,
        best_step=best_step,
        model=model,
    )


def write_curve(path: Path, curve: Sequence[Row]) -> None:
    """The learning curve as CSV, one row a step; cells of figures that a step has not are empty."""
    names: list[str] = []
    for row in curve:
        names += [name for name in row if name not in names]
    with atomic_file(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as handle:
        writer = csv.DictWriter(handle, names)
        writer.writeheader()
        writer.writerows(
            {k: (v if k in ("step", "rows", "tokens") else f"{v:.6g}") for k, v in row.items()} for row in curve
        )
