"""How long an optimizer step of a shape takes here: a few real ones, on documents of the corpus."""

from __future__ import annotations

import copy
import statistics
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from components.configuration.training import Parallel
from components.launch.processes import Place
from components.machine.cache import machine_identity, recall, remember
from components.model.architectures import build
from components.pretrain.pace import Pace
from components.training.bare_step import bare_step
from components.training.distributed import World
from components.training.recipe import prepare

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from components.configuration import Pretrain
    from components.machine.choices import Choices
    from components.training.order import Sequences

_STEPS = 1_000_000  # of the schedule: the first ones are slow to learn and cost the same


def step_timer(
    data: Sequences, vocabulary: int, choices: Choices, seconds: float = 2.0, initial: PreTrainedModel | None = None
) -> StepTimer:
    """Times steps of the parameters that it is handed, for about `seconds`, under `choices`, which have been applied.

    The same computation, optimizers and batches as in the run, without Lightning; compiling comes before the clock starts,
    and is done with when the run itself begins. initial: the weights that the run continues from, of which a copy is timed.
    """
    return StepTimer(data, vocabulary, choices, seconds, initial)


@dataclass(frozen=True)
class StepTimer:
    """A `components.pretrain.planning.Probe`; torch's generators are left as they were."""

    data: Sequences
    vocabulary: int
    choices: Choices
    seconds: float
    initial: PreTrainedModel | None

    def __call__(self, parameters: Pretrain) -> float:
        """Median seconds of an optimizer step."""
        print(
            f"  timing a few steps of {parameters.layers} layers, {parameters.hidden_size} wide, "
            f"{parameters.micro_batch * parameters.accumulation} rows of {parameters.block} tokens",
            flush=True,
        )
        with torch.random.fork_rng(devices=[]):
            model = copy.deepcopy(self.initial) if self.initial else build(parameters, self.vocabulary)
            return _median_step(parameters, model, self.data, self.choices, self.seconds)

    def known(self, parameters: Pretrain) -> Pace | None:
        """What earlier runs like this one measured on this machine (`components.machine.cache`)."""
        found = recall("pace", self._identity(parameters))
        try:
            return Pace(tuple((int(width), float(rate)) for width, rate in found["measured"])) if found else None
        except (LookupError, TypeError, ValueError):  # written by another version
            return None

    def learn(self, parameters: Pretrain, pace: Pace) -> None:
        """Keep it for the next run, beside the widths that were known before and are not in it."""
        known = self.known(parameters)
        points = {**dict(known.measured if known else ()), **dict(pace.measured)}
        remember("pace", self._identity(parameters), {"measured": sorted(points.items())})

    def _identity(self, parameters: Pretrain) -> dict[str, object]:
        """What the operations a second of a width depend on; shape and batch are in the curve and in its operations."""
        import transformers

        named = ("device", "threads", "precision", "float32_onednn", "compile", "fused")
        used = {name: getattr(self.choices, name) for name in named}
        kind = {
            name: getattr(parameters, name)
            for name in ("architecture", "optimizer", "block", "activation_checkpointing")
        }
        return {**machine_identity(), "transformers": transformers.__version__, **used, **kind}


def _median_step(
    parameters: Pretrain, model: PreTrainedModel, data: Sequences, choices: Choices, seconds: float
) -> float:
    training = prepare(
        parameters.model_copy(update={"steps": _STEPS}),
        model.to(choices.device),  # type: ignore[arg-type]
        data,
        0,
        choices,
        World(Place(), Parallel()),
        residual_dropout=parameters.residual_dropout,
    )
    optimizers = training.make_optimizers(model)
    spent: list[float] = []
    began = time.perf_counter()
    for batch in training.loader:
        started = time.perf_counter()
        bare_step(training, optimizers, [tensor.to(choices.device) for tensor in batch])
        if choices.device != "cpu":
            getattr(torch, choices.device).synchronize()
        now = time.perf_counter()
        spent.append(now - started)
        if len(spent) == 1:
            began = now  # the first step compiles and fills caches
        elif len(spent) > 2 and now - began >= seconds:
            break
    return statistics.median(spent[1:])
