"""What a person sees of a run while it works: progress, validations, samples, live figures; and models that are kept."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning.pytorch import Callback, Trainer
from safetensors import SafetensorError

from components.atomic import atomic_folder
from components.machine.precision import without_float8
from components.model.forward import without_flash
from components.training.anomalies import StallWatch

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from components.progress import Bar
    from components.tracking import Recorder
    from components.training.checkpoints import BestWeights
    from components.training.module import DecoderTraining
    from components.training.run import Run

Validate = Callable[["PreTrainedModel"], Mapping[str, float]]
Sample = Callable[["PreTrainedModel"], Sequence[str]]
SaveModel = Callable[["PreTrainedModel", Path], None]


class Watch(Callback):
    """Validation, samples, progress and live metrics after every step that moved the weights."""

    def __init__(
        self,
        shown: Bar,
        recorder: Recorder,
        stalls: StallWatch,
        validate: Validate,
        sample: Sample | None,
        best: BestWeights | None,
        history: History | None,
    ) -> None:
        self.shown, self.recorder, self.stalls = shown, recorder, stalls
        self.validate, self.sample, self.best, self.history = validate, sample, best, history
        self._looked_at: int | None = None

    def on_train_start(self, trainer: Trainer, pl_module: DecoderTraining) -> None:  # type: ignore[override]
        """Go on with the bar where the process before ended; from now on stalls are seen, those of reading too."""
        pl_module.loader.before_reading = lambda: self.stalls.begin(pl_module.step_count + 1)
        self.shown.total = pl_module.loader.total_rows
        self.shown.resume_at(pl_module.loader.rows)

    def on_train_batch_start(  # type: ignore[override]
        self, trainer: Trainer, pl_module: DecoderTraining, batch: Any, batch_idx: int
    ) -> None:
        """A step begins."""
        pl_module.clock.begin()

    def on_train_batch_end(  # type: ignore[override]
        self, trainer: Trainer, pl_module: DecoderTraining, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Measure, show and record the step."""
        self.stalls.end()
        module, note = pl_module, ""
        module.clock.tick(module.tokens)
        last = module.loader.rows >= module.loader.total_rows
        if module.curve and (module.moved or (last and module.step_count != self._looked_at)):
            row, step = module.curve[-1], module.step_count
            self._look(module, row, step, last)
            self.recorder.metrics({name: value for name, value in row.items() if name != "step"}, at=step)
            note = f"loss {row['loss']:.3f}, {module.clock.rate:,.0f} tokens/s"
        self.shown.advance(module.loader.last.rows, note)

    def _look(self, module: DecoderTraining, row: dict[str, float], step: int, last: bool) -> None:
        recipe = module.recipe
        keeps = self.history is not None and self.history.due(step)
        validates = step % recipe.validation_every == 0 or last or keeps
        samples = self.sample is not None and recipe.sample_every and (step % recipe.sample_every == 0 or last)
        if not (validates or samples):
            return

        self._looked_at = step

        def look(model: PreTrainedModel) -> tuple[dict[str, float], list[str]]:
            """All that the whole model is needed for; dropout would change it, and draw from the training's generator."""
            figures: dict[str, float] = {}
            model.eval()
            with without_flash(model), without_float8(model):
                if validates:
                    figures = dict(self.validate(model))
                    self._offer(module, model, step, figures)
                if keeps and self.history is not None:
                    self.history.keep(module, model, {**row, **figures})
                texts = list(self.sample(model)) if samples and self.sample is not None else []
            model.train()
            return figures, texts

        with module.shown_weights():
            figures, texts = module.world.look(module.model, look)
        row.update(figures)
        if samples:
            module.samples.append({"step": step, "texts": texts})
        if texts:
            self.shown.say(f"step {step}: " + " / ".join(texts[0].split("\n"))[:76])
        module.clock.pause()

    def _offer(self, module: DecoderTraining, model: PreTrainedModel, step: int, figures: Mapping[str, float]) -> None:
        if self.best is None:
            return
        try:
            self.best.offer(model, step, next(iter(figures.values())))
        except OSError as error:
            reason = error.strerror or error
            module.tell(f"the best weights so far (step {step}) were not written ({reason}): held in memory")


class History:
    """Model folders that are kept for ever, every `every` steps: `<folder>/step-00000100`, each with `position.json`.

    As OLMo (Groeneveld et al. 2024) and LLM360 (Liu et al. 2023) publish: what the model was, how much and which part of
    the data it had seen, and how it did. States of optimizers are three times the weights and are not among them; a run
    that was killed goes on from its checkpoints.
    """

    def __init__(self, run: Run, every: int, save_model: SaveModel) -> None:
        self.folder, self.every, self.save_model = run.history, every, save_model

    def due(self, step: int) -> bool:
        """Whether the model of that step is kept."""
        return step % self.every == 0

    def keep(self, module: DecoderTraining, model: PreTrainedModel, row: Mapping[str, float]) -> None:
        """Write `model` as it is shown, with its place in the data; a full disk is told and survived."""
        loader = module.loader
        position = {
            **row,
            "total_rows": loader.total_rows,
            "epoch": loader.epoch,
            "block": loader.block,
            "seed": loader.seed,
            "data_fingerprint": loader.data.fingerprint,
            "averaged": module.average is not None,
        }
        target = self.folder / f"step-{int(row['step']):08}"
        try:
            with atomic_folder(target) as temporary:
                self.save_model(model, temporary / "model")
                for file in (temporary / "model").iterdir():
                    file.rename(temporary / file.name)
                (temporary / "model").rmdir()
                (temporary / "position.json").write_text(json.dumps(position, indent=1) + "\n", encoding="utf-8")
        except (OSError, SafetensorError) as error:  # the latter: no room for the weights
            module.tell(f"the model of step {row['step']} was not kept ({getattr(error, 'strerror', None) or error})")
