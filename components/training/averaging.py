"""Exponential moving average of the weights: what validation sees and the run ends with."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

from components.training.shares import share_of

if TYPE_CHECKING:
    from torch import nn

    from components.training.distributed import World


class WeightAverage:
    """average <- d average + (1 - d) weights after every step (Polyak and Juditsky 1992), for all trained weights of `model`.

    d rises as (1 + n) / (10 + n) over the updates n until it reaches `decay`: the random weights of the start would
    else weigh on the average for 1 / (1 - decay) steps (as TensorFlow's moving average does).
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.updates = 0
        trained = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
        self._names, self._weights = list(trained), list(trained.values())
        self._averages = [weight.detach().clone() for weight in self._weights]

    @torch.no_grad()
    def update(self) -> None:
        """Take in the weights of one more step."""
        self.updates += 1
        self._follow()
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        torch._foreach_lerp_(self._averages, [weight.detach() for weight in self._weights], 1 - decay)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Inside the block the model holds the averages, after it its own weights again, bit for bit."""
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    def _follow(self) -> None:
        """Averages lie where the weights lie: a strategy may move its share of a model after this was made."""
        if self._averages and self._averages[0].device != self._weights[0].device:
            pairs = zip(self._averages, self._weights, strict=True)
            self._averages = [average.to(weight.device) for average, weight in pairs]

    @torch.no_grad()
    def keep(self) -> None:
        """Leave the averages in the model."""
        for weight, average in zip(self._weights, self._averages, strict=True):
            weight.copy_(average)

    def state_dict(self, world: World) -> dict[str, Any]:
        """Whole averages by the names of their weights, on the leader; all processes must ask."""
        return {"updates": self.updates, "averages": world.collect(dict(zip(self._names, self._averages, strict=True)))}

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up the averages of a checkpoint."""
        self.updates = state["updates"]
        self._follow()
        for name, average in zip(self._names, self._averages, strict=True):
            average.copy_(share_of(state["averages"][name], average))

    @torch.no_grad()
    def _exchange(self) -> None:
        self._follow()
        for weight, average in zip(self._weights, self._averages, strict=True):
            held = weight.clone()
            weight.copy_(average)
            average.copy_(held)
