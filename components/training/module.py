"""The training of a decoder as a Lightning module: what one optimizer step does, and what of it a checkpoint holds.

A batch is a whole optimizer step, [A, B, T]; the loss is summed over all its counted targets and divided once, so that
accumulation changes nothing but memory. The learning curve lives inside the checkpoint: what a resumed run appends
follows exactly on what the checkpoint knew, and the curve has no seam.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch import LightningModule

from components.errors import InkwellError
from components.training.anomalies import Judge
from components.training.averaging import WeightAverage
from components.training.clock import Clock
from components.training.order import IGNORED

if TYPE_CHECKING:
    from torch.optim import Optimizer

    from components.progress import Bar
    from components.training.checkpoints import ExactResume
    from components.training.recipe import Training
    from components.training.run import Run

Row = dict[str, float]
_SMALLEST_SCALE = 1.0  # of fp16 losses; gradients that overflow even so are an anomaly


class DecoderTraining(LightningModule):
    """Next-token loss of a transformers decoder, several optimizers, a schedule by the share of rows seen."""

    def __init__(self, training: Training, run: Run, shown: Bar) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.model, self.loader, self.recipe = training.model, training.loader, training.recipe
        self.computation, self.world = training.computation, training.world
        self._make_optimizers = training.make_optimizers
        self._optimizers: list[Optimizer] = []
        self._peaks: list[list[float]] = []
        self._run, self._shown = run, shown
        self.average: WeightAverage | None = None
        self.scaler = torch.amp.GradScaler(self.recipe.device, enabled=self.recipe.loss_scaling)
        self.judge = Judge(self.recipe.anomalies)
        self.schedule = self.recipe.schedule
        self.keeper: ExactResume | None = None
        self.curve: list[Row] = []
        self.samples: list[dict[str, Any]] = []
        self.step_count = 0  # steps that moved the weights; those taken back by a roll-back do not count
        self.moved = False  # whether the last batch did
        self.tokens = 0  # predicted in the last batch
        self.clock = Clock()
        self.earlier_seconds = 0.0
        self.resumed_at = 0
        self._started = time.monotonic()

    def configure_model(self) -> None:
        """Divide the model among processes, before anything holds on to its weights."""
        self.world.prepare(self, self.model)
        if self.recipe.ema_decay:
            self.average = WeightAverage(self.model, self.recipe.ema_decay)

    def configure_optimizers(self) -> list[Optimizer]:
        """Optimizers of the weights as they are now; their rates are the peaks of the schedule."""
        self._optimizers = self.world.optimizers(self.model, self._make_optimizers)
        self._peaks = [[group["lr"] for group in optimizer.param_groups] for optimizer in self._optimizers]
        return self._optimizers

    def on_train_start(self) -> None:
        """A checkpoint has replaced the weights that the computation may have derived something from."""
        if self.resumed_at:
            self.computation.weights_changed()

    def tell(self, text: str) -> None:
        """A line for the person who watches, and in the run log."""
        self._shown.say(text)
        self._run.log.add(text)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """The curve travels with the weights that it led to, and the position with what was learnt up to it."""
        checkpoint["inkwell"] = {
            "curve": self.curve,
            "samples": self.samples,
            "step_count": self.step_count,
            "loader": self.loader.state_dict(),
            "warmup": self.schedule.warmup,
            "average": self.average.state_dict(self.world) if self.average else None,
            "scaler": self.scaler.state_dict(),
            "judge": self.judge.state_dict(),
            "clock": (self.clock.tokens, self.clock.seconds),
            "seconds": self.earlier_seconds + time.monotonic() - self._started,
        }
        self.clock.pause()  # writing the checkpoint is not training

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on where the checkpoint was written."""
        state = checkpoint["inkwell"]
        self.roll_back_to(state)
        self.judge.load_state_dict(state["judge"])
        self.loader.load_state_dict(state["loader"])  # before Lightning asks for the loader's length
        # a share of the rows: steps of another size than those that the run began with must not change it
        self.schedule = replace(self.schedule, warmup=state["warmup"])
        self.clock.tokens, self.clock.seconds = state["clock"]
        self.earlier_seconds = state["seconds"]
        self.resumed_at = self.step_count

    def roll_back_to(self, state: dict[str, Any]) -> None:
        """Take back what was learnt since: all but position in the data, time, and the count of what went wrong."""
        self.curve, self.samples, self.step_count = state["curve"], state["samples"], state["step_count"]
        self.judge.load_state_dict(state["judge"], events=False)
        if self.average:
            self.average.load_state_dict(state["average"])
        if self.recipe.loss_scaling:
            self.scaler.load_state_dict(state["scaler"])

    def training_step(self, batch: tuple[torch.Tensor, torch.Tensor, torch.Tensor], batch_index: int) -> None:
        """One optimizer step over all micro-batches of `batch`."""
        inputs_ABT, targets_ABT, numbers_ABT = batch
        begins, rows = self.loader.last
        whole = self.loader.total_rows
        factor = self.schedule.factor(begins / whole, rows / whole)
        (counted,) = self.world.sum(int((targets_ABT != IGNORED).sum()))
        share = self.world.loss_factor / max(1.0, counted)
        total = self.world.backward(self, list(self.recipe.passes(inputs_ABT, targets_ABT, numbers_ABT)), share)
        if self.recipe.loss_scaling:
            for optimizer in self._optimizers:
                self.scaler.unscale_(optimizer)
        norm = self.world.clip(self.model, self.recipe.gradient_clip)
        (summed,) = self.world.sum(float(total))  # read once a step: a GPU is waited for here
        loss_mean, self.tokens = summed / max(1.0, counted), int(counted)
        self.moved = self._allowed(loss_mean, norm)
        if self.moved:
            self._move(factor)
            self.curve.append(
                {
                    "step": self.step_count,
                    "rows": begins + rows,
                    "tokens": self.tokens,
                    "loss": loss_mean,
                    "gradient_norm": norm,
                    "rate_factor": factor,
                }
            )
        for optimizer in self._optimizers:
            optimizer.zero_grad(set_to_none=True)
        if self.recipe.loss_scaling:
            self.scaler.update()

    def _move(self, factor: float) -> None:
        for optimizer, peaks in zip(self._optimizers, self._peaks, strict=True):
            for group, peak in zip(optimizer.param_groups, peaks, strict=True):
                group["lr"] = peak * factor
        for optimizer in self.optimizers():  # Lightning's wrappers: they keep its step count
            optimizer.step()
        self.computation.weights_changed()
        if self.average:
            self.average.update()
        self.step_count += 1

    def _allowed(self, loss: float, norm: float) -> bool:
        """Whether this step may move the weights; what is wrong with it is told and answered as the parameters say."""
        overflows = math.isfinite(loss) and not math.isfinite(norm)
        if self.recipe.loss_scaling and overflows and self.scaler.get_scale() > _SMALLEST_SCALE:
            return False  # fp16: the scale of the loss was too high, and is halved now; nothing is wrong
        verdict = self.judge.look(loss, norm)
        if verdict is None:
            return True
        where = (
            f"step {self.step_count + 1} (rows {self.loader.last.start:,} to {self.loader.rows:,}): {verdict.reason}"
        )
        match verdict.action:
            case "record":
                self.tell(f"{where}; recorded")
                return True
            case "skip":
                self.tell(f"{where}; the step is left out")
            case "roll_back":
                self._roll_back(where)
            case "stop":
                raise InkwellError(
                    f"training stopped at {where}. The state before it is kept: change `anomalies` (a skip, say) and run "
                    "again to go on from the last checkpoint."
                )
        return False

    def _roll_back(self, where: str) -> None:
        before = self.step_count
        if self.keeper is None or not self.keeper.roll_back(self.trainer, self):
            raise InkwellError(f"training stopped at {where}; there is no undamaged checkpoint to roll back to.")
        self.computation.weights_changed()
        self.tell(f"{where}; rolled back from step {before} to step {self.step_count}, and the rows since are left out")

    def optimizers(self, use_pl_optimizer: bool = True) -> Any:
        """Always a list, also for a single optimizer."""
        found = super().optimizers(use_pl_optimizer)
        return found if isinstance(found, list) else [found]

    @contextmanager
    def shown_weights(self) -> Iterator[None]:
        """The model with the weights that it would end with now: the averaged ones, where there are some."""
        if self.average is None:
            yield
            return
        with self.average.applied():
            self.computation.weights_changed()
            yield
        self.computation.weights_changed()
