"""A training step without the loop around it: what steps are timed with, and what the loop is measured against."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from components.training.order import IGNORED

if TYPE_CHECKING:
    from torch.optim import Optimizer

    from components.training.recipe import Training


def bare_step(training: Training, optimizers: Sequence[Optimizer], batch: Sequence[torch.Tensor]) -> float:
    """One optimizer step with nothing around it, as a person would write it by hand; returns its loss, nats a token.

    batch: inputs, targets and sequence numbers of a step as the training's loader gives them, where the model is.
    """
    counted = max(1, int((batch[1] != IGNORED).sum()))
    total = 0.0
    for part in training.recipe.passes(*batch):
        loss = training.computation.loss_sum(*part) / counted
        loss.backward()
        total = total + loss.detach()
    value = float(total)  # a loop that never reads its loss is nobody's
    torch.nn.utils.clip_grad_norm_(training.model.parameters(), training.recipe.gradient_clip)
    for optimizer in optimizers:
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    training.computation.weights_changed()
    return value
