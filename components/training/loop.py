"""Training a decoder with Lightning: the one loop behind `pretrain` and `sft`.

A batch is a whole optimizer step, [A, B, T]; the loss is summed over all its counted targets and divided once, so that
accumulation changes nothing but memory. The learning curve lives inside the checkpoint: what a resumed run appends
follows exactly on what the checkpoint knew, and the curve has no seam.
"""

from __future__ import annotations

import csv
import logging
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from components.atomic import atomic_file
from components.progress import Bar
from components.training.checkpoints import ExactResume
from components.training.computation import Computation, StockComputation
from components.training.order import IGNORED, PackedLoader

if TYPE_CHECKING:
    from torch.optim import Optimizer
    from transformers import PreTrainedModel

    from components.tracking import Recorder

Row = dict[str, float]


@dataclass(frozen=True)
class Recipe:
    """How to train, apart from model and data. `factor(step)` scales every learning rate."""

    factor: Callable[[int], float]
    gradient_clip: float
    bf16: bool
    compile: bool
    device: str
    checkpoint_minutes: float
    validation_every: int
    sample_every: int | None = None


@dataclass
class Outcome:
    """What a run left behind: the curve, samples by step, speed and time over all processes that worked on it.

    `tokens_per_second` counts predicted tokens over the seconds of training steps: compiling, validation, samples and
    checkpoints are left out. `earlier_seconds` passed in processes before this one, up to their last checkpoints.
    """

    curve: list[Row]
    samples: list[dict[str, Any]]
    tokens_per_second: float
    resumed_at: int
    earlier_seconds: float


@dataclass
class _Clock:
    """Tokens and seconds of training steps, the first of a process left out: it compiles."""

    tokens: int = 0
    seconds: float = 0.0
    last: float | None = None
    warm: bool = False

    def begin(self) -> None:
        """A step begins; after a pause time runs again from here."""
        if self.warm and self.last is None:
            self.last = time.perf_counter()

    def tick(self, tokens: int) -> None:
        """A step of that many predicted tokens has ended."""
        now = time.perf_counter()
        if self.last is not None:
            self.tokens += tokens
            self.seconds += now - self.last
        self.last, self.warm = now, True

    def pause(self) -> None:
        """What follows (validation, samples, a checkpoint) is not training."""
        self.last = None

    @property
    def rate(self) -> float:
        return self.tokens / self.seconds if self.seconds else 0.0


