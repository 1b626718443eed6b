"""How a model is trained, put together from parameters: the same builder for `pretrain` and `sft`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch

from components.errors import InkwellError
from components.training.computation import Computation, computation_for
from components.training.distributed import World
from components.training.optimizers import adamw, muon_and_adamw
from components.training.order import PackedLoader, Sequences
from components.training.residual_dropout import add_residual_dropout
from components.training.schedules import Schedule

if TYPE_CHECKING:
    from torch.optim import Optimizer
    from transformers import PreTrainedModel

    from components.configuration.training import Anomalies, Checkpoints, Optimization
    from components.machine.choices import Choices


@dataclass(frozen=True)
class Recipe:
    """How to train, apart from model and data.

    loss_scaling: for fp16, whose gradients would vanish without it. micro_batch_parts: into how many parts a micro-batch is
    cut, because fewer rows at once are faster here; the outcome is the same within rounding.
    """

    schedule: Schedule
    gradient_clip: float
    ema_decay: float
    device: str
    loss_scaling: bool
    checkpoints: Checkpoints
    anomalies: Anomalies
    validation_every: int
    sample_every: int | None = None
    micro_batch_parts: int = 1

    def passes(self, *batch: torch.Tensor) -> Iterator[tuple[torch.Tensor, ...]]:
        """The micro-batches of a step, [A, B, T] each of `batch`, cut into the parts that the machine is fastest with."""
        for micro_batch in zip(*batch, strict=True):
            yield from zip(*(tensor.chunk(self.micro_batch_parts) for tensor in micro_batch), strict=True)


@dataclass
class Training:
    """Everything that `components.training.loop.fit` needs to train `model` in place.

    `make_optimizers` is called when the model is where it will train: a strategy may divide its weights before.
    """

    model: PreTrainedModel
    loader: PackedLoader
    make_optimizers: Callable[[PreTrainedModel], list[Optimizer]]
    computation: Computation
    recipe: Recipe
    world: World


def prepare(
    parameters: Optimization,
    model: PreTrainedModel,
    data: Sequences,
    seed: int,
    choices: Choices,
    world: World,
    *,
    adapters: bool = False,
    residual_dropout: float = 0.0,
    sample_every: int | None = None,
) -> Training:
    """Loader, optimizers, schedule and computation of a run over `data`.

    adapters: `model` carries LoRA adapters, which AdamW trains and which are too few to pay for compiling.
    residual_dropout: share of what blocks add to the residual stream that is dropped.
    """
    loader = PackedLoader(
        data,
        steps=parameters.steps,
        accumulation=parameters.accumulation,
        micro_batch=parameters.micro_batch,
        block=parameters.block,
        seed=seed,
        ramp=parameters.batch_ramp,
        rank=world.replica,
        world=world.replicas,
    )
    world.check(model, parameters.block, choices.precision)
    world.seed(seed)
    choices.prepare(model)
    model.train()  # a loaded model is in evaluation mode
    add_residual_dropout(model, residual_dropout)
    if parameters.activation_checkpointing:
        model.activation_checkpointing_enable({"use_reentrant": False})
    recipe = Recipe(
        schedule=Schedule(
            parameters.schedule, min(1.0, parameters.warmup_steps / parameters.steps), parameters.decay_fraction
        ),
        gradient_clip=parameters.gradient_clip,
        ema_decay=parameters.ema_decay,
        device=choices.device,
        loss_scaling=choices.precision == "fp16",
        micro_batch_parts=choices.micro_batch_parts,
        checkpoints=parameters.checkpoints,
        anomalies=parameters.anomalies,
        validation_every=parameters.validation_every,
        sample_every=sample_every,
    )
    if not world.stock_modules:  # else the strategy moves each process's share
        # before anything is derived from the weights; Lightning would move them only when that has been done
        model.to(torch.device(choices.device))
    # adapters are too few to pay for compiling; modules that a strategy has taken in hand are compiled block by block
    compiles = choices.compile and not adapters
    world.compile_blocks = compiles and world.stock_modules
    computation = computation_for(
        model,
        dtype=choices.dtype,
        compile=compiles and not world.stock_modules,
        fused=choices.fused,
        stock_modules=world.stock_modules,
        residual_dropout=residual_dropout,
    )
    make_optimizers = partial(optimizers_for, parameters, adapters, muon_bf16=choices.muon_bf16)
    return Training(model, loader, make_optimizers, computation, recipe, world)


def check_ramp(section: str, parameters: Optimization) -> None:
    """Raise InkwellError for a batch that is to grow and has nowhere to grow to."""
    if parameters.batch_ramp and parameters.accumulation == 1:
        raise InkwellError(
            f"{section}.batch_ramp = {parameters.batch_ramp:g}: the batch grows from one forward pass to {section}.accumulation, "
            f"which is 1: raise it and lower {section}.micro_batch (with a dial, keep both), or set batch_ramp to 0."
        )


def optimizers_for(
    parameters: Optimization, adapters: bool, model: PreTrainedModel, *, muon_bf16: bool = True
) -> list[Optimizer]:
    """The optimizers that `parameters` ask for over the weights of `model`; muon_bf16: what Muon iterates in."""
    if adapters or parameters.optimizer == "adamw":
        return adamw(model, learning_rate=parameters.learning_rate, weight_decay=parameters.weight_decay)
    return muon_and_adamw(
        model,
        matrix_learning_rate=parameters.matrix_learning_rate,
        embedding_learning_rate=parameters.embedding_learning_rate,
        learning_rate=parameters.learning_rate,
        weight_decay=parameters.weight_decay,
        muon_bf16=muon_bf16,
    )