class DecoderTraining(LightningModule):
    """Next-token loss of a transformers decoder, several optimizers, a schedule by step."""

    def __init__(self, model: PreTrainedModel, optimizers: Sequence[Optimizer], recipe: Recipe) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.model = model
        self.recipe = recipe
        self._optimizers = list(optimizers)
        self._peaks = [[group["lr"] for group in optimizer.param_groups] for optimizer in optimizers]
        self.computation: Computation = StockComputation(model, bf16=recipe.bf16, compile=recipe.compile)
        self.curve: list[Row] = []
        self.samples: list[dict[str, Any]] = []
        self.step_count = 0
        self.clock = _Clock()
        self.earlier_seconds = 0.0
        self.resumed_at = 0
        self._started = time.monotonic()

    def configure_optimizers(self) -> list[Optimizer]:
        """The optimizers that the step was given."""
        return self._optimizers

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """The curve travels with the weights that it led to."""
        checkpoint["inkwell"] = {
            "curve": self.curve,
            "samples": self.samples,
            "step_count": self.step_count,
            "clock": (self.clock.tokens, self.clock.seconds),
            "seconds": self.earlier_seconds + time.monotonic() - self._started,
        }
        self.clock.pause()  # writing the checkpoint is not training

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take the curve up again."""
        state = checkpoint["inkwell"]
        self.curve, self.samples, self.step_count = state["curve"], state["samples"], state["step_count"]
        self.clock.tokens, self.clock.seconds = state["clock"]
        self.earlier_seconds = state["seconds"]
        self.resumed_at = self.step_count

    def training_step(self, batch: tuple[torch.Tensor, torch.Tensor, torch.Tensor], batch_index: int) -> None:
        """One optimizer step over all micro-batches of `batch`."""
        inputs_ABT, targets_ABT, numbers_ABT = batch
        count = int((targets_ABT != IGNORED).sum())
        factor = self.recipe.factor(self.step_count)
        total = 0.0
        for inputs_BT, targets_BT, numbers_BT in zip(inputs_ABT, targets_ABT, numbers_ABT, strict=True):
            loss = self.computation.loss_sum(inputs_BT, targets_BT, numbers_BT) / max(1, count)
            self.manual_backward(loss)
            total += loss.item()
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.gradient_clip)
        for optimizer, peaks in zip(self._optimizers, self._peaks, strict=True):
            for group, peak in zip(optimizer.param_groups, peaks, strict=True):
                group["lr"] = peak * factor
        for optimizer in self.optimizers():  # Lightning's wrappers: they keep its step count
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self.computation.weights_changed()
        self.step_count += 1
        self.curve.append(
            {
                "step": self.step_count,
                "tokens": count,
                "loss": total,
                "gradient_norm": float(norm),
                "rate_factor": factor,
            }
        )

    def optimizers(self, use_pl_optimizer: bool = True) -> Any:
        """Always a list, also for a single optimizer."""
        found = super().optimizers(use_pl_optimizer)
        return found if isinstance(found, list) else [found]


class _Watch(Callback):
    """Validation, samples, progress and live metrics."""

    def __init__(
        self,
        steps: int,
        shown: Bar,
        recorder: Recorder,
        validate: Callable[[PreTrainedModel], Mapping[str, float]],
        sample: Callable[[PreTrainedModel], Sequence[str]] | None,
    ) -> None:
        self.steps, self.shown, self.recorder = steps, shown, recorder
        self.validate, self.sample = validate, sample

    def on_train_start(self, trainer: Trainer, pl_module: DecoderTraining) -> None:  # type: ignore[override]
        self.shown.resume_at(pl_module.step_count)

    def on_train_batch_start(  # type: ignore[override]
        self, trainer: Trainer, pl_module: DecoderTraining, batch: Any, batch_idx: int
    ) -> None:
        pl_module.clock.begin()

    def on_train_batch_end(  # type: ignore[override]
        self, trainer: Trainer, pl_module: DecoderTraining, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        module, step = pl_module, pl_module.step_count
        row = module.curve[-1]
        module.clock.tick(int(row["tokens"]))
        if step % module.recipe.validation_every == 0 or step == self.steps:
            row.update(self.validate(module.model))
            module.clock.pause()
        every = module.recipe.sample_every
        if self.sample is not None and every and (step % every == 0 or step == self.steps):
            module.model.eval()  # dropout would change the samples, and draw from the training's generator
            texts = list(self.sample(module.model))
            module.model.train()
            module.samples.append({"step": step, "texts": texts})
            if texts:
                self.shown.say(f"step {step}: " + " / ".join(texts[0].split("\n"))[:76])
            module.clock.pause()
        note = f"loss {row['loss']:.3f}, {module.clock.rate:,.0f} tokens/s"
        self.shown.advance(1, note)
        self.recorder.metrics({k: v for k, v in row.items() if k != "step"}, at=step)


def fit(
    model: PreTrainedModel,
    optimizers: Sequence[Optimizer],
    loader: PackedLoader,
    recipe: Recipe,
    *,
    label: str,
    work: Path,
    recorder: Recorder,
    validate: Callable[[PreTrainedModel], Mapping[str, float]],
    sample: Callable[[PreTrainedModel], Sequence[str]] | None = None,
) -> Outcome:
    """Train `model` in place over all of `loader`, going on from `work/last.ckpt` when it is there.

    `work` belongs to this data, seed and parameters alone (`Context.work_folder`); `validate` gives the figures that
    the curve gets every `validation_every` steps, `sample` texts that show what the model has learnt. Neither may
    touch the global random generators.
    """
    # Lightning tells of devices and of reaching the end; progress is the bar's business
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")
    checkpoint = work / "last.ckpt"
    model.train()  # a loaded model is in evaluation mode, and Lightning leaves that as it finds it
    module = DecoderTraining(model, optimizers, recipe)
    shown = Bar(label, len(loader))
    watch = _Watch(len(loader), shown, recorder, validate, sample)
    trainer = Trainer(
        accelerator={"cpu": "cpu", "cuda": "gpu", "mps": "mps"}[recipe.device],
        devices=1,
        max_epochs=1,  # Lightning's epoch is the whole run; the loader knows the corpus' epochs
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[watch, ExactResume(checkpoint, recipe.checkpoint_minutes)],
        default_root_dir=work,
        use_distributed_sampler=False,
    )
    if checkpoint.exists():
        shown.say(f"going on from {checkpoint}")
    try:
        # weights_only=False: the file is our own, written beside this run, and holds random states
        trainer.fit(module, loader, ckpt_path=checkpoint if checkpoint.exists() else None, weights_only=False)
    finally:
        shown.close()
    if trainer.interrupted:
        raise KeyboardInterrupt
    return Outcome(module.curve, module.samples, module.clock.rate, module.resumed_at, module.earlier_seconds)


def write_curve(path: Path, curve: Sequence[Row]) -> None:
    """The learning curve as CSV, one row a step; cells of figures that a step has not are empty."""
    names: list[str] = []
    for row in curve:
        names += [name for name in row if name not in names]
    with atomic_file(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as handle:
        writer = csv.DictWriter(handle, names)
        writer.writeheader()
        writer.writerows({k: (v if k in ("step", "tokens") else f"{v:.6g}") for k, v in row.items()} for row in curve)
